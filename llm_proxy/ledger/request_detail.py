"""One request as lines of text: who called, each attempt at a provider, how it ended or was rejected.

Pure. Invariants: nothing is printed that the stored record does not contain; unknown values are called
unknown. The sidecar's log (`llm_calls`) has the times of attempts, the record their order and status.
"""

from collections.abc import Container
from datetime import datetime
from typing import Any

from llm_proxy.identity.caller import PERIOD_SUFFIX, SHARED_SCOPES
from llm_proxy.json_access import Json

_ANSWERED = 200


def describe_request(found: Json) -> list[str]:
    """The lines of a record with its model calls, or of a refusal."""
    if found.get("outcome") == "refused":
        return [_caller_line(found, found["refused_at"]), _rejection_line(found)]
    return [_caller_line(found, found["started_at"]), *_attempt_lines(found), _end_line(found)]


def describe_limit(reached: Json) -> str:
    """A limit that was reached: whose, how full, what was wanted, the wait."""
    unit, scope = reached["unit"], reached["scope"]
    per = PERIOD_SUFFIX.get(
        reached.get("period", ""), " a minute" if unit in {"requests", "tokens"} else " at once"
    )
    told = [f"{reached['kind']} of {reached['subject']} (scope {scope})"]
    if "limit" in reached:
        used = _amount_without_unit(reached["used"], unit) if "used" in reached else "an unknown part"
        full = f"{used} of {_amount(reached['limit'], unit)}{per} used"
        held = f", {_amount(reached['held'], unit)} held by {_amount(reached['running'], 'running calls')}"
        kept = f", {_amount(reached['kept'], unit)} kept for a call that waits"
        some = [text for text, name in ((held, "held"), (kept, "kept")) if float(reached.get(name) or 0)]
        told.append(full + "".join(some))
    if "wanted" in reached:
        told.append(f"wanted {_amount(reached['wanted'], unit)}")
    if "wait_ms" in reached:
        told.append(f"wait {reached['wait_ms'] / 1000:g} s")
    if "resets_at" in reached:
        told.append(f"resets {reached['resets_at']}")
    return "; ".join(told)


def _amount(amount: object, unit: str) -> str:
    if unit == "usd":
        return _amount_without_unit(amount, unit)
    return f"{_amount_without_unit(amount, unit)} {unit.removesuffix('s') if amount == 1 else unit}"


def _amount_without_unit(amount: object, unit: str) -> str:
    """An amount without its unit, money with its sign."""
    if unit == "usd":
        whole, _, rest = str(amount).partition(".")
        return f"${whole}.{rest.rstrip('0').ljust(2, '0')}"
    return f"{amount:,}"


def _caller_line(found: Json, at: datetime) -> str:
    names = {
        "key": found.get("key_name") or found.get("key_prefix") or found.get("key_id"),
        "tenant": found.get("tenant"),
        "agent": found.get("agent"),
        "user": found.get("user_id"),
    }
    who = ", ".join(f"{name} {value}" for name, value in names.items() if value) or "no known caller"
    model = found.get("group_asked") or found.get("model_group") or "no model yet"
    return f"{_time_text(at)} {found.get('door') or 'a request'} for {model} by {who}"


def _rejection_line(found: Json) -> str:
    head = f"refused with {found['status']} {found['code'] or ''} by {found['refused_by']}".replace("  ", " ")
    return f"{head}: {describe_limit(found['reached'])}" if found.get("reached") else head


def _attempt_lines(found: Json) -> list[str]:
    calls: list[Json] = list(found.get("model_calls") or ())
    hops: list[list[Any]] = found.get("hops") or []
    if not hops:
        hops = [[one["model_group"], one["deployment"], one["http_status"]] for one in calls]
    if not hops and found.get("deployment"):
        hops = [[found["model_group"], found["deployment"], _provider_status(found)]]
    message = found.get("provider_message")
    lines: list[str] = []
    for number, (group, deployment, status) in enumerate(hops, 1):
        call = _take_logged_call(calls, number, deployment, answered=status == _ANSWERED)
        why = message if number == len(hops) and status != _ANSWERED else None
        unknown = call is None and bool(found.get("model_calls"))
        lines.append(
            f"hop {number}: {group} at {deployment}: {_attempt_text(status, call, why, unknown=unknown)}"
        )
    if hops and not found.get("model_calls"):
        lines.append("the sidecar's log has nothing of this call (yet): when each hop was is not known")
    elif not hops:
        lines.append(
            "no hop: the response cache answered"
            if found.get("cache") == "hit"
            else "no hop is known: nothing was sent to a provider, or nobody says"
        )
    return lines


def _provider_status(found: Json) -> int | None:
    return _ANSWERED if found["outcome"] == "ok" else None


def _take_logged_call(calls: list[Json], number: int, deployment: str, *, answered: bool) -> Json | None:
    """The sidecar's row of a hop, taken from those not told yet; None where it has none."""
    exact = next((one for one in calls if str(one["attempt"]).startswith(f"failure:{number}:")), None)
    alike = (
        one for one in calls if one["deployment"] == deployment and (one["status"] == "success") == answered
    )
    call = exact if exact is not None and not answered else next(alike, None)
    if call is not None:
        calls.remove(call)
    return call


def _attempt_text(status: int | None, call: Json | None, message: str | None, *, unknown: bool) -> str:
    told = [f"status {status}" if status else "no status"]
    if call is not None:
        began, ended = call["started_at"], call["ended_at"]
        took = f", {(ended - began).total_seconds() * 1000:,.0f} ms" if ended else ""
        told.append(f"{_time_text(began)}{took}")
        if message is None and call.get("error_class"):
            told.append(str(call["error_class"]))
    if unknown:
        told.append("time not known")
    if message is not None:
        told.append(message)
    return "; ".join(told)


def _end_line(found: Json) -> str:
    status = found["status"]
    nothing = " with its worker" if found["outcome"] == "lost" else ", the caller was sent nothing"
    told = [f"ended {found['outcome']}" + (f" with {status}" if status else nothing)]
    if found.get("refusal_code"):
        told.append(found["refusal_code"])
    told.append(f"after {found['latency_ms']:,.0f} ms")
    tokens = found.get("prompt_tokens"), found.get("completion_tokens")
    told.append("tokens unknown" if None in tokens else f"{tokens[0]} + {tokens[1]} tokens")
    cost = found.get("cost_usd")
    told.append("cost unknown" if cost is None else f"${cost:f}")
    if found.get("would_refuse"):
        told.append(f"limits in shadow would have refused it: {found['would_refuse']}")
    return ", ".join(told)


def _time_text(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"


def redact_for_key(found: Json, heard: Container[object]) -> Json:
    """The answer for a key: the provider's words only where its caller heard them."""
    shown = dict(found)
    if shown.get("status") not in heard:
        shown.pop("provider_message", None)
        unheard = ("error_class", "normalized_error")
        shown["model_calls"] = [
            {name: value for name, value in call.items() if name not in unheard}
            for call in shown.get("model_calls", ())
        ]
    reached = shown.get("reached")
    if reached and reached["scope"] in SHARED_SCOPES:
        told = ("kind", "scope", "subject", "unit", "wait_ms")
        shown["reached"] = {name: reached[name] for name in told if name in reached}
    return shown
