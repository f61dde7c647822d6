"""One request as lines of text: who called, each attempt at a provider, how it ended or was rejected.

Pure. Invariants: nothing is printed that the stored record does not contain; unknown values are called
unknown. The sidecar's log (`llm_calls`) has the times of attempts, the record their order and status.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from llm_proxy.identity.caller import PERIOD_SUFFIX, SHARED_SCOPES
from llm_proxy.json_access import Json, as_object
from llm_proxy.quantities import QUANTITY_OF_UNIT, shown_amount, unit_text

_OK_STATUS = 200


def describe_request(request: Json) -> list[str]:
    """Returns the lines of a request: of its record with its model calls, or of its rejection."""
    if request.get("outcome") == "refused":
        return [_caller_line(request, request["refused_at"]), _rejection_line(request)]
    return [_caller_line(request, request["started_at"]), *_attempt_lines(request), _end_line(request)]


def describe_limit(reached: Json, request: Json | None = None) -> str:
    """Returns a reached limit as text: its subject, its use, what was requested, and the wait.

    A key is named by its name, where the row of the request has it.
    """
    unit, scope = reached["unit"], reached["scope"]
    per = PERIOD_SUFFIX.get(
        reached.get("period", ""), " a minute" if unit in {"requests", "tokens"} else " at once"
    )
    if scope == "run" and reached["kind"] in {"budget", "duration"}:
        per = ""
    parts = [f"{reached['kind']} of {_subject_of(reached, request or {})} (scope {scope})"]
    if "limit" in reached:
        used = _amount_without_unit(reached["used"], unit) if "used" in reached else "an unknown part"
        full = f"{used} of {_amount(reached['limit'], unit)}{per} used"
        held = f", {_amount(reached['held'], unit)} held by {_amount(reached['running'], 'running calls')}"
        kept = f", {_amount(reached['kept'], unit)} kept for a call that waits"
        some = [text for text, name in ((held, "held"), (kept, "kept")) if float(reached.get(name) or 0)]
        parts.append(full + "".join(some))
    if "wanted" in reached:
        parts.append(f"wanted {_amount(reached['wanted'], unit)}")
    if "wait_ms" in reached:
        parts.append(f"wait {reached['wait_ms'] / 1000:g} s")
    if "resets_at" in reached:
        resets_at = datetime.fromisoformat(reached["resets_at"])
        parts.append(f"resets {resets_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
    return "; ".join(parts)


def _subject_of(reached: Json, request: Json) -> str:
    is_key = request.get("key_name") and reached["subject"] == f"key {request.get('key_prefix')}"
    return f"key {request['key_name']}" if is_key else reached["subject"]


def _amount(amount: object, unit: str) -> str:
    if unit == "usd":
        return _amount_without_unit(amount, unit)
    return unit_text(cast("float", amount), unit)


def _amount_without_unit(amount: object, unit: str) -> str:
    """Returns an amount without its unit; money with a dollar sign."""
    if unit == "usd":
        whole, _, rest = str(amount).partition(".")
        return f"${whole}.{rest.rstrip('0').ljust(2, '0')}"
    return f"{amount:,}"


def _caller_line(request: Json, at: datetime) -> str:
    names = {
        "key": request.get("key_name") or request.get("key_prefix") or request.get("key_id"),
        "tenant": request.get("tenant"),
        "agent": request.get("agent"),
        "user": request.get("user_id"),
    }
    who = ", ".join(f"{name} {value}" for name, value in names.items() if value) or "no known caller"
    model = request.get("group_asked") or request.get("model_group") or request.get("model") or "no model yet"
    return f"{_time_text(at)} {request.get('door') or 'a request'} for {model} by {who}"


def _rejection_line(request: Json) -> str:
    code = f" {request['code']}" if request["code"] else ""
    head = f"rejected with {request['status']}{code} by the {request['refused_by']}"
    return f"{head}: {describe_limit(request['reached'], request)}" if request.get("reached") else head


@dataclass(frozen=True, slots=True)
class RequestAttempt:
    """One attempt at a provider: of the record's order and status, with the times of the sidecar's log.

    Attributes:
        status: The provider's HTTP status; 0 where it did not answer, None where that is not known.
        call: The row of the sidecar's log; None without one.
        message: Why it failed, in the provider's words, cleaned; of the last attempt alone.
    """

    group: str
    deployment: str
    status: int | None
    call: Json | None = None
    message: str | None = None

    @property
    def took_ms(self) -> float | None:
        """How long it took; None where that is not known."""
        if self.call is None or not self.call["ended_at"]:
            return None
        took: timedelta = self.call["ended_at"] - self.call["started_at"]
        return took.total_seconds() * 1000

    def as_json(self) -> Json:
        """Returns it as a JSON object."""
        call = self.call or {}
        return {
            "model_group": self.group,
            "deployment": self.deployment,
            "status": self.status,
            "started_at": call.get("started_at"),
            "took_ms": self.took_ms,
            "error_class": call.get("error_class"),
            "message": self.message,
        }


def status_text(status: int | None) -> str:
    """Returns the status of an attempt for people."""
    if status is None:
        return "status not known"
    return f"status {status}" if status else "not answered by the provider"


def attempts_of(request: Json) -> list[RequestAttempt]:
    """Returns the attempts at a provider, in order; empty where none is known."""
    calls: list[Json] = list(request.get("model_calls") or ())
    hops: list[list[Any]] = request.get("hops") or []
    if not hops:
        hops = [[one["model_group"], one["deployment"], one["http_status"]] for one in calls]
    if not hops and request.get("deployment"):
        hops = [[request["model_group"], request["deployment"], _provider_status(request)]]
    message = request.get("provider_message")
    found: list[RequestAttempt] = []
    for number, (group, deployment, status) in enumerate(hops, 1):
        call = _take_logged_call(calls, number, deployment, answered=status == _OK_STATUS)
        reason = message if number == len(hops) and status != _OK_STATUS else None
        found.append(RequestAttempt(group, deployment, status, call, reason))
    return found


@dataclass(frozen=True, slots=True)
class CostPart:
    """A part of a call's cost, as the sidecar's log has it.

    Attributes:
        tokens: None for a part that is not of tokens alone.
        usd_per_million: None without tokens.
    """

    name: str
    tokens: int | None
    cost_usd: Decimal
    usd_per_million: Decimal | None


def cost_parts_of(request: Json) -> Iterator[CostPart]:
    """Yields the parts of a call's cost; nothing where the sidecar's log has none."""
    tokens = {"input_cost": request.get("prompt_tokens"), "output_cost": request.get("completion_tokens")}
    for call in request.get("model_calls") or ():
        if call.get("status") != "success":
            continue
        for name, cost in as_object(call.get("cost_breakdown")).items():
            amount, count = Decimal(str(cost)), tokens.get(name)
            rate = round(amount * 1_000_000 / count, 6) if count else None
            yield CostPart(name.replace("_", " "), count, amount, rate)


def cause_of(request: Json) -> str | None:
    """Returns why a request failed: the limit as `scope:kind`, or the error's code; None if it did not."""
    if reached := request.get("reached"):
        return f"{reached['scope']}:{reached['kind']}"
    return request.get("refusal_code") or request.get("code")


def model_of(request: Json) -> str | None:
    """Returns the model group of a request; of a rejected one without a group, the requested name."""
    return request.get("model_group") or request.get("model")


def _attempt_lines(request: Json) -> list[str]:
    attempts, is_logged = attempts_of(request), bool(request.get("model_calls"))
    lines = [
        f"hop {number}: {one.group} at {one.deployment}: {_attempt_text(one, is_logged=is_logged)}"
        for number, one in enumerate(attempts, 1)
    ]
    if attempts and not is_logged:
        lines.append("the sidecar's log has no entry of this call (yet): the times of its hops are unknown")
    elif not attempts and request.get("replay_of"):
        lines.append(f"no hop: the answer of {request['replay_of']} again, by its idempotency key")
    elif not attempts:
        lines.append(
            "no hop: the response cache answered"
            if request.get("cache") == "hit"
            else "no hop is known: nothing was sent to a provider, or it was not recorded"
        )
    return lines


def _provider_status(request: Json) -> int | None:
    return _OK_STATUS if request["outcome"] == "ok" else None


def _take_logged_call(calls: list[Json], number: int, deployment: str, *, answered: bool) -> Json | None:
    """Removes and returns the sidecar's log row of an attempt; None if there is none."""
    exact = next((call for call in calls if str(call["attempt"]).startswith(f"failure:{number}:")), None)
    similar = (
        call
        for call in calls
        if call["deployment"] == deployment and (call["status"] == "success") == answered
    )
    call = exact if exact is not None and not answered else next(similar, None)
    if call is not None:
        calls.remove(call)
    return call


def _attempt_text(attempt: RequestAttempt, *, is_logged: bool) -> str:
    parts = [status_text(attempt.status)]
    if attempt.call is not None:
        took = "" if attempt.took_ms is None else f", {attempt.took_ms:,.0f} ms"
        parts.append(f"{_time_text(attempt.call['started_at'])}{took}")
        if attempt.message is None and (failure := _failure_text(attempt)):
            parts.append(failure)
    elif is_logged:
        parts.append("time not known")
    if attempt.message is not None:
        parts.append(attempt.message)
    return "; ".join(parts)


def _failure_text(attempt: RequestAttempt) -> str:
    """Returns why an attempt failed, as the sidecar's log has it: `provider connection error`."""
    call = attempt.call or {}
    normalized = str(call.get("normalized_error") or "")
    if not attempt.status and normalized:  # LiteLLM's class is that of a status no provider sent
        return normalized.lstrip("0123456789_").replace("_", " ").lower()
    return str(call.get("error_class") or "")


def _end_line(request: Json) -> str:
    status = request["status"]
    nothing = " with its worker" if request["outcome"] == "lost" else ", the caller was sent nothing"
    parts = [f"ended {request['outcome']}" + (f" with {status}" if status else nothing)]
    if request.get("refusal_code"):
        parts.append(request["refusal_code"])
    parts.append(f"after {request['latency_ms']:,.0f} ms")
    if queue_ms := request.get("queue_ms"):
        parts.append(f"of which {queue_ms:,.0f} ms in the queue for a slot")
    tokens = request.get("prompt_tokens"), request.get("completion_tokens")
    parts.append("tokens unknown" if None in tokens else f"{tokens[0]} + {tokens[1]} tokens")
    for unit, name in QUANTITY_OF_UNIT.items():
        if used := request.get(name):
            parts.append(unit_text(shown_amount(used, unit), unit))
    cost = request.get("cost_usd")
    parts.append("cost unknown" if cost is None else _amount_without_unit(f"{cost:f}", "usd"))
    if request.get("would_refuse"):
        parts.append(f"limits in shadow mode would have rejected it: {request['would_refuse']}")
    if request.get("guard_signal"):
        parts.append(f"the loop guard found: {request['guard_signal']}, {request['guard_times']} times")
    return ", ".join(parts)


def _time_text(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"


def redact_for_key(request: Json, visible_statuses: Container[object]) -> Json:
    """Returns a request as a key may see it.

    The provider's messages are left out unless the caller received them: its status must be one of
    `visible_statuses`. Of a limit shared by several tenants the amounts are left out.
    """
    shown = dict(request)
    if shown.get("status") not in visible_statuses:
        shown.pop("provider_message", None)
        hidden = ("error_class", "normalized_error")
        shown["model_calls"] = [
            {name: value for name, value in call.items() if name not in hidden}
            for call in shown.get("model_calls", ())
        ]
    reached = shown.get("reached")
    if reached and reached["scope"] in SHARED_SCOPES:
        parts = ("kind", "scope", "subject", "unit", "wait_ms")
        shown["reached"] = {name: reached[name] for name in parts if name in reached}
    return shown
