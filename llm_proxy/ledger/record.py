"""`UsageRecord`, one finished call: as a row for Postgres, a JSON line on disk and a line of the log.

Pure. Invariants: one record per admitted call; None means unknown, never zero; money is integer nano-dollars
here and `NUMERIC` in Postgres. New fields are appended and have a default: lines on disk may lack them.
`decode(encode(row)) == row`; `decode` and `lost` raise only ValueError. No line holds text that Postgres
rejects. Units: `_ms` milliseconds since the request was read; `started_at` UTC.
"""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import compress
from operator import is_not, itemgetter
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson

from llm_proxy.schema.database import sanitize_text
from llm_proxy.telemetry.privacy import redact

Outcome = Literal["ok", "error", "client_gone", "cut", "lost"]
UsageSource = Literal["provider", "sidecar", "estimated", "unknown"]
CacheState = Literal["hit", "miss", "off"]


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

    @property
    def total_tokens(self) -> int | None:
        """Prompt tokens plus completion tokens; None when both are unknown."""
        if self.prompt_tokens is None and self.completion_tokens is None:
            return None
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)


MAX_NAME_CHARS = 128
"""Stored characters of a name: six names must fit into one index entry of the roll-ups."""
PARTITION_MARGIN = timedelta(hours=1)
"""A row's `started_at` differs by less from the time in its request id: a look-up reads two partitions."""
LedgerRow = tuple[Any, ...]
"""The values of a record in the order of `FIELDS`."""
EncodedRow = tuple[LedgerRow, bytes]
"""A row and its JSON line."""

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
    "service_tier",
)  # fmt: skip
_TEXT_LIMITS = ((600, 256), (128, 128), (32, 128), (8, 128), (4, 64), (2, 16), (0, 0))
"""Maximum characters of the other texts and of the owners' names, tried in this order."""
_JSON_FIELDS = frozenset({"hops", "token_details"})
_MAX_BY_FIELD = {"status": 2**15 - 1, "attempts": 2**31 - 1, "choices": 2**31 - 1}


def row_of(record: UsageRecord) -> LedgerRow:
    """Returns a record's values in the order of its fields; an impossible number becomes None."""
    row: LedgerRow = tuple(record)
    if all(count is None or 0 <= count <= _MAX_NUMBER for count in row[_COUNTED]):
        return row
    return repair(row)


def encode(row: LedgerRow) -> bytes:
    """Encodes a row as one line of JSON, without a newline."""
    with contextlib.suppress(TypeError):
        line = orjson.dumps(row)
        if b"\\u0000" not in line:
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
)  # fmt: skip
"""The fields that the journal has of an admitted call; `started_at` in seconds since 1970."""
_FIRST_STARTED_FIELDS = STARTED_FIELDS.index("streamed") + 1

_LOST_VALUES: dict[str, object] = {
    "model_resolved": None, "provider": None, "deployment": None, "status": 0, "outcome": "lost",
    "refusal_code": None, "prompt_tokens": None, "completion_tokens": None, "cached_tokens": None,
    "reasoning_tokens": None, "cost_nano_usd": None, "usage_source": "unknown", "cache": "miss",
    "attempts": None, "latency_ms": 0.0, "ttft_ms": None, "group_asked": None, "hops": None,
    "provider_message": None, "would_refuse": None, "cache_write_tokens": None, "token_details": None,
    "service_tier": None, "prompt_bytes": None, "max_tokens": None, "choices": None,
}  # fmt: skip


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
    "attempts", "would_refuse",
)  # fmt: skip
_REDACTED_FIELDS = ("tenant", "agent", "group")
"""Names that callers or operators chose."""
_logged_values = itemgetter(*(FIELDS.index(name) for name in _LOGGED_FIELDS))
_LINE_COST, _LINE_LATENCY, _LINE_TTFT = (
    FIELDS.index(name) for name in ("cost_nano_usd", "latency_ms", "ttft_ms")
)

_is_known = partial(is_not, None)
_redact_cached = lru_cache(maxsize=4096)(redact)


def log_fields(row: LedgerRow) -> dict[str, Any]:
    """Returns the fields of a call's log line, without unknown ones.

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
    return line
