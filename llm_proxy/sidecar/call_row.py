"""One row of `llm_calls` out of what LiteLLM hands a callback.

Invariants: pure; no prompt, answer or key; money is Decimal, and None where no price is known; every value is
one its column takes, what a provider states beyond that is unknown. A call id that is no UUID (a caller of
this sidecar other than the gateway) becomes one by hashing (RFC 9562, version 5).
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from llm_proxy.database import clean_text, json_text
from llm_proxy.json_access import Json
from llm_proxy.sidecar import outcome, seams
from llm_proxy.sidecar.catalog import OWN_WORD
from llm_proxy.sidecar.counted import MARK
from llm_proxy.sidecar.outcome import Attempt
from llm_proxy.sidecar.prices import full_name
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping
from llm_proxy.token_details import read_details, tier_of

Row = tuple[Any, ...]
COLUMNS: dict[str, str] = {
    "call_id": "uuid",
    "attempt": "text",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "model_group": "text",
    "deployment": "text",
    "provider": "text",
    "model": "text",
    "status": "text",
    "error_class": "text",
    "normalized_error": "text",
    "http_status": "smallint",
    "prompt_tokens": "bigint",
    "completion_tokens": "bigint",
    "cached_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "cost_usd": "numeric",
    "cost_breakdown": "jsonb",
    "cache_hit": "boolean",
    "attempts": "integer",
    "cache_write_tokens": "bigint",
    "token_details": "jsonb",
    "service_tier": "text",
}
"""Name -> Postgres type, in the order of a row."""
Known = Callable[[object, object, str, str], bool]
"""Whether a cost is known, be it 0 (`prices.is_known`); LiteLLM says 0 where it knows no price."""
OUR_OWN = "llm-proxy-warm-up"
"""The group of the calls this process makes to itself."""
NANO = Decimal("1e-9")
LARGEST, LARGEST_USD = 10**15, 10**6
"""No call has more tokens or costs more; sums of larger numbers would overflow."""


def row(
    kwargs: Mapping[str, Any], response: Theirs, started: datetime, ended: datetime, is_known: Known
) -> Row | None:
    """The row for one event; None for an event that is not a model call. `is_known` knows known costs."""
    event: Mapping[str, Any] = kwargs.get("standard_logging_object") or {}
    call_id = event.get("litellm_call_id") or kwargs.get("litellm_call_id")
    if not event or not call_id or event.get("model_group") == OUR_OWN:
        return None
    failed: Mapping[str, Any] = event.get("error_information") or {}
    status = str(event.get("status") or "failure")
    deployment = _text(event.get("model_id"))
    said = outcome.finish_reason()
    reason = f"finish_reason: {said}" if said and status == "success" else None
    usage, unsaid = _usage(response), _unsaid(event, response)
    return (
        _uuid(clean_text(str(call_id))),
        clean_text(f"{status}:{deployment or ''}")[:200],
        _aware(started),
        _aware(ended),
        _text(event.get("model_group")),
        deployment,
        _text(_own_provider(kwargs) or event.get("custom_llm_provider")),
        _text(event.get("model")),
        status,
        _text(failed.get("error_class")),
        _text(failed.get("normalized_error") or reason),
        _status(failed, status),
        *_tokens(event, usage, unsaid=unsaid),
        *_money(event, is_known, unsaid=unsaid),
        bool(event.get("cache_hit")),
        _attempts(event),
        *_details(event, response, {} if unsaid else usage),
    )


def failed_row(call_id: str, number: int, attempt: Attempt) -> Row:
    """The row of an attempt that failed before it answered, the so-manieth of its call."""
    failed = mapping(seams.error_information(attempt.error))
    provider, _, model = attempt.model.partition("/")
    found: dict[str, Any] = {
        "call_id": _uuid(call_id),
        "attempt": f"failure:{number}:{attempt.deployment}"[:200],
        "started_at": attempt.started_at,
        "ended_at": datetime.now(UTC),
        "model_group": _text(attempt.group),
        "deployment": _text(attempt.deployment),
        "provider": _text(attempt.provider or failed.get("llm_provider") or provider),
        "model": _text(model or provider),
        "status": "failure",
        "error_class": _text(failed.get("error_class")),
        "normalized_error": _text(failed.get("normalized_error")),
        "http_status": _status(failed, "failure"),
        "cache_hit": False,
        "attempts": number,
    }
    return tuple(found.get(name) for name in COLUMNS)


def _own_provider(kwargs: Mapping[str, Any]) -> object:
    """What the deployment's `model_info` calls its provider, where that is not whose protocol it speaks."""
    return mapping(mapping(kwargs.get("litellm_params")).get("model_info")).get(OWN_WORD)


def _uuid(call_id: str) -> UUID:
    try:
        return UUID(call_id)
    except ValueError:
        return uuid5(NAMESPACE_URL, call_id)


def _text(value: object) -> str | None:
    return clean_text(str(value))[:200] if value else None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.astimezone(UTC)


def _status(failed: Mapping[str, Any], status: str) -> int | None:
    for said in (failed.get("error_code"), str(failed.get("normalized_error") or "").partition("_")[0]):
        if str(said).isascii() and str(said).isdecimal() and len(str(said)) == 3:
            return int(str(said))
    return 200 if status == "success" else None


def _usage(response: Theirs) -> Json:
    """The usage as LiteLLM read it, which is as the provider stated it where it did."""
    usage: Theirs = getattr(response, "usage", None)
    return mapping(usage.model_dump(exclude_none=True)) if hasattr(usage, "model_dump") else {}


def _tokens(event: Mapping[str, Any], usage: Json, *, unsaid: bool) -> tuple[int | None, ...]:
    details = read_details(usage)
    cached, reasoning = details.cached_tokens, details.reasoning_tokens
    counted = (event.get("prompt_tokens"), event.get("completion_tokens"), cached, reasoning)
    if unsaid:
        return (None,) * len(counted)
    return tuple(value if isinstance(value, int) and 0 <= value <= LARGEST else None for value in counted)


def _details(
    event: Mapping[str, Any], response: Theirs, usage: Json
) -> tuple[int | None, str | None, str | None]:
    """Tokens written to a cache, further parts, and the tier: the answer's, else the one it was priced by."""
    details = read_details(usage)
    stated = {"service_tier": getattr(response, "service_tier", None)}
    others = json_text(details.others) if details.others else None
    tier = tier_of(stated, usage) or tier_of(mapping(event.get("cost_breakdown")), {})
    return details.cache_write_tokens, others, tier


def _unsaid(event: Mapping[str, Any], response: Theirs) -> bool:
    """Whether the provider answered and stated no tokens; LiteLLM writes zeros for that, and a cost of 0."""
    tokens = event.get("prompt_tokens") or event.get("completion_tokens")
    if event.get("status") != "success" or tokens:
        return False
    if event.get("stream"):
        return hasattr(getattr(response, "usage", None), MARK)
    return not outcome.states_tokens()


def _decimal(value: object) -> Decimal | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= LARGEST_USD:
        return None
    return Decimal(repr(value)).quantize(NANO)


def _money(event: Mapping[str, Any], is_known: Known, *, unsaid: bool) -> tuple[Decimal | None, str | None]:
    """The cost and its parts; LiteLLM says 0 where it knows no price."""
    cost = _decimal(event.get("response_cost"))
    headers = mapping(event.get("hidden_params")).get("additional_headers")
    name = full_name(str(event.get("custom_llm_provider")), str(event.get("model")))
    known = event.get("cache_hit") or is_known(cost, headers, str(event.get("model_id")), name)
    if event.get("response_cost_failure_debug_info") or not known or unsaid:
        cost = None
    stated = mapping(event.get("cost_breakdown"))
    parts = {name: str(_decimal(value)) for name, value in stated.items() if _decimal(value)}
    return cost, json_text(parts) if parts else None


def _attempts(event: Mapping[str, Any]) -> int:
    said = mapping(mapping(event.get("hidden_params")).get("additional_headers"))
    retried = said.get("x-litellm-attempted-retries") or said.get("x_litellm_attempted_retries") or 0
    counted = str(retried)
    return int(counted) + 1 if counted.isascii() and counted.isdecimal() and len(counted) < 6 else 1
