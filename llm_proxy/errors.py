"""Every refusal: one class = one HTTP status + one OpenAI error code.

    Refused
    ├── BadRequest 400             ├── RateLimited 429 (our limit)      ├── ProviderRejected 400, 404, …
    ├── Unauthorized 401           ├── BudgetHeld 429 (for now)         ├── ProviderAuth 502
    ├── Forbidden 403              ├── BudgetExceeded 429 (our budget)  ├── ProviderQuota 429
    ├── NotFound 404               ├── Overloaded 503 (shed, draining)  ├── ProviderRateLimited 429
    ├── ModelNotFound 404          ├── StoreUnavailable 503             ├── ProviderFailed 502
    ├── MethodNotAllowed 405       └── Bug 500                          ├── ProviderOverloaded 503
    ├── RequestTimeout 408                                              ├── UpstreamUnreachable 502
    ├── BodyTooLarge 413                                                ├── UpstreamBroke 502
    ├── UnsupportedMediaType 415                                        ├── UpstreamCoolingDown 503
    ├── ExpectationFailed 417                                           └── UpstreamTimeout 504
    └── HeadersTooLarge 431
Raised anywhere, rendered in one place (`edge.respond`). Messages are ours, or a provider's after `clean`.
Source: https://platform.openai.com/docs/guides/error-codes
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

ErrorOrigin = Literal["gateway", "limit", "budget", "provider"]


def with_request_id(message: str, request_id: str) -> str:
    """The sentence with the id by which an operator finds the log line that says more."""
    return f"{message.removesuffix('.')} (request {request_id})." if request_id else message


@dataclass(frozen=True, slots=True)
class ReachedLimit:
    """The limit that refused a request: whose it is, how full it was, and what the request wanted of it.

    Attributes:
        kind: `requests`, `tokens`, `parallel` or `budget`.
        subject: Whose it is, for people: `agent scout`.
        limit: In its unit, as the others; nano-dollars of a budget of money.
        used: None when nobody knows.
        held: What running calls hold of it.
        running: How many calls those are.
        kept: What is kept for a call that waits.
        unit: `usd`, `requests`, `tokens` or `calls`.
        wait_ms: None when waiting a moment does not help.
        resets_at: When a budget begins anew, in its zone.
    """

    kind: str
    scope: str
    subject: str
    limit: int
    wanted: int | None = None
    used: int | None = None
    held: int = 0
    running: int = 0
    kept: int = 0
    unit: str = "requests"
    period: str | None = None
    wait_ms: int | None = None
    resets_at: datetime | None = None


class APIError(Exception):
    """A request answered with an error of ours.

    Attributes:
        message: What the caller may read; never an internal name.
        param: The field at fault, where there is one.
        code: OpenAI's machine-readable code.
        retry_after_s: Seconds after which the same request may pass; None when waiting does not help.
        headers: Extra response headers, lower-case names.
        routing: Whose answer it was, in `upstream`'s words, when somebody behind us refused.
        provider_message: Why the provider failed, cleaned, for the record and the log; not for the caller.
        reached_limit: The limit of ours that refused, for the record and the log.
    """

    status: int = 500
    default_type: ClassVar[str] = "invalid_request_error"
    default_code: ClassVar[str | None] = None
    origin: ClassVar[ErrorOrigin] = "gateway"
    retryable: bool | None = None
    """What `x-should-retry` says; None leaves it to the client. False only where the sidecar has retried, or
    where asking again cannot help: credentials, an empty account."""
    may_have_executed: bool = False
    """Whether a model may have worked, and been paid, all the same."""
    cost_unknown: bool = False
    """Whether nobody knows what the provider bills for it: budgets count 0, its record has no cost."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        error_type: str | None = None,
        retry_after_s: float | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.error_type = error_type or self.default_type
        self.retry_after_s = retry_after_s
        self.headers = headers
        self.routing: object = None
        self.provider_message: str | None = None
        self.reached_limit: ReachedLimit | None = None

    @property
    def metric_code(self) -> str | None:
        """The code for metrics: one of a fixed set; None for a code that a provider chose."""
        return self.code

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's envelope."""
        error = {"message": self.message, "type": self.error_type, "param": self.param, "code": self.code}
        return {"error": error}


class BadRequest(APIError):
    """The body or a header is wrong."""

    status = 400


class Unauthorized(APIError):
    """No credential, or one that is not ours."""

    status = 401
    default_code = "invalid_api_key"


class Forbidden(APIError):
    """A good credential that may not do this."""

    status = 403
    default_type = "permission_error"
    default_code = "forbidden"


class NotFound(APIError):
    """No such route."""

    status = 404
    default_code = "not_found"


class ModelNotFound(APIError):
    """No such model group."""

    status = 404
    default_code = "model_not_found"


class MethodNotAllowed(APIError):
    """The route exists, the method does not; `allow` goes out as the header of that name."""

    status = 405
    default_code = "method_not_allowed"


class RequestTimeout(APIError):
    """The caller did not finish sending in time."""

    status = 408
    default_code = "request_timeout"


class BodyTooLarge(APIError):
    """More bytes than the operator allows."""

    status = 413
    default_code = "request_too_large"


class UnsupportedMediaType(APIError):
    """A content type or encoding no door reads."""

    status = 415
    default_code = "unsupported_media_type"


class ExpectationFailed(APIError):
    """Something is expected of the server that it does not do."""

    status = 417
    default_code = "unsupported_expectation"


class UnsupportedTransferEncoding(APIError):
    """A transfer coding we do not read."""

    status = 501
    default_code = "unsupported_transfer_encoding"
    retryable = False


class HeadersTooLarge(APIError):
    """More header bytes than the operator allows."""

    status = 431
    default_code = "headers_too_large"


class RateLimited(APIError):
    """A limit of ours: requests, tokens or parallel places."""

    status = 429
    default_type = "requests"
    default_code = "rate_limit_exceeded"
    origin = "limit"


class BudgetHeld(APIError):
    """What is left of a budget of ours is held by calls that run; it may come free."""

    status = 429
    default_type = "requests"
    default_code = "rate_limit_exceeded"
    origin = "budget"
    retryable = True


class BudgetExceeded(APIError):
    """A budget of ours is spent; waiting a moment does not help."""

    status = 429
    default_type = "insufficient_quota"
    default_code = "insufficient_quota"
    origin = "budget"
    retryable = False


class Overloaded(APIError):
    """Shed before any work was done: too much in flight, or draining."""

    status = 503
    default_type = "server_error"
    default_code = "overloaded"


class StoreUnavailable(APIError):
    """A store is away and the policy says to deny."""

    status = 503
    default_type = "server_error"
    default_code = "store_unavailable"


class ProviderRejected(APIError):
    """The provider says the request is at fault; 400, or 403, 404, 409, 413, 415 or 422 where it said so."""

    status = 400
    origin = "provider"
    own_codes: ClassVar[frozenset[str]] = frozenset({
        "content_policy_violation", "context_length_exceeded", "model_not_found", "request_too_large",
        "unsupported_parameter", "unsupported_value",
    })  # fmt: skip
    """Codes that we give; any other is the provider's own word."""

    @property
    def metric_code(self) -> str | None:
        """The code where it is one of ours."""
        return self.code if self.code in self.own_codes else None


class ProviderAuthError(APIError):
    """Our credential at the provider is bad: the operator's fault, never the caller's."""

    status = 502
    default_type = "server_error"
    default_code = "provider_auth"
    origin = "provider"
    retryable = False


class ProviderQuotaExceeded(APIError):
    """Our account at the provider is out of money."""

    status = 429
    default_type = "insufficient_quota"
    default_code = "insufficient_quota"
    origin = "provider"
    retryable = False


class ProviderRateLimited(APIError):
    """The provider's own rate limit, after the sidecar's retries."""

    status = 429
    default_type = "requests"
    default_code = "rate_limit_exceeded"
    origin = "provider"


class ProviderOverloaded(APIError):
    """The provider has no room now: its 503 or 529."""

    status = 503
    default_type = "server_error"
    default_code = "provider_overloaded"
    origin = "provider"


class ProviderFailed(APIError):
    """The provider answered with an error of its own, or with garbage, after the sidecar's retries."""

    status = 502
    default_type = "server_error"
    default_code = "provider_error"
    origin = "provider"
    cost_unknown = True


class UpstreamUnreachable(APIError):
    """No sidecar could be reached, or the connection broke before an answer."""

    status = 502
    default_type = "server_error"
    default_code = "upstream_unreachable"


class UpstreamConnectionLost(APIError):
    """The connection broke before an answer; the request was sent, so nobody repeats it."""

    status = 502
    default_type = "server_error"
    default_code = "upstream_unreachable"
    may_have_executed = True


class UpstreamCoolingDown(APIError):
    """Every deployment of the model is cooling down."""

    status = 503
    default_type = "server_error"
    default_code = "model_cooling_down"
    origin = "provider"


class UpstreamTimeout(APIError):
    """No answer within the deadline."""

    status = 504
    may_have_executed = True
    default_type = "server_error"
    default_code = "upstream_timeout"
    origin = "provider"


class InternalError(APIError):
    """Ours to mend: the log has the traceback, the caller an apology."""

    status = 500
    default_type = "server_error"
    default_code = "internal_error"
    may_have_executed = True

    def __init__(self) -> None:
        super().__init__("The server had an error while processing your request.")
