"""Maps a sidecar's error, or a stream's error event, to an `APIError`.

The caller gets the provider's message, cleaned, where the request is at fault; else a message of ours, and
the provider's goes to the record. Invariants: 401 is only ever about our keys; a provider's 401 or 403 is
502 `provider_auth`, except for flagged input; text of a body of unknown shape is never passed on.
"""

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import orjson

from llm_proxy.error_body import header_wait_s, parse_quoted_body, stated_wait_s
from llm_proxy.errors import (
    APIError,
    GuardrailFailed,
    GuardrailRejected,
    ModelNotFound,
    Overloaded,
    ProviderAuthError,
    ProviderFailed,
    ProviderOverloaded,
    ProviderQuotaExceeded,
    ProviderRateLimited,
    ProviderRejected,
    UpstreamCoolingDown,
    UpstreamTimeout,
    UpstreamUnreachable,
    with_request_id,
)
from llm_proxy.json_access import as_object
from llm_proxy.quantities import NOTHING, USAGE_HEADER
from llm_proxy.upstream.error_kinds import (
    FLAGGED_CONTENT,
    FORWARDED_STATUSES,
    FailureFacts,
    classify_failure,
    find_named_field,
)
from llm_proxy.upstream.error_text import clean_message, without_request_text
from llm_proxy.upstream.file_faults import link_error, malformed_file
from llm_proxy.upstream.token_usage import TokenUsage, read_usage, stated_usage

Headers = Mapping[str, str]

OVERLOADED_WAIT_S = 5.0
"""The retry-after of an overloaded provider that states none."""

_MAX_TEXT_CHARS = 16_000
"""Of an error's text, in characters: a provider's own message stands at its beginning."""
_STATUS = re.compile(r"[1-5][0-9]{2}")
_PARAM = re.compile(r"^[A-Za-z_][\w.\[\]-]{0,99}$")
_CODE = re.compile(r"^[a-z][a-z0-9_]{0,63}$")
_LITELLM = re.compile(r"^litellm\.(?P<kind>\w+): (?:\w+(?:Exception|Error) - )?(?P<rest>.*)", re.DOTALL)

_UNKNOWN_MODEL = (
    "Invalid model name passed",
    "no healthy deployments",
    "There are no healthy deployments",
    "Model group",
)
_POLICY_CODES = frozenset({"content_policy_violation", "moderation_blocked"})
"""OpenAI's codes of what it does not answer: of texts, and of images."""
_COOLING = ("all_deployments_in_cooldown", "No deployments available")
_PROMPTS = frozenset({"input", "messages"})
_OUR_KEY = ("no_db_connection", "No connected db", "token_not_found_in_db", "auth_error")


def map_error(
    status: int,
    headers: Headers,
    body: bytes,
    *,
    model: str,
    fields: Collection[str] = (),
    sent_body: bytes = b"",
    request_id: str = "",
) -> APIError:
    """Returns the error for a sidecar's response with an error status.

    Args:
        status: The sidecar's status.
        headers: Its headers, lower-case names.
        body: Its body, whatever it holds.
        model: The name the caller requested.
        fields: The names of the request's fields, to name the one at fault.
        sent_body: The request as it was sent, to remove it from what is recorded.
        request_id: For messages that say nothing else.
    """
    failure = _read_failure(status, headers, body, fields)
    mapped = _sidecar_error(failure, model, sent_body) if failure.origin != "provider" else None
    if mapped is None:
        mapped = _provider_error(failure, request_id)
    mapped.provider_message = _recorded_message(failure, lambda: sent_body)
    if isinstance(mapped, GuardrailRejected | GuardrailFailed):
        _note_guardrail(mapped, headers)
    return mapped


def _note_guardrail(error: APIError, headers: Headers) -> None:
    """Notes the guardrail's name for the record, and what a rejected answer used."""
    name = headers.get("x-llmp-guardrail")
    if name:
        error.provider_message = f"guardrail {name}: {error.provider_message or error.message}"
    error.usage = _rejected_usage(headers.get(USAGE_HEADER, "").encode())
    error.may_have_executed = headers.get("x-llmp-attempts", "0") != "0"


def _rejected_usage(text: bytes) -> TokenUsage | None:
    stated = stated_usage(text)
    if stated is not None and stated.quantities != NOTHING:
        return stated
    with suppress(orjson.JSONDecodeError):
        return read_usage(as_object(orjson.loads(text)))
    return None


def map_stream_error(
    error: Mapping[str, Any], *, fields: Collection[str] = (), sent_body: Callable[[], bytes] = bytes
) -> APIError:
    """Returns the error for a stream that ends in an error event.

    Args:
        error: The event's object.
        fields: The names of the request's fields, to name the one at fault.
        sent_body: Returns the request as it was sent; called only where a message may repeat it.
    """
    error_headers = {str(name): str(value) for name, value in as_object(error.get("provider")).items()}
    code, text = str(error.get("code") or ""), str(error.get("message") or "")
    status = int(code) if _STATUS.fullmatch(code) and code >= "400" else 500
    failure = _read_failure(status, error_headers, orjson.dumps({"error": dict(error)}), fields)
    mapped: APIError
    if failure.origin == "guardrail":
        mapped = _guardrail_error(failure)
    elif code == "upstream_stream_cut":
        message = "The model's answer broke off before its end."
        mapped = ProviderFailed(message, code="upstream_stream_cut")
    elif "imeout" in text or code == "408":
        mapped = UpstreamTimeout("The model stopped sending in the middle of its answer.")
    else:
        mapped = _provider_error(failure, "")
    mapped.provider_message = _recorded_message(failure, sent_body) if error_headers else None
    if failure.origin == "guardrail":
        _note_guardrail(mapped, error_headers)
    return mapped


def _recorded_message(failure: FailureFacts, sent_body: Callable[[], bytes]) -> str | None:
    """Why the call failed, for the record and the log: cleaned, without what the request also holds."""
    wording = failure.message or failure.reason
    if wording:
        cleaned = without_request_text(wording, sent_body())
        if cleaned is None and failure.reason:
            cleaned = failure.reason.partition(":")[0]  # the error's class
        if cleaned is None:
            return f"status {failure.status}, message not kept: the request is too large to compare"
        found = clean_message(cleaned)
        if found:
            return found
    return (
        f"status {failure.status}, without a message of a known shape"
        if failure.origin == "provider"
        else None
    )


def _sidecar_error(failure: FailureFacts, model: str, sent_body: bytes) -> APIError | None:
    """The error for what the sidecar, LiteLLM or a guardrail rejected by itself; None for anything else."""
    status, text = failure.status, failure.full_text
    mapped: APIError | None = None
    if _any(_COOLING, text):
        message = "The model is unavailable after failures of its provider; please try again later."
        mapped = UpstreamCoolingDown(message, retry_after_s=failure.wait_s or 5)
    elif status in (400, 404) and _any(_UNKNOWN_MODEL, text):
        message = f"The model `{model[:200]}` does not exist or you do not have access to it."
        mapped = ModelNotFound(message, param="model")
    elif _any(_OUR_KEY, text) or (status == 401 and "Authentication Error" in text):
        mapped = UpstreamUnreachable("The gateway could not use its model backend.", code="upstream_auth")
    elif status == 503 and "capacity" in text:
        message = "Too many requests are running; please try again."
        mapped = Overloaded(message, retry_after_s=failure.wait_s or 1)
    elif failure.origin == "guardrail":
        mapped = _guardrail_error(failure)
    elif failure.origin == "link":
        mapped = link_error(failure.reason or "", sent_body)
    elif failure.origin == "translation" or "UnsupportedParamsError" in text:
        mapped = _untranslatable(failure, sent_body)
    return mapped


def _guardrail_error(failure: FailureFacts) -> APIError:
    """A guardrail's rejection has its own status and text; 401 would be about a caller's key."""
    if not 400 <= failure.status < 500:
        return GuardrailFailed("A guardrail could not check this request; please try again later.")
    mapped = GuardrailRejected(clean_message(failure.message or "") or "A guardrail rejected this request.")
    mapped.status = 400 if failure.status == 401 else failure.status
    return mapped


def _untranslatable(failure: FailureFacts, sent_body: bytes) -> ProviderRejected:
    """The request never reached the provider: LiteLLM could not put it into the provider's words."""
    unsupported = "UnsupportedParamsError" in failure.full_text
    message = clean_message(failure.message or "")
    param = find_named_field(message, failure.fields) or (
        failure.param if failure.param in failure.fields else None
    )
    if not message and (param is None or param in _PROMPTS) and (place := malformed_file(sent_body)):
        message = f"Invalid '{place}': expected a link, or a data URL with a media type and base64."
        return ProviderRejected(message, param=place, code="unsupported_value")
    at_fault = f"`{param}`" if param else "Something in the request"
    return ProviderRejected(
        message or f"{at_fault} is malformed, or the model's provider does not know it.",
        param=param,
        code="unsupported_parameter" if unsupported else "unsupported_value",
    )


def _provider_error(failure: FailureFacts, request_id: str) -> APIError:
    """Returns the error for a provider's failure, by its kind."""
    mapped: APIError
    match classify_failure(failure):
        case "quota":
            mapped = ProviderQuotaExceeded("The provider's quota for this model is used up.")
        case "credentials":
            mapped = ProviderAuthError("The model's provider did not accept the gateway's credentials.")
        case "rate_limit":
            message = "The model's provider is limiting requests; please try again later."
            mapped = ProviderRateLimited(message, retry_after_s=failure.wait_s)
        case "context":
            mapped = _too_long(failure)
        case "timeout":
            mapped = UpstreamTimeout("The model did not answer in time.")
        case "overload":
            message = "The model's provider is overloaded; please try again later."
            mapped = ProviderOverloaded(message, retry_after_s=failure.wait_s or OVERLOADED_WAIT_S)
        case "flagged" | "request":
            mapped = _at_fault(failure, request_id)
        case "failure":
            message = "The model's provider failed to answer."
            mapped = ProviderFailed(message, retry_after_s=failure.wait_s)
    return mapped


def _too_long(failure: FailureFacts) -> ProviderRejected:
    message = clean_message(failure.message or "") or "The request is longer than the model's context."
    prompt = next((name for name in ("messages", "prompt", "input") if name in failure.fields), "messages")
    return ProviderRejected(message, param=_param(failure) or prompt, code="context_length_exceeded")


def _at_fault(failure: FailureFacts, request_id: str) -> ProviderRejected:
    """The request is at fault: the provider's own message, where its statuses are ours."""
    passed = clean_message(failure.message or "") if failure.status in FORWARDED_STATUSES else ""
    param, code = _param(failure), _matching(_CODE, failure.code)
    if code == failure.type:
        code = None  # a provider without codes, whose type stands for one
    general = "The model's provider rejected the request as invalid"
    if failure.status == 404:
        general = "The provider does not know this model"
        param, code = param or "model", code or "model_not_found"
    if failure.status == 413:
        code = code or "request_too_large"
    if failure.status == 403 or FLAGGED_CONTENT.search(failure.classified_text):
        general = "The provider's content policy rejected this request"
        code = code if code in _POLICY_CODES else "content_policy_violation"
    at = f" (at `{param}`)" if param and failure.status != 404 else ""
    message = passed or with_request_id(f"{general}{at}.", request_id)
    mapped = ProviderRejected(message, param=param, code=code)
    if failure.status in FORWARDED_STATUSES:
        mapped.status = failure.status
    return mapped


def _param(failure: FailureFacts) -> str | None:
    return _matching(_PARAM, failure.param) or find_named_field(failure.message or "", failure.fields)


def _read_failure(status: int, headers: Headers, body: bytes, fields: Collection[str]) -> FailureFacts:
    text, error = _body_of(body)
    text = text[:_MAX_TEXT_CHARS]
    provider_status = _int(headers.get("x-llmp-provider-status"))
    guardrail_status = _int(headers.get("x-llmp-guardrail-status"))
    message = headers.get("x-llmp-message")
    code, kind, param = (
        headers.get(f"x-llmp-provider-{name}") or error.get(name) for name in ("code", "type", "param")
    )
    param = headers.get("x-llmp-field") or param
    waits = [_number(headers.get("x-llmp-retry-after")), header_wait_s(headers)]
    origin = headers.get("x-llmp-origin", "")
    if provider_status is not None or (
        origin != "guardrail" and any(name.startswith("llm_provider-") for name in headers)
    ):
        origin = "provider"
    wording = unquote(message) if message is not None else None
    reason = wording if origin in ("connection", "answer", "link") else None
    wording = wording if reason is None else None
    if wording is None and "x-llmp-attempts" not in headers:
        wording = _quoted_by_litellm(text)
    waits.append(stated_wait_s(wording or text))
    return FailureFacts(
        status=provider_status or guardrail_status or status,
        code=_string(code),
        type=_string(kind),
        param=_string(param),
        message=wording,
        reason=reason,
        wait_s=max((wait for wait in waits if wait is not None), default=None),
        origin=origin,
        full_text=f"{code} {kind} {text}",
        fields=fields,
    )


def _quoted_by_litellm(text: str) -> str | None:
    """Returns the provider's message inside LiteLLM's, where the sidecar's headers do not carry it."""
    found = _LITELLM.match(text)
    if found is None:
        return None
    body = parse_quoted_body(found["rest"])
    return body.message if body is not None else found["rest"]


def _body_of(body: bytes) -> tuple[str, dict[str, Any]]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:2000].decode("utf-8", "replace"), {}
    parsed = as_object(document)
    error = as_object(parsed.get("error"))
    if error:
        return str(error.get("message") or ""), error
    return str(parsed.get("error") or parsed.get("detail") or parsed.get("message") or document)[:2000], {}


def _any(needles: tuple[str, ...], hay: str) -> bool:
    return any(needle in hay for needle in needles)


def _matching(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.match(value) else None


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value not in ("", "None") else None


def _int(value: str | None) -> int | None:
    return int(value) if value is not None and _STATUS.fullmatch(value) else None


def _number(value: str | None) -> float | None:
    return header_wait_s({"retry-after": value}) if value else None
