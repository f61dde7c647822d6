"""Errors of providers: found inside LiteLLM's exceptions, or stated in an answer with status 200.

LiteLLM rewrites errors and drops status, code and retry-after; they are read from the exception's causes and
sent to the gateway as `x-llmp-*` headers. Invariants: pure; header values are printable ASCII, the message is
percent-encoded; a provider's status is sent only if a provider responded; no configured secret is sent; an
empty error object states no failure.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple
from urllib.parse import quote

from llm_proxy.error_body import ErrorBody, header_wait_s, parse_body, parse_document, parse_quoted_body
from llm_proxy.json_access import Json, as_list, as_object, read_object

Origin = Literal["guardrail", "litellm", "link", "translation", "connection", "answer"]
"""What failed if no provider responded with an error: a guardrail, LiteLLM's checks, its fetching of a link,
its translation of the request, the network, or its parsing of the provider's answer."""

MAX_HEADER_CHARS = 200
MAX_MESSAGE_CHARS = 2_000
MAX_ENCODED_CHARS = 6_000
UNESCAPED = " !#$&'()*+,/:;<=>?@[]^`{|}\"\\"
# LiteLLM raises these, with status 422, for an answer with status 200 that it cannot parse.
UNREADABLE_TEXTS = ("error converting to valid response block", "error processing=")
NETWORK_PACKAGES = frozenset({"aiohttp", "httpcore", "httpx"})
CREDENTIAL_PACKAGES = frozenset({"boto3", "botocore", "google", "requests"})
CUSTOM_PROVIDER_ERROR = "CustomLLMError"
"""The exception of a provider written by the operator; its status and message are the provider's."""
LITELLM_CHECKS = frozenset({"BadRequestError", "UnsupportedParamsError"})
LINK_ERROR = "ImageFetchError"
"""LiteLLM's exception for a link, also to a document, that it did not fetch."""
GUARDRAIL_FAILED = 500
"""The status of an exception without one: the guardrail failed, and LiteLLM lets nothing pass then."""
CONTENT_REJECTION = re.compile(
    r"flagged|moderation|safety|content[ _](?:polic|filter)|violates? (?:\w+ )?(?:usage|content|policy)",
    re.IGNORECASE,
)
MISREPORTED_STATUS = 500
MISREPORTED = re.compile(
    r"\b(?:image|audio|video) input is not supported|missing data required for image input|"
    r"\bjinja exception: |\broles must alternate\b|\binput (?:\(\d+ tokens\) )?is too large to process",
    re.IGNORECASE,
)
"""What llama.cpp, and Ollama, answer with status 500 although the request is at fault: a picture for a model
of texts, messages that the model's template rejects by its `raise_exception`, too long a text to embed."""
TEMPLATE_SOURCE = re.compile(r"^.*\bJinja Exception: | at row \d+, column \d+:.*$", re.DOTALL)
"""The lines of the template around its own message."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A provider's error response.

    Attributes:
        status: The HTTP status.
        body: The parsed body; None if its format is unknown.
        wait_s: The seconds to wait that the response states; None if it states none.
    """

    status: int
    body: ErrorBody | None
    wait_s: float | None


def find_response(error: BaseException | None) -> ErrorResponse | None:
    """Return the provider's response in an exception's causes; None if no provider responded.

    The outermost exception determines the status. LiteLLM keeps body and headers in inner ones only.
    A 500 whose message says that the request is at fault is 400.
    """
    found = _find_response(error)
    if found is None or found.body is None or not _is_misreported(found):
        return found
    message = TEMPLATE_SOURCE.sub("", found.body.message or "")
    return ErrorResponse(400, replace(found.body, message=message), found.wait_s)


def _find_response(error: BaseException | None) -> ErrorResponse | None:
    found = [one for cause in causes_of(error) if (one := _response_of(cause)) is not None]
    same = [one for one in found if one.status == found[0].status]
    if not same:
        return None
    body = next((one.body for one in same if one.body is not None), None)
    wait_s = max((one.wait_s for one in same if one.wait_s is not None), default=None)
    return ErrorResponse(same[0].status, body, wait_s)


def headers_of_error(
    error: BaseException | None,
    *,
    sent: bool = True,
    by_guardrail: bool = False,
    field: str | None = None,
    secrets: Iterable[str] = (),
) -> list[tuple[bytes, bytes]]:
    """Return the `x-llmp-*` headers of an error; empty if nothing is known.

    Args:
        error: The exception LiteLLM gave up with.
        sent: Whether the request was translated into the provider's format.
        by_guardrail: Whether a guardrail raised it.
        field: The request field that could not be translated, if known.
        secrets: Texts of the configuration to remove from the message.
    """
    found = find_response(error)
    if found is not None:
        body = found.body or ErrorBody()
        stated = {"status": str(found.status), "code": body.code, "type": body.type, "param": body.param}
        lines = [_header(f"x-llmp-provider-{name}", value) for name, value in stated.items() if value]
        message, wait_s = body.message, found.wait_s
    else:
        origin, message = _origin(error, sent=sent, by_guardrail=by_guardrail)
        lines, wait_s = [_header("x-llmp-origin", origin)] if origin else [], None
        if origin == "guardrail":
            lines += [_header(name, value) for name, value in _guardrail_facts(error).items() if value]
        if origin == "translation" and field:
            lines.append(_header("x-llmp-field", field))
    if message:
        lines.append(_header("x-llmp-message", _encode_message(message, secrets), MAX_ENCODED_CHARS))
    if wait_s is not None:
        lines.append(_header("x-llmp-retry-after", f"{wait_s:.3f}".rstrip("0").rstrip(".")))
    return lines


def is_unanswered(error: BaseException | None) -> bool:
    """Whether no provider answered: it was not reached, was silent for too long, or broke off."""
    return find_response(error) is None and any(map(_is_of_network, causes_of(error)))


def retry_after_s(error: BaseException | None) -> float:
    """Return the seconds to wait that the provider's response states, 0 if it states none."""
    found = find_response(error)
    return (found.wait_s or 0.0) if found is not None else 0.0


def is_content_rejection(error: BaseException) -> bool:
    """Whether a provider's 403 rejects the request's text and not its credentials."""
    found = find_response(error)
    message = found.body.message if found is not None and found.body is not None else None
    return found is not None and found.status == 403 and bool(CONTENT_REJECTION.search(message or ""))


def is_misreported(error: BaseException) -> bool:
    """Whether a provider answered 500 although its message says that the request is at fault."""
    found = _find_response(error)
    return found is not None and _is_misreported(found)


def is_translation_error(error: BaseException | None) -> bool:
    """Whether an exception comes from the translation of the request, not from network or credentials."""
    elsewhere = NETWORK_PACKAGES | CREDENTIAL_PACKAGES | {"openai"}
    causes = list(causes_of(error))
    if any(isinstance(cause, OSError) or _package(cause) in elsewhere for cause in causes):
        return False
    return bool(causes) and getattr(error, "status_code", 500) not in (401, 403, 408, 429)


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, outermost first, each once, at most 20."""
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
    """Whether LiteLLM could not parse a provider's answer with status 200."""
    message = str(error).lower()
    return any(text in message for text in UNREADABLE_TEXTS)


def _is_misreported(found: ErrorResponse) -> bool:
    message = found.body.message if found.body is not None else None
    return found.status == MISREPORTED_STATUS and bool(MISREPORTED.search(message or ""))


def _response_of(error: BaseException) -> ErrorResponse | None:
    if type(error).__name__ == CUSTOM_PROVIDER_ERROR:
        return _custom_response_of(error)
    response = getattr(error, "response", None)
    headers: Mapping[str, str] = getattr(response, "headers", None) or getattr(error, "headers", None) or {}
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    # A response that LiteLLM invented has no headers; every real one has some.
    if not isinstance(status, int) or not headers or status < 400 or is_unreadable_response(error):
        return None
    body = _body(error, response)
    waits = [header_wait_s(headers), body.wait_s if body else None]
    return ErrorResponse(status, body, max((wait for wait in waits if wait is not None), default=None))


def _custom_response_of(error: BaseException) -> ErrorResponse | None:
    status: object = getattr(error, "status_code", None)
    if not isinstance(status, int) or status < 400:
        return None
    body = parse_document({"message": getattr(error, "message", None)})
    return ErrorResponse(status, body, body.wait_s if body else None)


def _body(error: BaseException, response: object) -> ErrorBody | None:
    text = _text(response)
    if text:
        return parse_body(text)
    parsed = as_object(getattr(error, "body", None))
    if parsed:
        return parse_document(parsed)
    texts = [one for one in (getattr(error, "message", None), str(error)) if isinstance(one, str)]
    return next((found for found in map(parse_quoted_body, texts) if found is not None), None)


def _text(response: object) -> str | None:
    try:
        text: object = getattr(response, "text", None)
    except Exception:  # noqa: BLE001 -- an unread response raises an exception of its HTTP client
        return None
    return text if isinstance(text, str) else None


def _origin(
    error: BaseException | None, *, sent: bool, by_guardrail: bool
) -> tuple[Origin | None, str | None]:
    """Return what failed in a call without a provider's response, and the message."""
    causes = list(causes_of(error))
    if by_guardrail and error is not None:
        detail: object = getattr(error, "detail", None) or getattr(error, "message", None) or str(error)
        found = parse_document({"detail": detail})
        return "guardrail", found.message if found else None
    link = next((cause for cause in causes if type(cause).__name__ == LINK_ERROR), None)
    if link is not None:
        network = next((f"{type(one).__name__}: {one}; " for one in causes if _is_of_network(one)), "")
        return "link", f"{network}{getattr(link, 'message', '')}"
    of_litellm = bool(causes) and all(_package(cause) == "litellm" for cause in causes)
    if of_litellm and type(causes[-1]).__name__ in LITELLM_CHECKS:
        return "litellm", str(getattr(causes[-1], "message", ""))
    for cause in reversed(causes):
        if _is_of_network(cause):
            return "connection", f"{type(cause).__name__}: {cause}"
    if not sent and is_translation_error(error):
        return "translation", None
    return ("answer", type(causes[-1]).__name__) if causes else (None, None)


def _guardrail_facts(error: BaseException | None) -> dict[str, object]:
    """Return a rejecting guardrail's status, 500 where it failed, and its name if the exception has it."""
    status: object = getattr(error, "status_code", None)
    named = as_object(getattr(error, "detail", None)).get("guardrail_name")
    return {
        "x-llmp-guardrail": named or getattr(error, "guardrail_name", None),
        "x-llmp-guardrail-status": status if isinstance(status, int) else GUARDRAIL_FAILED,
    }


def _is_of_network(error: BaseException) -> bool:
    return isinstance(error, OSError) or _package(error) in NETWORK_PACKAGES


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _encode_message(message: str, secrets: Iterable[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        message = message.replace(secret, "[removed]")
    if len(message) > MAX_MESSAGE_CHARS:  # between words: half a key would not be recognized
        message = message[:MAX_MESSAGE_CHARS].rsplit(None, 1)[0]
    encoded = quote(message, safe=UNESCAPED, errors="replace")
    return encoded if len(encoded) <= MAX_ENCODED_CHARS else encoded[:MAX_ENCODED_CHARS].rpartition(" ")[0]


def _header(name: str, value: object, max_chars: int = MAX_HEADER_CHARS) -> tuple[bytes, bytes]:
    printable = "".join(c if " " <= c <= "~" else "?" for c in str(value))
    return name.encode(), printable[:max_chars].strip().encode()


STATUS_DIGITS = 3
FAILED_REASONS = frozenset(
    {"abort", "aborted", "error", "failed", "insufficient_system_resource", "network_error"}
)
"""Finish reasons of a failure, lower case: OpenRouter's, vLLM's, DeepSeek's, Zhipu's."""
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
    "moderation_blocked": 400,
    "user_error": 400,
    "invalid": 400,
    "badrequest": 400,
    "bad_request": 400,
}
"""A part of an error's code, type or status -> its HTTP status; the first match counts."""


class StatedFailure(NamedTuple):
    """A failure that an answer with status 200 states.

    Attributes:
        status: The HTTP status of such a failure.
        body: The body of a response with that status.
        retry_after: Seconds or an HTTP date, as stated.
    """

    status: int
    body: Json
    retry_after: str | None = None

    @property
    def message(self) -> str:
        """The provider's message."""
        error = self.body.get("error")
        return str(error if isinstance(error, str) else as_object(error).get("message") or error)


def find_failure(document: Json, *, error_event: bool = False) -> StatedFailure | None:
    """Return the failure a JSON document states, if any; that of an `error` event always states one."""
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
    """Return the failure that the data of an event states, if any."""
    if not error_event and '"error"' not in text:
        return None
    document = read_object(text, strict=False)
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
    kinds = [*(stated.get(name) for name in ("code", "type", "status")), document.get("type")]
    for text in (" ".join(map(str, kinds)), str(stated.get("message") or (error if not stated else ""))):
        for part, status in STATUS_OF.items():
            if part in text.lower():
                return status
    return 500


def _retry_after(stated: Json) -> str | None:
    headers = as_object(as_object(stated.get("metadata")).get("headers"))
    for name, value in [*headers.items(), ("retry-after", stated.get("retry_after"))]:
        if name.lower() == "retry-after" and value is not None:
            return str(value)
    return None
