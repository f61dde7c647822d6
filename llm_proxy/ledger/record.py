"""`UsageRecord`, one finished call, made of its context: a row for Postgres, a line on disk and of the log.

Pure. Invariants: one record per admitted call; None means unknown, never zero; money is integer nano-dollars
here and `NUMERIC` in Postgres. New fields are appended and have a default: lines on disk may lack them.
`decode(encode(row)) == row`; `decode` and `lost_row` raise only ValueError. No line holds text that Postgres
rejects. Units: `_ms` milliseconds since the request was read; `started_at` UTC.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import compress
from operator import is_not, itemgetter
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson

from llm_proxy.admission.loop_guard import GuardVerdict
from llm_proxy.call_context import CallContext, Outcome
from llm_proxy.dialects import BYTES_PER_TOKEN, UNBOUNDED_TOKENS
from llm_proxy.identity.caller import Priority
from llm_proxy.quantities import NOTHING, Quantities
from llm_proxy.schema.database import sanitize_text
from llm_proxy.telemetry.privacy import redact
from llm_proxy.upstream import RoutingInfo, TokenUsage
from llm_proxy.upstream.litellm_protocol import CacheState

UsageSource = Literal["provider", "sidecar", "estimated", "unknown"]

MAX_NAME_CHARS = 128
"""Stored characters of a name: six names must fit into one index entry of the roll-ups."""
PARTITION_MARGIN = timedelta(hours=1)
"""A row's `started_at` differs by less from the time in its request id: a look-up reads two partitions."""
LedgerRow = tuple[Any, ...]
"""The values of a record in the order of `FIELDS`."""
EncodedRow = tuple[LedgerRow, bytes]
"""A row and its JSON line."""
MAX_MESSAGE_BYTES = 600  # a record must fit into its slot of the journal


class UsageRecord(NamedTuple):
    """What billing, usage and budgets know of one admitted call; field names are those of the columns.

    `COLUMNS` lists the fields whose columns have other names.

    Attributes:
        door: The OpenAI operation, such as `chat.completions`.
        group: The model group that served the call; `group_asked` is the one that the caller requested.
        outcome: `cut` means that the answer was truncated.
        would_refuse: The limits in shadow mode that would have rejected the call: `scope:kind`, with commas.
        hops: JSON: group, deployment and HTTP status of each attempt at a provider, in order.
        tags: Joined by commas; None without tags.
        token_details: JSON: further parts of the tokens, named as in `token_details`.
        service_tier: The tier that the answer states.
        prompt_bytes: Of the request; with `max_tokens` and `choices` the basis of its reservation.
        images: With the next three what was used beside tokens, as in `Quantities`; None of what was not.
        replay_of: The id of the call whose answer this one got, by its idempotency key; None without.
        guard_action: What the loop guard did, `observe` or `warn`; then what it found, and how often.
        queue_ms: How long the call waited for a slot at a sidecar; `priority` is the class in which it did.
        key_ancestors: The ids of the keys above a child key, the root first, joined by commas.
    """

    request_id: UUID
    started_at: datetime
    key_id: str
    key_prefix: str
    tenant: str | None
    agent: str | None
    user: str | None
    session: str | None
    channel: str | None
    client_request_id: str | None
    door: str
    dialect: str
    model: str
    group: str
    model_resolved: str | None
    provider: str | None
    deployment: str | None
    streamed: bool
    status: int
    outcome: Outcome
    refusal_code: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    cost_nano_usd: int | None
    usage_source: UsageSource
    cache: CacheState
    attempts: int | None
    latency_ms: float
    ttft_ms: float | None
    group_asked: str | None = None
    hops: str | None = None
    provider_message: str | None = None
    run: str | None = None
    tags: str | None = None
    would_refuse: str | None = None
    cache_write_tokens: int | None = None
    token_details: str | None = None
    service_tier: str | None = None
    prompt_bytes: int | None = None
    max_tokens: int | None = None
    choices: int | None = None
    images: int | None = None
    audio_ms: int | None = None
    characters: int | None = None
    search_units: int | None = None
    queue_ms: float | None = None
    run_name: str | None = None
    replay_of: str | None = None
    priority: Priority | None = None
    key_ancestors: str | None = None
    guard_action: str | None = None
    guard_signal: str | None = None
    guard_times: int | None = None

    @property
    def total_tokens(self) -> int | None:
        """Prompt tokens plus completion tokens; None when both are unknown."""
        if self.prompt_tokens is None and self.completion_tokens is None:
            return None
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)

    @property
    def root_key(self) -> str:
        """The id of the key above a child key, or the key's own; usage by `root_key` reads it by name."""
        return self.key_ancestors.partition(",")[0] if self.key_ancestors else self.key_id

    @property
    def is_unpriced(self) -> bool:
        """Whether it was answered, or used anything, and its cost is not known."""
        if self.cost_nano_usd is not None:
            return False
        units = (self.images, self.audio_ms, self.characters, self.search_units)
        return self.outcome == "ok" or any((self.prompt_tokens, self.completion_tokens, *units))


_UNKNOWN_USAGE = TokenUsage._make((None, None, *TokenUsage(0, 0)[2:]))


def record_of(context: CallContext) -> UsageRecord:
    """Returns the record of a call that has ended (`call_context.note_end`); never raises."""
    caller, call, routing, error = context.caller, context.call, context.routing, context.error
    assert caller is not None and call is not None  # noqa: S101, PT018 -- it was admitted
    usage, source = _billed_usage(context)
    prompt, completion, cached, reasoning, _, _, written, details, tier, used, _ = usage or _UNKNOWN_USAGE
    action, signal, times = _found(context.guard_verdict)
    # In the order of the fields: to match so many names, or arguments, takes a fiftieth of a call.
    return UsageRecord._make((
        context.request_id, datetime.fromtimestamp(context.started_at, UTC),
        caller.key_id, caller.key_prefix, caller.tenant, caller.agent, caller.user, caller.session,
        caller.channel, context.client_request_id,
        call.endpoint, call.dialect, call.model, routing.group or call.group,
        routing.provider_model, routing.provider, routing.deployment,
        call.streaming, context.status, context.outcome, error.code if error else None,
        prompt, completion, cached, reasoning,
        _billed_cost(context, usage), source, routing.cache, routing.attempts,
        context.elapsed_ms(), context.ttft_ms, call.group, _hops(routing),
        _truncated_message(error.provider_message) if error else None,
        caller.run, ",".join(caller.tags) or None, context.would_refuse,
        written, details, tier, call.prompt_bytes,
        None if call.max_tokens is None else min(call.max_tokens, UNBOUNDED_TOKENS),
        min(call.choices, UNBOUNDED_TOKENS - 1),
        used.images or None, used.audio_ms or None, used.characters or None, used.search_units or None,
        context.queue_ms, caller.run_id,
        None if context.replay_of is None else str(context.replay_of),
        "batch" if context.is_batch else "interactive",
        ",".join(one.key_id for one in caller.above) if caller.above else None,
        action, signal, times,
    ))  # fmt: skip


def _found(verdict: GuardVerdict | None) -> tuple[str | None, str | None, int | None]:
    """Returns what the loop guard did, what it found, and how often."""
    if verdict is None:
        return None, None, None
    signal, times, *_ = verdict.finding
    return verdict.action, signal, times


class Billed(NamedTuple):
    """What limits and budgets count of a call; None where it is unknown."""

    tokens: int | None = 0
    cost_nano_usd: int | None = 0
    quantities: Quantities = NOTHING


def billed(context: CallContext) -> Billed:
    """Returns what limits and budgets count of a call; nothing of an answer from the cache."""
    usage, _ = _billed_usage(context)
    if usage is None or context.routing.cache == "hit":
        return Billed()
    tokens = usage.prompt_tokens + usage.completion_tokens
    if not tokens and usage.quantities != NOTHING and context.call is not None:
        tokens = context.call.prompt_bytes // BYTES_PER_TOKEN  # limits of tokens hold for what has none too
    return Billed(tokens, _billed_cost(context, usage), usage.quantities)


def overhead_ms(context: CallContext) -> float | None:
    """Returns the gateway's own part of the time to the first byte; None when no byte was sent."""
    if context.ttft_ms is None or not context.sent_at or not context.answered_at:
        return None
    return context.ttft_ms - (context.answered_at - context.sent_at) * 1000


def _billed_usage(context: CallContext) -> tuple[TokenUsage | None, UsageSource]:
    """Returns the stated usage, else an estimate of four bytes a token, or None if nothing was used."""
    if context.usage is not None:
        return context.usage, "sidecar" if context.usage.counted_by_sidecar else "provider"
    if _is_unspent(context):
        return None, "unknown"
    call = context.call
    assert call is not None  # noqa: S101 -- it was admitted
    prompt_tokens = call.prompt_bytes // BYTES_PER_TOKEN
    return TokenUsage(prompt_tokens, context.content_tokens, quantities=call.quantities), "estimated"


def _billed_cost(context: CallContext, usage: TokenUsage | None) -> int | None:
    if context.routing.cache != "hit" and _is_unspent(context):
        unknown = context.error is not None and context.error.cost_unknown and not context.unsent
        return None if unknown else 0
    return context.cost_of(usage)


def _is_unspent(context: CallContext) -> bool:
    """Whether certainly nothing was used: never sent, or rejected before a model can have run."""
    if context.unsent:
        return True
    if context.usage is not None or context.content_tokens or context.outcome != "error":
        return False
    return context.error is not None and not (context.error.may_have_executed or context.interrupted)


def _truncated_message(message: str | None) -> str | None:
    return message.encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore") if message else None


def _hops(routing: RoutingInfo) -> str | None:
    return orjson.dumps([hop[:3] for hop in routing.hops]).decode() if routing.hops else None


FIELDS = UsageRecord._fields
COLUMNS = {
    "user": "user_id", "session": "session_id", "run": "run_id", "group": "model_group",
    "cost_nano_usd": "cost_usd",
}  # fmt: skip
"""The columns of `requests` whose names differ from their fields."""

_FIRST_FIELDS = FIELDS.index("ttft_ms") + 1
"""The number of fields in the first version's lines; later fields may be missing on a disk."""
_STARTED = FIELDS.index("started_at")
_COUNTED = slice(FIELDS.index("prompt_tokens"), FIELDS.index("cost_nano_usd") + 1)
_MAX_NUMBER = 10**15
"""No call has more tokens or nano-dollars: larger numbers would overflow the sums of a roll-up."""
_MAX_CHARS = {"provider_message": 600, "tags": 600, "would_refuse": 500}
_OWNER_FIELDS: tuple[str, ...] = ("tenant", "agent", "group", "model")
_OTHER_TEXT_FIELDS: tuple[str, ...] = (
    "user", "session", "channel", "client_request_id", "group_asked", "model_resolved", "provider",
    "deployment", "refusal_code", "provider_message", "run", "tags", "would_refuse",
    "service_tier", "run_name", "guard_action", "guard_signal",
)  # fmt: skip
_TEXT_LIMITS = ((600, 256), (400, 256), (128, 128), (32, 128), (8, 128), (4, 64), (2, 16), (0, 0))
"""Maximum characters of the other texts and of the owners' names, tried in this order."""
_JSON_FIELDS = frozenset({"hops", "token_details"})
_MAX_BY_FIELD = {"status": 2**15 - 1, "attempts": 2**31 - 1, "choices": 2**31 - 1, "guard_times": 2**31 - 1}


def row_of(record: UsageRecord) -> LedgerRow:
    """Returns a record's values in the order of its fields; an impossible number becomes None."""
    row: LedgerRow = tuple(record)
    counts = [*filter(None, row[_COUNTED])]
    if counts and (min(counts) < 0 or max(counts) > _MAX_NUMBER):
        return repair(row)
    return row


def encode(row: LedgerRow) -> bytes:
    """Encodes a row as one line of JSON, without a newline."""
    try:
        line = orjson.dumps(row)
    except TypeError:
        line = b""
    if line and line.find(b"\\u0000") < 0:  # `not in` raises within, and takes longer
        return line
    cleaned = tuple(sanitize_text(value) if isinstance(value, str) else value for value in row)
    try:
        return orjson.dumps(cleaned)
    except TypeError:  # a number beyond 64 bits
        return orjson.dumps(repair(row))


def shorten(row: LedgerRow, max_bytes: int) -> bytes:
    """Encodes a row in at most `max_bytes`: without its JSON fields, then with shorter texts."""
    row = tuple(None if name in _JSON_FIELDS else value for name, value in zip(FIELDS, row, strict=True))
    return _fit(FIELDS, row, max_bytes)


def encode_started(started: LedgerRow, max_bytes: int) -> bytes:
    """Encodes the values of `STARTED_FIELDS` of an admitted call in at most `max_bytes`."""
    return _fit(STARTED_FIELDS, started, max_bytes)


def _fit(names: Sequence[str], values: LedgerRow, max_bytes: int) -> bytes:
    line = b""
    for others, owners in _TEXT_LIMITS:
        max_chars = dict.fromkeys(_OTHER_TEXT_FIELDS, others) | dict.fromkeys(_OWNER_FIELDS, owners)
        truncated = (
            _truncate(name, value, max_chars.get(name)) if isinstance(value, str) else value
            for name, value in zip(names, values, strict=True)
        )
        line = encode(tuple(truncated))
        if len(line) <= max_bytes:
            break
    return line


def _truncate(name: str, text: str, max_chars: int | None) -> str | None:
    """Truncates a text; of `tags` only complete tags are left."""
    if name == "tags" and max_chars is not None and len(text) > max_chars:
        return text[: max_chars + 1].rpartition(",")[0] or None
    return text[:max_chars]


def decode(line: bytes) -> LedgerRow:
    """Decodes a line; raises ValueError when it is torn or no row."""
    values = _decode_list(line, len(FIELDS), _FIRST_FIELDS)
    values += [None] * (len(FIELDS) - len(values))
    try:
        began = datetime.fromisoformat(values[_STARTED])
        request_id, began_utc = UUID(values[0]), began.astimezone(UTC)
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError("not a row") from error
    if began.tzinfo is None:
        raise ValueError("not a row: a time without its zone")
    return (request_id, began_utc, *values[_STARTED + 1 :])


def row_started_at(row: LedgerRow) -> datetime:
    """Returns the beginning of the row's request."""
    started_at: datetime = row[_STARTED]
    return started_at


def repair(row: LedgerRow) -> LedgerRow:
    """Returns the row in values that every database accepts: valid UTF-8, numbers within their columns."""
    return tuple(_repaired(name, value) for name, value in zip(FIELDS, row, strict=True))


def _repaired(name: str, value: object) -> object:
    if name in _JSON_FIELDS:
        return None  # only details of what other fields hold
    if isinstance(value, str):
        return sanitize_text(value)[: _MAX_CHARS.get(name, 200)]
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value <= _MAX_BY_FIELD.get(name, _MAX_NUMBER) else None
    return value


STARTED_FIELDS = (
    "request_id", "started_at", "key_id", "key_prefix", "tenant", "agent", "user", "session", "channel",
    "client_request_id", "door", "dialect", "model", "group", "streamed", "run", "tags",
    "run_name",
)  # fmt: skip
"""The fields that the journal has of an admitted call; `started_at` in seconds since 1970."""
_FIRST_STARTED_FIELDS = STARTED_FIELDS.index("streamed") + 1

_LOST_VALUES: Mapping[str, object] = dict.fromkeys(FIELDS) | {
    "status": 0, "outcome": "lost", "usage_source": "unknown", "cache": "miss", "latency_ms": 0.0,
}  # fmt: skip
"""What a lost call's row holds beside its `STARTED_FIELDS`; None for all else."""


def lost_row(line: bytes) -> LedgerRow:
    """Returns the row (`outcome='lost'`) of an admitted call whose worker died; raises ValueError."""
    values = _decode_list(line, len(STARTED_FIELDS), _FIRST_STARTED_FIELDS)
    values += [None] * (len(STARTED_FIELDS) - len(values))
    started = dict(zip(STARTED_FIELDS, values, strict=True))
    try:
        started["request_id"] = UUID(started["request_id"])
        started["started_at"] = datetime.fromtimestamp(started["started_at"], UTC)
    except (TypeError, AttributeError, OverflowError, OSError) as error:
        raise ValueError("not an admitted call") from error
    return tuple({**_LOST_VALUES, **started}[name] for name in FIELDS)


def _decode_list(line: bytes, length: int, least: int | None = None) -> list[Any]:
    values: list[Any] = orjson.loads(line)
    if not isinstance(values, list) or not (least or length) <= len(values) <= length:  # pyright: ignore[reportUnnecessaryIsInstance] -- it comes from a disk
        raise ValueError("not a row")
    return values


_LOGGED_FIELDS = (
    "request_id", "key_prefix", "tenant", "agent", "door", "dialect", "group", "model_resolved", "provider",
    "deployment", "streamed", "status", "outcome", "refusal_code", "prompt_tokens", "completion_tokens",
    "cached_tokens", "cache_write_tokens", "reasoning_tokens", "service_tier", "usage_source", "cache",
    "attempts", "would_refuse", "guard_action", "guard_signal", "guard_times", "replay_of",
    *Quantities._fields,
)  # fmt: skip
_REDACTED_FIELDS = ("tenant", "agent", "group")
"""Names that callers or operators chose."""
_logged_values = itemgetter(*(FIELDS.index(name) for name in _LOGGED_FIELDS))
_LINE_COST, _LINE_LATENCY, _LINE_TTFT, _LINE_QUEUE = (
    FIELDS.index(name) for name in ("cost_nano_usd", "latency_ms", "ttft_ms", "queue_ms")
)

_is_known = partial(is_not, None)
_redact_cached = lru_cache(maxsize=4096)(redact)


def log_fields(row: LedgerRow) -> dict[str, Any]:
    """Returns the fields of a call's log line, without unknown ones; `queue_ms` of a call that waited.

    Names that callers chose are redacted like any other text; user, session and the client's request id are
    left out, because they belong to people.
    """
    values = _logged_values(row)
    line: dict[str, Any] = dict(compress(zip(_LOGGED_FIELDS, values, strict=True), map(_is_known, values)))
    for name in _REDACTED_FIELDS:
        if name in line:
            line[name] = _redact_cached(line[name])
    if row[_LINE_COST] is not None:
        line["cost_usd"] = row[_LINE_COST] / 1e9
    line["latency_ms"] = round(row[_LINE_LATENCY], 1)
    if row[_LINE_TTFT] is not None:
        line["ttft_ms"] = round(row[_LINE_TTFT], 1)
    if row[_LINE_QUEUE]:
        line["queue_ms"] = round(row[_LINE_QUEUE], 1)
    return line
