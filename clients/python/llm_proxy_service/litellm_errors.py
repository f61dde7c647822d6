"""LiteLLM's exceptions as `LLMProxyError`, and what each allows: another provider, or another try.

Invariant: a call whose outcome is unknown (no answer in time, a connection that broke after the request left)
is never sent again to the same provider: it may have run.
"""

from collections.abc import Iterator

import httpx

from llm_proxy_service.errors import (
    RETRYABLE_STATUSES,
    InvalidRequestError,
    LLMProxyError,
    ProviderError,
    RateLimitError,
    RequestTimeoutError,
    error_class,
)
from llm_proxy_service.json_reading import NOTHING, Json, as_object

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
TIMEOUT_STATUSES = frozenset({408, 504})
OPERATOR_STATUSES = frozenset({401, 403, 404})
"""Faults of one provider's configuration: another provider may do."""


def translate(error: Exception, provider: str | None) -> LLMProxyError:
    """The error as callers see it."""
    if isinstance(error, LLMProxyError):
        return error
    chain = list(_causes(error))
    answered = next((one for one in chain if isinstance(one, httpx.HTTPStatusError)), None)
    if answered is not None:
        return _answered(error, answered.response, provider)
    broken = next((one for one in chain if isinstance(one, httpx.TransportError)), None)
    if broken is not None:
        return _unanswered(broken, provider)
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return error_class(status)(_message(error), status=status, code="invalid_request", provider=provider)
    return ProviderError(
        f"the answer of {provider} could not be read: {_message(error)}",
        code="invalid_answer",
        provider=provider,
    )


def may_go_elsewhere(error: LLMProxyError) -> bool:
    """Whether another provider may answer what this one did not."""
    if isinstance(error, InvalidRequestError):
        return False
    return (
        error.status is None or error.status in OPERATOR_STATUSES | RETRYABLE_STATUSES or error.status >= 500
    )


def _answered(error: Exception, response: httpx.Response, provider: str | None) -> LLMProxyError:
    status = response.status_code
    body = _error_body(response)
    code = str(body.get("code") or body.get("type") or body.get("status") or "") or None
    quota = status == 429 and "quota" in f"{code} {body.get('type')}"
    made = error_class(status)(
        str(body.get("message") or _message(error)),
        status=status,
        code=code,
        retryable=status in RETRYABLE_STATUSES - TIMEOUT_STATUSES and not quota,
        request_id=response.headers.get("x-request-id") or response.headers.get("request-id"),
        provider=provider,
    )
    if isinstance(made, RateLimitError):
        made.retry_after = _seconds(response.headers.get("retry-after"))
    return made


def _unanswered(broken: httpx.TransportError, provider: str | None) -> LLMProxyError:
    if isinstance(broken, NOT_SENT):
        return ProviderError(
            f"{provider} could not be reached: {broken}",
            code="unreachable",
            retryable=True,
            provider=provider,
        )
    if isinstance(broken, httpx.TimeoutException):
        return RequestTimeoutError(f"{provider} did not answer in time", code="timeout", provider=provider)
    return ProviderError(
        f"the connection to {provider} broke: {broken}", code="connection_broken", provider=provider
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _message(error: Exception) -> str:
    """The first line of LiteLLM's message; the others name its own parts."""
    return str(error).partition("\n")[0] or type(error).__name__


def _error_body(response: httpx.Response) -> Json:
    """The error object of a provider's answer; empty where there is none."""
    try:
        stated = as_object(response.json()).get("error")
    except (ValueError, httpx.StreamError):
        return NOTHING
    return {"message": stated} if isinstance(stated, str) else as_object(stated)


def _seconds(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
