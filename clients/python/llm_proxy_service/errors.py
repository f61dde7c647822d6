"""Every error a caller may see; all are `LLMProxyError`.

Invariant: `retryable` says that the same call may succeed later and that this one did not run to an answer.
"""


class LLMProxyError(Exception):
    """A call without an answer.

    Attributes:
        status: The HTTP status it came with; None where there was none, as with a broken connection.
        code: A short word for programs, such as `rate_limit_exceeded`.
        retryable: Whether the same call may succeed later.
        request_id: The id under which the gateway or the provider knows the call.
        provider: The one that failed, as registered; None where none was reached.
        retry_after: Seconds to wait, where the answer states them.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retryable: bool = False,
        request_id: str | None = None,
        provider: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.retryable = retryable
        self.request_id = request_id
        self.provider = provider
        self.retry_after: float | None = None


class ConfigurationError(LLMProxyError):
    """A setting, an environment variable or a package is missing or wrong."""


class UnsupportedError(LLMProxyError):
    """Something this mode does not do; the message says what to set instead."""


class InvalidRequestError(LLMProxyError):
    """The request itself was rejected; it would be rejected again."""


class AuthenticationError(LLMProxyError):
    """The key is missing, unknown, or may not do this."""


class NotFoundError(LLMProxyError):
    """No provider serves this model."""


class RateLimitError(LLMProxyError):
    """A limit or a budget is reached; `retry_after` says for how long, where that is known."""


class ProviderError(LLMProxyError):
    """The provider failed, or could not be reached."""


class RequestTimeoutError(LLMProxyError):
    """No answer in time; it may have run, so it is not sent again."""


class StreamBrokenError(LLMProxyError):
    """A stream ended before its end; what was received is incomplete."""


class InvalidResponseError(LLMProxyError):
    """The answer does not have the shape that was requested.

    Attributes:
        content: What the model answered.
    """

    content: str = ""


BY_STATUS: dict[int, type[LLMProxyError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    408: RequestTimeoutError,
    409: ProviderError,  # a conflict over there, not a fault of the request
    429: RateLimitError,
    504: RequestTimeoutError,
}
RETRYABLE_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504, 529})


def error_class(status: int) -> type[LLMProxyError]:
    """The class of an error with this HTTP status."""
    return BY_STATUS.get(status, InvalidRequestError if 400 <= status < 500 else ProviderError)
