"""The table `llm_calls`: makes a row of each LiteLLM event and writes rows to Postgres in batches.

Invariants: a row holds no prompt, answer or key; money is Decimal, None without a known price; a call id that
is no UUID is hashed (RFC 9562, version 5). `post` never waits and never raises; rows beyond the queue's bound
and rows that Postgres rejects are counted as dropped. The database role cannot read, so a row that is written
twice keeps its first values.
"""

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg

from llm_proxy.background import BackgroundLoop
from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import Json, as_object
from llm_proxy.quantities import NOTHING, Quantities
from llm_proxy.schema.connections import connect
from llm_proxy.schema.database import DatabaseUnavailable, db_deadline, jsonb_text, sanitize_text, write_rows
from llm_proxy.sidecar import answer_usage, call_outcome, litellm_internals
from llm_proxy.sidecar.call_outcome import Attempt
from llm_proxy.sidecar.catalog import PROVIDER_KEY, is_cost_known, qualified_model
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.accounting import COUNTED_MARK
from llm_proxy.sidecar.process_log import log_line
from llm_proxy.sidecar.provider_errors import is_unanswered
from llm_proxy.token_details import read_details, service_tier

CallRow = tuple[Any, ...]
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
    **dict.fromkeys(Quantities._fields, "bigint"),
    "answer_id": "text",
    "provider_request_id": "text",
}
"""Column -> Postgres type, in the order of a row."""
PROVIDER_ID_HEADERS = (
    "x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "x-amzn-requestid", "cf-ray",
)  # fmt: skip
"""By which providers know a request: most, Anthropic, Azure, Bedrock; the last where there is no other."""
WARM_UP_GROUP = "llm-proxy-warm-up"
"""The model group of the warm-up's calls; they are not logged."""
NANO_DOLLAR = Decimal("1e-9")
FREE = Decimal(0)
MAX_TOKENS, MAX_COST_USD = 10**15, 10**6
"""Larger values are unknown: no call has more tokens or costs more, and their sums would overflow."""


def row_of_event(
    kwargs: Mapping[str, Any], response: Untyped, started: datetime, ended: datetime
) -> CallRow | None:
    """Return the row of one event; None for an event that is no model call.

    Args:
        kwargs: What LiteLLM passes its callbacks: the call's `standard_logging_object` among it.
        response: LiteLLM's response object.
        started: When the call started; without a time zone it is local time.
        ended: When the call ended.
    """
    event: Mapping[str, Any] = kwargs.get("standard_logging_object") or {}
    call_id = event.get("litellm_call_id") or kwargs.get("litellm_call_id")
    if not event or not call_id or event.get("model_group") == WARM_UP_GROUP:
        return None
    failed: Mapping[str, Any] = event.get("error_information") or {}
    status = str(event.get("status") or "failure")
    deployment = _text(event.get("model_id"))
    finish_reason = call_outcome.recorded_finish_reason()
    reason = f"finish_reason: {finish_reason}" if finish_reason and status == "success" else None
    endpoint = answer_usage.ENDPOINT_OF_CALL.get(str(event.get("call_type")))
    if endpoint is not None and status == "success":
        event = {**event, **answer_usage.logged_values(endpoint, event, response)}
    else:
        endpoint = None
    usage = usage_fields(response)
    unstated = endpoint is None and _has_unstated_tokens(event, response)
    return (
        _uuid(sanitize_text(str(call_id))),
        sanitize_text(f"{status}:{deployment or ''}")[:200],
        _aware(started),
        _aware(ended),
        _text(event.get("model_group")),
        deployment,
        _text(_configured_provider(kwargs) or event.get("custom_llm_provider")),
        _text(event.get("model")),
        status,
        _text(failed.get("error_class")),
        _text(failed.get("normalized_error") or reason),
        _status(failed, status),
        *_token_columns(event, usage, unstated=unstated),
        *_cost_columns(event, known=endpoint is not None, unstated=unstated),
        bool(event.get("cache_hit")),
        _attempt_number(event),
        *_detail_columns(event, response, {} if unstated else usage),
        *_quantity_columns(endpoint, kwargs, response),
        _text(litellm_internals.provider_s_id(str(event.get("id") or ""))) if status == "success" else None,
        _request_id_in(kwargs.get("response_headers")),
    )


def row_of_failed_attempt(call_id: str, number: int, attempt: Attempt) -> CallRow:
    """Return the row of an attempt that failed without an answer; a call's first attempt is `number` 1."""
    failed = as_object(litellm_internals.error_information(attempt.error))
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
        "http_status": None if is_unanswered(attempt.error) else _status(failed, "failure"),
        "cache_hit": False,
        "attempts": number,
        "provider_request_id": _request_id_in(getattr(attempt.error, "litellm_response_headers", None)),
    }
    return tuple(found.get(name) for name in COLUMNS)


@dataclass(frozen=True, slots=True)
class ServedBy:
    """Who gave the answer that a cache hit repeats."""

    group: str
    deployment: str
    provider: str
    model: str


def row_of_hit(call_id: str, served: ServedBy, usage: Json, received_at_s: float) -> CallRow:
    """Return the row of a cache hit: the tokens of the stored answer's `usage`, at no cost."""
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    stated = bool(prompt or completion)
    found: dict[str, Any] = {
        "call_id": _uuid(sanitize_text(call_id)),
        "attempt": sanitize_text(f"success:{served.deployment}")[:200],
        "started_at": datetime.fromtimestamp(received_at_s, UTC),
        "ended_at": datetime.now(UTC),
        "model_group": _text(served.group),
        "deployment": _text(served.deployment),
        "provider": _text(served.provider),
        "model": _text(served.model),
        "status": "success",
        "http_status": 200,
        "prompt_tokens": _tokens(prompt) if stated else None,
        "completion_tokens": _tokens(completion) if stated else None,
        "cost_usd": FREE if stated else None,
        "cache_hit": True,
        "attempts": 1,
    }
    return tuple(found.get(name) for name in COLUMNS)


def _request_id_in(headers: Mapping[str, Any] | None) -> str | None:
    """Return the id that a provider gave a request, of its answer's headers; None where there is none."""
    if not isinstance(headers, Mapping):
        return None
    given = {str(name).lower(): value for name, value in headers.items()}
    return next((_text(given[name]) for name in PROVIDER_ID_HEADERS if given.get(name)), None)


def _configured_provider(kwargs: Mapping[str, Any]) -> object:
    """Return the provider that the deployment's `model_info` names, if any."""
    return as_object(as_object(kwargs.get("litellm_params")).get("model_info")).get(PROVIDER_KEY)


def _uuid(call_id: str) -> UUID:
    try:
        return UUID(call_id)
    except ValueError:
        return uuid5(NAMESPACE_URL, call_id)


def _text(value: object) -> str | None:
    return sanitize_text(str(value))[:200] if value else None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.astimezone(UTC)


def _status(failed: Mapping[str, Any], status: str) -> int | None:
    for code in (failed.get("error_code"), str(failed.get("normalized_error") or "").partition("_")[0]):
        if str(code).isascii() and str(code).isdecimal() and len(str(code)) == 3:
            return int(str(code))
    return 200 if status == "success" else None


def usage_fields(response: Untyped) -> Json:
    """Return the usage of LiteLLM's response object: the provider's, if it stated one."""
    usage: Untyped = getattr(response, "usage", None)
    return as_object(usage.model_dump(exclude_none=True)) if hasattr(usage, "model_dump") else {}


def _token_columns(event: Mapping[str, Any], usage: Json, *, unstated: bool) -> tuple[int | None, ...]:
    details = read_details(usage)
    cached, reasoning = details.cached_tokens, details.reasoning_tokens
    values = (event.get("prompt_tokens"), event.get("completion_tokens"), cached, reasoning)
    if unstated:
        return (None,) * len(values)
    return tuple(map(_tokens, values))


def _tokens(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= MAX_TOKENS else None


def _detail_columns(
    event: Mapping[str, Any], response: Untyped, usage: Json
) -> tuple[int | None, str | None, str | None]:
    """Return cache-write tokens, further token kinds as JSON, and the tier: stated, else priced by."""
    details = read_details(usage)
    stated = {"service_tier": getattr(response, "service_tier", None)}
    others = jsonb_text(details.others) if details.others else None
    tier = service_tier(stated, usage) or service_tier(as_object(event.get("cost_breakdown")), {})
    return details.cache_write_tokens, others, tier


def _quantity_columns(
    endpoint: Endpoint | None, kwargs: Mapping[str, Any], response: Untyped
) -> tuple[int | None, ...]:
    """Return the images, audio, characters and search units of an answer; None of what it has none of."""
    form = call_outcome.form()
    if form is not None and form.document:  # LiteLLM's has lost the seconds that are billed
        response = form.document
    spoken = kwargs.get("input")
    characters = len(spoken) if isinstance(spoken, str) else 0
    used = NOTHING if endpoint is None else answer_usage.quantities_of(endpoint, response, characters)
    return tuple(one or None for one in used)


def _has_unstated_tokens(event: Mapping[str, Any], response: Untyped) -> bool:
    """Whether a successful answer stated no tokens; LiteLLM writes zeros then, and a cost of 0."""
    tokens = event.get("prompt_tokens") or event.get("completion_tokens")
    if event.get("status") != "success" or tokens:
        return False
    if event.get("stream"):
        return hasattr(getattr(response, "usage", None), COUNTED_MARK)
    return not call_outcome.response_states_tokens()


def _decimal(value: object) -> Decimal | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= MAX_COST_USD:
        return None
    return Decimal(repr(value)).quantize(NANO_DOLLAR)


def _cost_columns(
    event: Mapping[str, Any], *, known: bool, unstated: bool
) -> tuple[Decimal | None, str | None]:
    """Return the cost and its parts as JSON; LiteLLM writes 0 without a known price."""
    cost = _decimal(event.get("response_cost"))
    headers = as_object(event.get("hidden_params")).get("additional_headers")
    name = qualified_model(str(event.get("custom_llm_provider")), str(event.get("model")))
    known |= bool(event.get("cache_hit"))
    known = known or is_cost_known(cost, headers, str(event.get("model_id")), name)
    if event.get("response_cost_failure_debug_info") or not known or unstated:
        cost = None
    stated = as_object(event.get("cost_breakdown"))
    parts = {name: str(part) for name, value in stated.items() if value and (part := _decimal(value))}
    return cost, jsonb_text(parts) if parts else None


def _attempt_number(event: Mapping[str, Any]) -> int:
    headers = as_object(as_object(event.get("hidden_params")).get("additional_headers"))
    retries = str(
        headers.get("x-litellm-attempted-retries") or headers.get("x_litellm_attempted_retries") or 0
    )
    return int(retries) + 1 if retries.isascii() and retries.isdecimal() and len(retries) < 6 else 1


MAX_QUEUED_ROWS, BATCH_ROWS = 10_000, 500
WRITE_INTERVAL_S, WRITE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S = 0.5, 10.0, 3.0
MIN_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0
"""The pause after a failed write doubles from the first to the second."""
PRIMARY_KEY = ("call_id", "attempt")
_ARRAYS = ", ".join(f"${at}::{kind}[]" for at, kind in enumerate(COLUMNS.values(), 1))
INSERT = (
    f"INSERT INTO llm_calls ({', '.join(COLUMNS)}) SELECT * FROM unnest({_ARRAYS}) "  # noqa: S608 -- our own names
    f"ON CONFLICT ({', '.join(PRIMARY_KEY)}) DO NOTHING"
)


def _system_roots_and(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


class CallLog:
    """A bounded queue of rows and the background task that writes them; `dropped` counts lost rows."""

    def __init__(self, url: str, ca_file: str | None = None) -> None:
        """`ca_file` holds certificates to trust besides the system's; raises `OSError`."""
        self._url = url
        needs_system_roots = "sslmode=verify" in url and "sslrootcert=" not in url
        self._ssl = _system_roots_and(ca_file) if needs_system_roots else None
        self._waiting: deque[CallRow] = deque()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._writer = BackgroundLoop("call-log", self._write_waiting, every_s=WRITE_INTERVAL_S)
        self._pause_s, self._silent_until = MIN_PAUSE_S, 0.0
        self.dropped = 0

    def post(self, row: CallRow) -> None:
        """Queue a row; a full queue drops its oldest row."""
        if len(self._waiting) >= MAX_QUEUED_ROWS:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(row)

    async def start(self) -> None:
        """Start the background task; Postgres need not be reachable yet."""
        self._writer.start()

    async def stop(self) -> None:
        """Write the queued rows for at most `SHUTDOWN_TIMEOUT_S`, then disconnect."""
        await self._writer.stop()
        with contextlib.suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                while self._waiting:
                    await self._write_batch()
        self.dropped += len(self._waiting)
        await self._disconnect()

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                await self._write_batch()
            self._pause_s = MIN_PAUSE_S
        except DatabaseUnavailable as error:
            await self._disconnect()
            if time.monotonic() > self._silent_until:
                self._silent_until = time.monotonic() + 60
                waiting = f"{len(self._waiting)} rows wait, {self.dropped} dropped"
                log_line(f"call log: {error.reason}; {waiting}")
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)

    async def _write_batch(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(BATCH_ROWS, len(self._waiting)))]
        try:
            for row, reason in await write_rows(taken, self._insert):
                self.dropped += 1
                log_line(f"call log: postgres refuses the row of call {row[0]}: {reason}")
        finally:
            self._waiting.extendleft(reversed(taken))

    async def _insert(self, rows: Sequence[CallRow]) -> None:
        async with db_deadline(WRITE_TIMEOUT_S):
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect(self._url, self._ssl)
            await self._connection.execute(INSERT, *map(list, zip(*rows, strict=True)))

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
