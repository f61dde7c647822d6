"""Maps a sidecar's error, or a stream's error event, to an `APIError`.

The caller gets the provider's message, cleaned, where the request is at fault; else a message of ours, and
the provider's goes to the record. Invariants: 401 is only ever about our keys; a provider's 401 or 403 is
502 `provider_auth`, except for flagged input; text of a body of unknown shape reaches nobody.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import unquote

import orjson

from llm_proxy.error_body import header_wait_s, parse_quoted_body, stated_wait_s
from llm_proxy.errors import (
    APIError,
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
from llm_proxy.upstream.error_kinds import (
    FLAGGED_CONTENT,
    FORWARDED_STATUSES,
    FailureFacts,
    classify_failure,
    find_named_field,
)
from llm_proxy.upstream.error_text import clean_message, without_request_text

Headers = Mapping[str, str]

OVERLOADED_WAIT_S = 5.0
"""What a caller is told to wait when an overloaded provider does not say."""

_LONGEST_TEXT = 16_000
"""Of an error's text, in characters: what a provider says of itself stands at its beginning."""
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
_COOLING = ("all_deployments_in_cooldown", "No deployments available")
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
    """The error for a sidecar's answer with an error status.

    Args:
        status: The sidecar's status.
        headers: Its headers, lower-case names.
        body: Its body, whatever it holds.
        model: The name the caller asked for.
        fields: The names of the request's fields, to name the one at fault.
        sent_body: The request as it was sent, to cut it from what is kept.
        request_id: For messages that say nothing else.
    """
    said = _read(status, headers, body, fields)
    refused = _of_the_sidecar(said, model) if said.origin != "provider" else None
    if refused is None:
        refused = _of_the_provider(said, request_id)
    refused.provider_message = _kept(said, lambda: sent_body)
    return refused


def map_stream_error(
    error: Mapping[str, Any], *, fields: Collection[str] = (), sent_body: Callable[[], bytes] = bytes
) -> APIError:
    """The error for a stream that had begun and ends in an error.

    Args:
        error: The event's object.
        fields: The names of the request's fields, to name the one at fault.
        sent_body: Makes the request as it was sent; called only where there is a message to cut it from.
    """
    told = {str(name): str(value) for name, value in as_object(error.get("provider")).items()}
    code, text = str(error.get("code") or ""), str(error.get("message") or "")
    status = int(code) if _STATUS.fullmatch(code) and code >= "400" else 500
    said = _read(status, told, orjson.dumps({"error": dict(error)}), fields)
    refused: APIError
    if said.origin == "guardrail":
        refused = _guarded(said)
    elif code == "upstream_stream_cut":
        message = "The model's answer broke off before its end."
        refused = ProviderFailed(message, code="upstream_stream_cut")
    elif "imeout" in text or code == "408":
        refused = UpstreamTimeout("The model fell silent in the middle of its answer.")
    else:
        refused = _of_the_provider(said, "")
    refused.provider_message = _kept(said, sent_body) if told else None
    return refused


def _kept(said: FailureFacts, asked: Callable[[], bytes]) -> str | None:
    """Why the call failed, for the record and the log: cleaned, without what the request holds too."""
    words = said.message or said.reason
    if words:
        kept = without_request_text(words, asked())
        if kept is None and said.reason:
            kept = said.reason.partition(":")[0]  # the error's class
        if kept is None:
            return f"status {said.status}, message not kept: the request is too large to compare"
        found = clean_message(kept)
        if found:
            return found
    return f"status {said.status}, without a message of a known shape" if said.origin == "provider" else None


def _of_the_sidecar(said: FailureFacts, model: str) -> APIError | None:
    """The error for what the sidecar, LiteLLM or a guardrail refused by itself; None for anything else."""
    status, whole = said.status, said.full_text
    refused: APIError | None = None
    if _any(_COOLING, whole):
        message = "The model is not available for a moment; please try again later."
        refused = UpstreamCoolingDown(message, retry_after_s=said.wait_s or 5)
    elif status in (400, 404) and _any(_UNKNOWN_MODEL, whole):
        message = f"The model `{model[:200]}` does not exist or you do not have access to it."
        refused = ModelNotFound(message, param="model")
    elif _any(_OUR_KEY, whole) or (status == 401 and "Authentication Error" in whole):
        refused = UpstreamUnreachable("The gateway could not use its model backend.", code="upstream_auth")
    elif status == 503 and "capacity" in whole:
        message = "Too many requests are running; please try again."
        refused = Overloaded(message, retry_after_s=said.wait_s or 1)
    elif said.origin == "guardrail" and 400 <= status < 500:
        refused = _guarded(said)
    elif said.origin == "translation" or "UnsupportedParamsError" in whole:
        refused = _untranslatable(said)
    return refused


def _guarded(said: FailureFacts) -> ProviderRejected:
    message = clean_message(said.message or "") or "A guardrail refused this request."
    refused = ProviderRejected(message, code="content_policy_violation")
    if said.status in FORWARDED_STATUSES:
        refused.status = said.status
    return refused


def _untranslatable(said: FailureFacts) -> ProviderRejected:
    """The request never reached the provider: LiteLLM could not put it into the provider's words."""
    unsupported = "UnsupportedParamsError" in said.full_text
    message = clean_message(said.message or "")
    param = find_named_field(message, said.fields) or (said.param if said.param in said.fields else None)
    at_fault = f"`{param}`" if param else "Something in the request"
    return ProviderRejected(
        message or f"{at_fault} is malformed, or the model's provider does not know it.",
        param=param,
        code="unsupported_parameter" if unsupported else "unsupported_value",
    )


def _of_the_provider(said: FailureFacts, request_id: str) -> APIError:
    """The error for a provider's failure, by its kind."""
    refused: APIError
    match classify_failure(said):
        case "quota":
            refused = ProviderQuotaExceeded("The provider's quota for this model is used up.")
        case "credentials":
            refused = ProviderAuthError("The model's provider did not accept the gateway's credentials.")
        case "rate_limit":
            message = "The model's provider is limiting requests; please try again later."
            refused = ProviderRateLimited(message, retry_after_s=said.wait_s)
        case "context":
            refused = _too_long(said)
        case "timeout":
            refused = UpstreamTimeout("The model did not answer in time.")
        case "overload":
            message = "The model's provider is overloaded; please try again later."
            refused = ProviderOverloaded(message, retry_after_s=said.wait_s or OVERLOADED_WAIT_S)
        case "flagged" | "request":
            refused = _at_fault(said, request_id)
        case "failure":
            message = "The model's provider failed to answer."
            refused = ProviderFailed(message, retry_after_s=said.wait_s)
    return refused


def _too_long(said: FailureFacts) -> ProviderRejected:
    message = clean_message(said.message or "") or "The request is longer than the model's context."
    prompt = next((name for name in ("messages", "prompt", "input") if name in said.fields), "messages")
    return ProviderRejected(message, param=_param(said) or prompt, code="context_length_exceeded")


def _at_fault(said: FailureFacts, request_id: str) -> ProviderRejected:
    """The request is at fault: the provider's own message, where its statuses are ours."""
    passed = clean_message(said.message or "") if said.status in FORWARDED_STATUSES else ""
    param, code = _param(said), _matching(_CODE, said.code)
    if code == said.type:
        code = None  # a provider without codes, whose type stands for one
    general = "The model's provider refused the request as invalid"
    if said.status == 404:
        general = "The provider does not know this model"
        param, code = param or "model", code or "model_not_found"
    if said.status == 413:
        code = code or "request_too_large"
    if said.status == 403 or FLAGGED_CONTENT.search(said.classified_text):
        general, code = "The provider's content policy refused this request", "content_policy_violation"
    at = f" (at `{param}`)" if param and said.status != 404 else ""
    message = passed or with_request_id(f"{general}{at}.", request_id)
    refused = ProviderRejected(message, param=param, code=code)
    if said.status in FORWARDED_STATUSES:
        refused.status = said.status
    return refused


def _param(said: FailureFacts) -> str | None:
    return _matching(_PARAM, said.param) or find_named_field(said.message or "", said.fields)


def _read(status: int, headers: Headers, body: bytes, fields: Collection[str]) -> FailureFacts:
    text, error = _body_of(body)
    text = text[:_LONGEST_TEXT]
    provider_status = _int(headers.get("x-llmp-provider-status"))
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
    words = unquote(message) if message is not None else None
    reason = words if origin in ("connection", "answer") else None
    words = words if reason is None else None
    if words is None and "x-llmp-attempts" not in headers:
        words = _quoted_by_litellm(text)
    waits.append(stated_wait_s(words or text))
    return FailureFacts(
        status=provider_status or status,
        code=_string(code),
        type=_string(kind),
        param=_string(param),
        message=words,
        reason=reason,
        wait_s=max((wait for wait in waits if wait is not None), default=None),
        origin=origin,
        full_text=f"{code} {kind} {text}",
        fields=fields,
    )


def _quoted_by_litellm(text: str) -> str | None:
    """The provider's message inside LiteLLM's, where no sidecar of ours tells it."""
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
    whole = as_object(document)
    error = as_object(whole.get("error"))
    if error:
        return str(error.get("message") or ""), error
    return str(whole.get("error") or whole.get("detail") or whole.get("message") or document)[:2000], {}


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
