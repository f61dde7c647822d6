"""Errors of providers: found inside LiteLLM's exceptions, or stated in an answer with status 200.

LiteLLM rewrites errors and drops status, code and retry-after; they are read from the exception's causes and
sent to the gateway as `x-llmp-*` headers. Invariants: pure; header values are printable ASCII, the message is
percent-encoded; a provider's status is sent only if a provider responded; no configured secret is sent; an
empty error object states no failure.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import quote

from llm_proxy.error_body import ErrorBody, header_wait_s, parse_body, parse_document, parse_quoted_body
from llm_proxy.json_access import Json, as_list, as_object

Origin = Literal["guardrail", "litellm", "translation", "connection", "answer"]
"""What failed, when no provider answered with an error: a guardrail refused, LiteLLM's checks or translation
did, the network, or the reading of an answer."""

LONGEST = 200
MAX_MESSAGE_CHARS = 2_000
MAX_ENCODED_CHARS = 6_000
UNESCAPED = " !#$&'()*+,/:;<=>?@[]^`{|}\"\\"
# What LiteLLM makes a 422 of: an answer with status 200 that it cannot read.
UNREADABLE_TEXTS = ("error converting to valid response block", "error processing=")
NETWORK_PACKAGES = frozenset({"aiohttp", "httpcore", "httpx"})
CREDENTIAL_PACKAGES = frozenset({"boto3", "botocore", "google", "requests"})
CUSTOM_PROVIDER_ERROR = "CustomLLMError"
"""What a provider that an owner has written raises; its status and message are the provider's."""
LITELLM_CHECKS = frozenset({"BadRequestError", "UnsupportedParamsError", "ImageFetchError"})
CONTENT_REJECTION = re.compile(
    r"flagged|moderation|safety|content[ _](?:polic|filter)|violates? (?:\w+ )?(?:usage|content|policy)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A provider's answer to a failed call; `body` is None when its shape is unknown."""

    status: int
    body: ErrorBody | None
    wait_s: float | None


def find_response(error: BaseException | None) -> Answer | None:
    """The provider's answer inside an error; None when no provider answered.

    The outermost error decides which answer it is; LiteLLM keeps its body and headers further in only.
    """
    found = [one for cause in causes_of(error) if (one := _response_of(cause)) is not None]
    same = [one for one in found if one.status == found[0].status]
    if not same:
        return None
    body = next((one.body for one in same if one.body is not None), None)
    return Answer(
        same[0].status, body, max((one.wait_s for one in same if one.wait_s is not None), default=None)
    )


def headers_of_error(
    error: BaseException | None,
    *,
    sent: bool = True,
    refused_by_hook: bool = False,
    field: str | None = None,
    secrets: Iterable[str] = (),
) -> list[tuple[bytes, bytes]]:
    """The headers for an error; empty when nothing is known.

    Args:
        error: What LiteLLM gave up with.
        sent: Whether the request was put into the provider's words.
        refused_by_hook: Whether a guardrail raised it.
        field: The field that could not be translated, where it is known.
        secrets: Texts of the configuration that no message may hold.
    """
    found = find_response(error)
    if found is not None:
        body = found.body or ErrorBody()
        told = {"status": str(found.status), "code": body.code, "type": body.type, "param": body.param}
        lines = [_header(f"x-llmp-provider-{name}", value) for name, value in told.items() if value]
        message, wait_s = body.message, found.wait_s
    else:
        origin, message = _origin(error, sent=sent, refused_by_hook=refused_by_hook)
        lines, wait_s = [_header("x-llmp-origin", origin)] if origin else [], None
        if origin == "translation" and field:
            lines.append(_header("x-llmp-field", field))
    if message:
        lines.append(_header("x-llmp-message", _encode_message(message, secrets), MAX_ENCODED_CHARS))
    if wait_s is not None:
        lines.append(_header("x-llmp-retry-after", f"{wait_s:.3f}".rstrip("0").rstrip(".")))
    return lines


def retry_after_s(error: BaseException | None) -> float:
    """Seconds the provider asks to wait, 0 when it does not say."""
    found = find_response(error)
    return (found.wait_s or 0.0) if found is not None else 0.0


def is_content_rejection(error: BaseException) -> bool:
    """Whether a provider's 403 is about the text of a request and not about who sends it."""
    found = find_response(error)
    message = found.body.message if found is not None and found.body is not None else None
    return found is not None and found.status == 403 and bool(CONTENT_REJECTION.search(message or ""))


def is_translation_error(error: BaseException | None) -> bool:
    """Whether an error is one of the code that reads a request, not of the network or of credentials."""
    elsewhere = NETWORK_PACKAGES | CREDENTIAL_PACKAGES | {"openai"}
    causes = list(causes_of(error))
    if any(isinstance(cause, OSError) or _package(cause) in elsewhere for cause in causes):
        return False
    return bool(causes) and getattr(error, "status_code", 500) not in (401, 403, 408, 429)


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
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


def is_unreadable_response(error: BaseException) -> bool:
    """Whether the provider's answer was good by its status, and nothing LiteLLM could read."""
    said = str(error).lower()
    return any(words in said for words in UNREADABLE_TEXTS)


def _response_of(error: BaseException) -> Answer | None:
    if type(error).__name__ == CUSTOM_PROVIDER_ERROR:
        return _custom_response_of(error)
    response = getattr(error, "response", None)
    sent: Mapping[str, str] = getattr(response, "headers", None) or getattr(error, "headers", None) or {}
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    # Answers LiteLLM makes up have no headers; every real one has some.
    if not isinstance(status, int) or not sent or status < 400 or is_unreadable_response(error):
        return None
    body = _body(error, response)
    waits = [header_wait_s(sent), body.wait_s if body else None]
    return Answer(status, body, max((wait for wait in waits if wait is not None), default=None))


def _custom_response_of(error: BaseException) -> Answer | None:
    status: object = getattr(error, "status_code", None)
    if not isinstance(status, int) or status < 400:
        return None
    body = parse_document({"message": getattr(error, "message", None)})
    return Answer(status, body, body.wait_s if body else None)


def _body(error: BaseException, response: object) -> ErrorBody | None:
    text = _text(response)
    if text:
        return parse_body(text)
    parsed = as_object(getattr(error, "body", None))
    if parsed:
        return parse_document(parsed)
    quoting = [one for one in (getattr(error, "message", None), str(error)) if isinstance(one, str)]
    return next((found for found in map(parse_quoted_body, quoting) if found is not None), None)


def _text(response: object) -> str | None:
    try:
        text: object = getattr(response, "text", None)
    except Exception:  # noqa: BLE001 -- a response that was never read raises an error of its client
        return None
    return text if isinstance(text, str) else None


def _origin(
    error: BaseException | None, *, sent: bool, refused_by_hook: bool
) -> tuple[Origin | None, str | None]:
    """Who refused a call that no provider answered, and in what words."""
    causes = list(causes_of(error))
    if refused_by_hook and error is not None:
        detail: object = getattr(error, "detail", None) or getattr(error, "message", None) or str(error)
        found = parse_document({"detail": detail})
        return "guardrail", found.message if found else None
    of_litellm = bool(causes) and all(_package(cause) == "litellm" for cause in causes)
    if of_litellm and type(causes[-1]).__name__ in LITELLM_CHECKS:
        return "litellm", str(getattr(causes[-1], "message", ""))
    for cause in reversed(causes):
        if _package(cause) in NETWORK_PACKAGES or isinstance(cause, OSError):
            return "connection", f"{type(cause).__name__}: {cause}"
    if not sent and is_translation_error(error):
        return "translation", None
    return ("answer", type(causes[-1]).__name__) if causes else (None, None)


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _encode_message(message: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        message = message.replace(secret, "[removed]")
    if len(message) > MAX_MESSAGE_CHARS:  # a key cut in two is no longer known as a key
        message = message[:MAX_MESSAGE_CHARS].rsplit(None, 1)[0]
    encoded = quote(message, safe=UNESCAPED, errors="replace")
    return encoded if len(encoded) <= MAX_ENCODED_CHARS else encoded[:MAX_ENCODED_CHARS].rpartition(" ")[0]


def _header(name: str, value: object, longest: int = LONGEST) -> tuple[bytes, bytes]:
    printable = "".join(c if " " <= c <= "~" else "?" for c in str(value))
    return name.encode(), printable[:longest].strip().encode()


STATUS_DIGITS = 3
FAILED_REASONS = frozenset(
    {"abort", "aborted", "error", "failed", "insufficient_system_resource", "network_error"}
)
"""Finish reasons that say that the provider failed: OpenRouter's, vLLM's, DeepSeek's, Zhipu's; lower case."""
STATUS_OF = {
    "authentication": 401,
    "unauthenticated": 401,
    "permission": 403,
    "not_found": 404,
    "too_large": 413,
    "rate_limit": 429,
    "rate limit": 429,
    "too many requests": 429,
    "resource_exhausted": 429,
    "quota": 429,
    "overloaded": 529,
    "unavailable": 503,
    "timeout": 504,
    "deadline_exceeded": 504,
    "context_length": 400,
    "context length": 400,
    "content_policy": 400,
    "invalid": 400,
    "badrequest": 400,
    "bad_request": 400,
}
"""Words of an error's code, type or status -> the HTTP status; the first that fits."""


class StatedFailure(NamedTuple):
    """A stated failure.

    Attributes:
        status: The HTTP status it stands for.
        body: The body an answer with that status would have had.
        retry_after: Seconds, or a date, as stated.
    """

    status: int
    body: Json
    retry_after: str | None = None

    @property
    def message(self) -> str:
        """The provider's words."""
        error = self.body.get("error")
        return str(error if isinstance(error, str) else as_object(error).get("message") or error)


def find_failure(document: Json, *, error_event: bool = False) -> StatedFailure | None:
    """The failure a document states, if any; a document of an `error` event always states one."""
    error = document.get("error")
    if _states_error(error):
        return _failure(error, document)
    if error_event or document.get("object") == "error":
        return _failure(document, {"error": document})
    for choice in map(as_object, as_list(document.get("choices"))):
        error = choice.get("error")
        if _states_error(error):
            return _failure(error, {"error": error})
        reason = choice.get("finish_reason")
        if is_failure_reason(reason):
            return StatedFailure(502, {"error": {"message": f"finish reason {reason}", "code": reason}})
    return None


def find_failure_in_text(text: str, *, error_event: bool = False) -> StatedFailure | None:
    """The same for an event's data."""
    if not error_event and '"error"' not in text:
        return None
    try:
        document = as_object(json.loads(text, strict=False))
    except (ValueError, RecursionError):
        document = {}
    if not document and error_event:
        document = {"error": {"message": text}}
    return find_failure(document, error_event=error_event) if document else None


def is_failure_reason(reason: object) -> bool:
    """Whether a finish reason means that the provider failed."""
    return isinstance(reason, str) and reason.lower() in FAILED_REASONS


def _states_error(error: object) -> bool:
    stated = as_object(error)
    if stated:
        return bool(stated.get("message")) or any(stated.get(name) for name in ("code", "type", "status"))
    return bool(error)


def _failure(error: object, document: Json) -> StatedFailure:
    stated = as_object(error)
    return StatedFailure(_status(error, stated, document), document, _retry_after(stated))


def _status(error: object, stated: Json, document: Json) -> int:
    numbers = ("code", "status", "status_code")
    for value in [*map(stated.get, numbers), *map(document.get, numbers)]:
        text = str(value)
        if len(text) == STATUS_DIGITS and text.isascii() and text.isdecimal() and 400 <= int(text) < 600:
            return int(text)
    words = [*(stated.get(name) for name in ("code", "type", "status")), document.get("type")]
    for said in (" ".join(map(str, words)), str(stated.get("message") or (error if not stated else ""))):
        for word, status in STATUS_OF.items():
            if word in said.lower():
                return status
    return 500


def _retry_after(stated: Json) -> str | None:
    sent = as_object(as_object(stated.get("metadata")).get("headers"))
    for name, value in [*sent.items(), ("retry-after", stated.get("retry_after"))]:
        if name.lower() == "retry-after" and value is not None:
            return str(value)
    return None
