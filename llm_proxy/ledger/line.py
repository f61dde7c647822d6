"""What the log says of a call that ended: one line, with the request's id and no text of anybody's.

Pure. Invariant: names a caller chose are redacted like any other text; user, session and the caller's own
request id stay out, they belong to people.
"""

from functools import lru_cache, partial
from itertools import compress
from operator import is_not, itemgetter
from typing import Any

from llm_proxy.ledger.row import FIELDS, Row
from llm_proxy.telemetry.redact import redact

_SHOWN = (
    "request_id", "key_prefix", "tenant", "agent", "door", "dialect", "group", "model_resolved", "provider",
    "deployment", "streamed", "status", "outcome", "refusal_code", "prompt_tokens", "completion_tokens",
    "cached_tokens", "cache_write_tokens", "reasoning_tokens", "service_tier", "usage_source", "cache",
    "attempts", "would_refuse",
)  # fmt: skip
_CHOSEN = ("tenant", "agent", "group")
"""Names a caller or an operator made up."""
_shown = itemgetter(*(FIELDS.index(name) for name in _SHOWN))
_COST, _LATENCY, _TTFT = (FIELDS.index(name) for name in ("cost_nano_usd", "latency_ms", "ttft_ms"))

_is_known = partial(is_not, None)
_clean = lru_cache(maxsize=4096)(redact)


def line_of(row: Row) -> dict[str, Any]:
    """The fields of the line; what is unknown is left out."""
    values = _shown(row)
    line: dict[str, Any] = dict(compress(zip(_SHOWN, values, strict=True), map(_is_known, values)))
    for name in _CHOSEN:
        if name in line:
            line[name] = _clean(line[name])
    if row[_COST] is not None:
        line["cost_usd"] = row[_COST] / 1e9
    line["latency_ms"] = round(row[_LATENCY], 1)
    if row[_TTFT] is not None:
        line["ttft_ms"] = round(row[_TTFT], 1)
    return line
