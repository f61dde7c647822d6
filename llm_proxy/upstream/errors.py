"""Everything the sidecar can say instead of an answer, as a refusal of ours: one table.

Fresh messages: nothing of the sidecar's text goes on, but for what a provider says of the caller's own
request when it is plainly that (a 400 about a field), cleaned and bounded.
Invariants: 401 is only ever for our keys; a provider's 401 or 403 is 502 `provider_auth`; whatever the
sidecar has retried is marked so that no SDK retries it again.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

from llm_proxy.errors import (
    ModelNotFound,
    Overloaded,
    ProviderAuth,
    ProviderFailed,
    ProviderQuota,
    ProviderRateLimited,
    ProviderRejected,
    Refused,
    UpstreamCoolingDown,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from llm_proxy.upstream.shape import as_object

Headers = Mapping[str, str]

_SECONDS = re.compile(r"[Tt]ry again in (\d+(?:\.\d+)?) ?s")
_PARAM = re.compile(r"^[A-Za-z_][\w.\[\]-]{0,99}$")
_UNSUPPORTED = re.compile(r"(?:does not support parameters?:? |Setting |parameters? )[`'\[]*([a-z_]{1,40})")
_STATUS = re.compile(r"[1-5][0-9]{2}")
_MAX_WAIT_S = 86_400.0
_CODE = re.compile(r"^[a-z][a-z0-9_]{0,63}$")

_CONTEXT = (
    "ContextWindowExceededError",
    "context_length_exceeded",
    "maximum context length",
    "exceeds the available context size",
    "exceeds the maximum number of tokens",
    "exceed context limit",
    "prompt is too long",
    "Input is too long",
    "longer than the model's context",
)
_QUOTA = (
    "insufficient_quota",
    "exceeded your current quota",
    "billing_hard_limit",
    "credit balance is too low",
)
_CONTENT = (
    "ContentPolicyViolationError",
    "content_policy_violation",
    "content_filter",
    "content management policy",
)
_UNREADABLE = ("Error converting to valid response block", "Error processing=")
"""What LiteLLM makes a 422 of: an answer with status 200 that it cannot read."""

_UNKNOWN_MODEL = (
    "Invalid model name passed",
    "no healthy deployments",
    "There are no healthy deployments",
    "Model group",
)
_COOLING = ("all_deployments_in_cooldown", "No deployments available")
_OUR_KEY = ("no_db_connection", "No connected db", "token_not_found_in_db", "auth_error")


def refusal(status: int, headers: Headers, body: bytes, *, model: str) -> Refused:
    """What the caller is told when the sidecar answered with an error status.

    Args:
        status: The sidecar's status.
        headers: Its headers, lower-case names.
        body: Its body, whatever it holds.
        model: The name the caller asked for.
    """
    text, error = _read(body)
    provider_status = _int(headers.get("x-llmp-provider-status"))
    code = headers.get("x-llmp-provider-code") or error.get("code")
    retry_after_s = _retry_after_s(headers, text)
    spoke = provider_status is not None or any(name.startswith("llm_provider-") for name in headers)
    said = f"{code} {error.get('type')} {text}"
    if not spoke:
        own = _of_the_sidecar(status, said, retry_after_s, model)
        field = headers.get("x-llmp-untranslatable")
        if own is None and field is not None:
            own = _untranslatable()
        if own is not None:
            if isinstance(own, ProviderRejected) and own.param is None and field != "request":
                own.param = _matching(_PARAM, field)
            return own
    return _of_the_provider(provider_status or status, said, headers, error, retry_after_s)


def stream_refusal(error: Mapping[str, Any]) -> Refused:
    """What the caller is told when a stream that had begun ends in an error."""
    text = str(error.get("message") or "")
    code = str(error.get("code") or "")
    if code == "upstream_stream_cut":
        return ProviderFailed("The model's answer broke off before its end.", code="upstream_stream_cut")
    if "imeout" in text or code == "408":
        return UpstreamTimeout("The model fell silent in the middle of its answer.")
    status = int(code) if _STATUS.fullmatch(code) and code >= "400" else 500
    return _of_the_provider(status, f"{code} {error.get('type')} {text}", {}, dict(error), None)


def _of_the_sidecar(status: int, said: str, retry_after_s: float | None, model: str) -> Refused | None:
    if _any(_COOLING, said):
        return UpstreamCoolingDown(
            "The model is not available for a moment; please try again later.",
            retry_after_s=retry_after_s or 5,
        )
    if status in (400, 404) and _any(_UNKNOWN_MODEL, said):
        return ModelNotFound(
            f"The model `{model[:200]}` does not exist or you do not have access to it.", param="model"
        )
    if _any(_OUR_KEY, said) or (status == 401 and "Authentication Error" in said):
        return UpstreamUnreachable("The gateway could not use its model backend.", code="upstream_auth")
    if status == 400 and "UnsupportedParamsError" in said:
        return _unsupported(said)
    if status == 503 and "capacity" in said:
        return Overloaded(
            "Too many requests are running; please try again.", retry_after_s=retry_after_s or 1
        )
    return None


def _untranslatable() -> ProviderRejected:
    """The request never reached the provider: LiteLLM could not put it into its words."""
    return ProviderRejected(
        "Something in the request is malformed, or the model's provider does not know it.",
        code="unsupported_value",
    )


def _unsupported(said: str) -> ProviderRejected:
    """LiteLLM knows that the model's provider has no such parameter, and does not drop it."""
    named = _UNSUPPORTED.search(said)
    if named is None:
        return ProviderRejected(
            "The model does not support a parameter of this request.", code="unsupported_parameter"
        )
    message = f"The model does not support the parameter `{named[1]}`."
    return ProviderRejected(message, param=named[1], code="unsupported_parameter")


def _of_the_provider(
    status: int, said: str, headers: Headers, error: Mapping[str, Any], retry_after_s: float | None
) -> Refused:
    if status in (401, 403):
        return ProviderAuth("The model's provider did not accept the gateway's credentials.")
    if _any(_QUOTA, said):
        return ProviderQuota("The provider's quota for this model is used up.")
    if status == 429:
        return ProviderRateLimited(
            "The model's provider is limiting requests; please try again later.", retry_after_s=retry_after_s
        )
    if status in (408, 504) or "APITimeoutError" in said or "litellm.Timeout" in said:
        return UpstreamTimeout("The model did not answer in time.")
    if 400 <= status < 500 and not _any(_UNREADABLE, said):
        return _at_fault(status, said, headers, error)
    return ProviderFailed("The model's provider failed to answer.", retry_after_s=retry_after_s)


def _at_fault(status: int, said: str, headers: Headers, error: Mapping[str, Any]) -> Refused:
    param = _matching(_PARAM, headers.get("x-llmp-provider-param") or error.get("param"))
    code = _matching(_CODE, headers.get("x-llmp-provider-code") or error.get("code"))
    if code == (headers.get("x-llmp-provider-type") or error.get("type")):
        code = None  # a provider without codes, whose type stands for one
    if _any(_CONTEXT, said):
        message, code = "The request is longer than the model's context.", "context_length_exceeded"
        return ProviderRejected(message, param=param or "messages", code=code)
    if _any(_CONTENT, said):
        return ProviderRejected(
            "The provider's content policy refused this request.", code="content_policy_violation"
        )
    at = f" (at `{param}`)" if param else ""
    refused = ProviderRejected(
        f"The model's provider refused the request as invalid{at}.", param=param, code=code
    )
    if status == 404:
        refused = ProviderRejected(
            "The provider does not know this model.", param="model", code="model_not_found"
        )
    if status == 413:
        refused.code = code or "request_too_large"
    if status in (404, 413, 422):
        refused.status = status
    return refused


def _read(body: bytes) -> tuple[str, dict[str, Any]]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:2000].decode("utf-8", "replace"), {}
    whole = as_object(document)
    error = as_object(whole.get("error"))
    if error:
        return str(error.get("message") or ""), error
    return str(whole.get("error") or whole.get("detail") or whole.get("message") or document)[:2000], {}


def _retry_after_s(headers: Headers, text: str) -> float | None:
    for name in ("x-llmp-retry-after", "retry-after", "llm_provider-retry-after"):
        value = headers.get(name)
        if value is not None:
            try:
                wait_s = float(value)
            except ValueError:
                continue
            if not math.isnan(wait_s):
                return min(max(0.0, wait_s), _MAX_WAIT_S)
    waited = _SECONDS.search(text)
    return min(float(waited[1]), _MAX_WAIT_S) if waited else None


def _any(needles: tuple[str, ...], hay: str) -> bool:
    return any(needle in hay for needle in needles)


def _matching(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.match(value) else None


def _int(value: str | None) -> int | None:
    return int(value) if value is not None and _STATUS.fullmatch(value) else None
