"""What a provider said when a call failed: status, code, type, param, Retry-After, as `x-llmp-*` headers.

LiteLLM words errors anew and drops these. They are found by walking from its error to the one it was made
of. Invariants: pure; values are printable ASCII of at most 200 characters; no header at all when the
provider said nothing (a refusal of LiteLLM's own, a connection that broke).
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from llm_proxy.sidecar.shapes import Json, mapping

LONGEST = 200
# What LiteLLM makes a 422 of: an answer with status 200 that it cannot read.
UNREADABLE = ("error converting to valid response block", "error processing=")


def headers(error: BaseException | None) -> list[tuple[bytes, bytes]]:
    """The headers that tell the gateway what the provider said; empty when it said nothing."""
    for cause in chain(error):
        found = _answer_of(cause)
        if found is not None:
            status, body, retry_after = found
            said = _wording(body)
            values = {"status": status, **said, "retry-after": retry_after}
            return [_header(name, value) for name, value in values.items() if value not in (None, "")]
    return []


def retry_after_s(error: BaseException | None) -> float:
    """Seconds the provider asks to wait, 0 when it does not say; RFC 9110, 10.2.3: seconds or a date."""
    for cause in chain(error):
        found = _answer_of(cause)
        if found is not None:
            return _seconds(found[2])
    return 0.0


def _seconds(value: str | None) -> float:
    if not value:
        return 0.0
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it was made of, outermost first, each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting and len(seen) < 20:
        current = waiting.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        original = getattr(current, "original_exception", None)
        waiting += [
            original if isinstance(original, BaseException) else None,
            current.__cause__,
            current.__context__,
        ]


def is_unreadable(error: BaseException) -> bool:
    """Whether the provider's answer was good by its status, and nothing LiteLLM could read."""
    said = str(error).lower()
    return any(words in said for words in UNREADABLE)


def _answer_of(error: BaseException) -> tuple[int, Json, str | None] | None:
    """Status, body and Retry-After of the provider's answer inside an error."""
    response = getattr(error, "response", None)
    sent: Mapping[str, str] = getattr(response, "headers", None) or getattr(error, "headers", None) or {}
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    # Answers LiteLLM makes up have no headers; every real one has some.
    if not isinstance(status, int) or not sent or status < 400 or is_unreadable(error):
        return None
    retry_after = next((value for name, value in sent.items() if name.lower() == "retry-after"), None)
    return status, _body(error, response), retry_after


def _body(error: BaseException, response: object) -> Json:
    given = mapping(getattr(error, "body", None))
    if given:
        return given
    for text in (_text(response), getattr(error, "message", None), str(error)):
        found = _object_in(text)
        if found:
            return found
    return {}


def _text(response: object) -> str | None:
    try:
        return getattr(response, "text", None)
    except Exception:  # noqa: BLE001 -- a response that was never read raises an error of its client
        return None


def _object_in(text: object) -> Json | None:
    raw = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if not isinstance(raw, str) or "{" not in raw:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(raw[raw.index("{") :])
    except ValueError:
        return None
    return mapping(found)


def _wording(body: Json) -> Json:
    """Code, type and param in the provider's words: OpenAI's, Anthropic's or Google's shape."""
    inner = mapping(body.get("error", body))
    code, kind = inner.get("code"), inner.get("type")
    if isinstance(code, int):  # Google: the code is the HTTP status, the word is in `status`
        code = inner.get("status")
    return {"code": code or kind, "type": kind or inner.get("status"), "param": inner.get("param")}


def _header(name: str, value: object) -> tuple[bytes, bytes]:
    full = f"x-llmp-{name}" if name == "retry-after" else f"x-llmp-provider-{name}"
    printable = "".join(c if " " <= c <= "~" else "?" for c in str(value))
    return full.encode(), printable[:LONGEST].strip().encode()
