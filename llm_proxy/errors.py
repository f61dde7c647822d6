"""Every error that answers a request: one class = one HTTP status + one OpenAI error code.

Raised anywhere, rendered in one place (`edge.responses`). Messages are ours, or a provider's, cleaned.
Source: https://platform.openai.com/docs/guides/error-codes
"""

from datetime import datetime
from typing import Any, ClassVar, Literal, NamedTuple, Self

ErrorOrigin = Literal["gateway", "limit", "budget", "guardrail", "provider"]


def with_request_id(message: str, request_id: str) -> str:
    """Returns the sentence with the request id, by which an operator finds the log line."""
    return f"{message.removesuffix('.')} (request {request_id})." if request_id else message


class ReachedLimit(NamedTuple):
    """The limit that rejected a request: whose it is, its figures, and what the request wanted of it.

    Attributes:
        kind: `requests`, `tokens`, `parallel`, `budget` or `duration`.
        subject: Whose it is, for people: `agent scout`.
        limit: In its unit, as the others; nano-dollars of money, milliseconds of audio and of time.
        used: None when unknown.
        held: What running calls hold of it.
        running: The number of those calls.
        kept: What is kept for a call that waits.
        unit: `usd`, `requests`, `tokens`, `calls`, `seconds`, or a budget's.
        wait_ms: None when waiting a moment does not help.
        resets_at: When a budget's next period starts, in its time zone.
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
    """An error that answers a request: the base of all of them.

        APIError
        ├── BadRequest 400             ├── RateLimited 429 (our limit)      ├── ProviderRejected 400, 404, …
        ├── Unauthorized 401           ├── BudgetHeld 429 (for now)         ├── ProviderAuthError 502
        ├── Forbidden 403              ├── BudgetExceeded 429 (our budget)  ├── ProviderQuotaExceeded 429
        ├── NotFound 404               ├── Overloaded 503 (draining, too)   ├── ProviderRateLimited 429
        ├── ModelNotFound 404          ├── StoreUnavailable 503             ├── ProviderFailed 502
        ├── MethodNotAllowed 405       └── InternalError 500                ├── ProviderOverloaded 503
        ├── RequestTimeout 408                                              ├── UpstreamUnreachable 502
        ├── BodyTooLarge 413                                                ├── UpstreamConnectionLost 502
        ├── UnsupportedMediaType 415                                        ├── UpstreamCoolingDown 503
        ├── ExpectationFailed 417          ├── AgentLoopDetected 429        └── UpstreamTimeout 504
        ├── HeadersTooLarge 431            ├── GuardrailRejected 4xx
        ├── UnsupportedTransferEncoding 501 └── GuardrailFailed 503
        └── CallStopped 403 (by an operator)

    Attributes:
        message: What the caller may read; never an internal name.
        param: The field at fault, where there is one.
        code: OpenAI's machine-readable code.
        retry_after_s: Seconds after which the same request may pass; None when waiting does not help.
        headers: Extra response headers, lower-case names.
        routing: Who answered, an `upstream.RoutingInfo`, when the error came from there.
        usage: What a rejected answer used, an `upstream.TokenUsage`, where the sidecar states it.
        provider_message: Why the provider failed, cleaned, for the record and the log; not for the caller.
        reached_limit: The limit of ours that rejected the request, for the record and the log.
    """

    status: int = 500
    default_type: ClassVar[str] = "invalid_request_error"
    default_code: ClassVar[str | None] = None
    origin: ClassVar[ErrorOrigin] = "gateway"
    retryable: bool | None = None
    """What `x-should-retry` says; None leaves it to the client. False only where the sidecar has retried, or
    where asking again cannot help: credentials, an empty account."""
    may_have_executed: bool = False
    """Whether a model may have run, and been paid for, nevertheless."""
    cost_unknown: bool = False
    """Whether the provider's charge is unknown: budgets count 0, its record has no cost."""

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
        self.usage: object = None
        self.provider_message: str | None = None
        self.reached_limit: ReachedLimit | None = None

    @property
    def metric_code(self) -> str | None:
        """The code for metrics: one of a fixed set; None for a code that a provider chose."""
        return self.code

    def again(self) -> Self:
        """Returns an error that says the same, to be raised for another request."""
        other = type(self).__new__(type(self), self.message)
        other.__dict__.update(self.__dict__)
        return other

    def body(self) -> dict[str, Any]:
        """Returns the error in OpenAI's envelope."""
        error = {"message": self.message, "type": self.error_type, "param": self.param, "code": self.code}
        return {"error": error}


class BadRequest(APIError):
    """The body or a header is invalid."""

    status = 400


class Unauthorized(APIError):
    """No credential, or an unknown one."""

    status = 401
    default_code = "invalid_api_key"


class Forbidden(APIError):
    """A valid credential that may not do this."""

    status = 403
    default_type = "permission_error"
    default_code = "forbidden"


class CallStopped(APIError):
    """An operator stopped the call while it ran; it is not to be sent again."""

    status = 403
    default_type = "permission_error"
    default_code = "stopped_by_operator"
    retryable = False
    may_have_executed = True


class NotFound(APIError):
    """No such route."""

    status = 404
    default_code = "not_found"


class ModelNotFound(APIError):
    """No such model group."""

    status = 404
    default_code = "model_not_found"


def model_not_found(model: str, provider: str | None = None) -> ModelNotFound:
    """Returns the error of a name that no group serves."""
    at = f" at the provider '{_shown_name(provider)}'" if provider else ""
    return ModelNotFound(
        f"The model `{_shown_name(model)}` does not exist{at} or you do not have access to it.", param="model"
    )


def _shown_name(model: str) -> str:
    shown = "".join(sign if sign.isprintable() else "?" for sign in model[:80])
    return shown + "..." if len(model) > 80 else shown


def endpoint_not_served(path: str) -> NotFound:
    """Returns the error of an endpoint that none of the configured models serves."""
    return NotFound(f"No model of this gateway serves `{path}`.", code="endpoint_not_served")


class MethodNotAllowed(APIError):
    """The route exists, the method does not; `headers` has `allow`."""

    status = 405
    default_code = "method_not_allowed"


class RequestTimeout(APIError):
    """The caller did not finish sending in time."""

    status = 408
    default_code = "request_timeout"


class IdempotencyKeyReused(APIError):
    """The idempotency key was sent with another request of the same caller."""

    status = 422
    default_code = "idempotency_key_reused"
    retryable = False

    def __init__(self) -> None:
        super().__init__(
            "This 'Idempotency-Key' was sent with another request before; send a new key with this one.",
            param="Idempotency-Key",
        )


class ReplayGone(APIError):
    """The call was made, and its answer is no longer kept; it is not made again."""

    status = 409
    default_code = "idempotency_replay_gone"
    retryable = False

    def __init__(self) -> None:
        super().__init__(
            "The call with this 'Idempotency-Key' was made, and its answer is no longer kept. It is not made "
            "again; to make a new call, send a new key.",
            param="Idempotency-Key",
        )


class FirstCallLost(APIError):
    """The call that had the idempotency key ended without an answer; after the wait it may be made again."""

    status = 409
    default_code = "idempotency_call_lost"
    retryable = True

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__(
            "The call with this 'Idempotency-Key' ended without an answer; please try again.",
            param="Idempotency-Key",
            retry_after_s=retry_after_s,
        )


class BodyTooLarge(APIError):
    """More bytes than the operator allows."""

    status = 413
    default_code = "request_too_large"


class UnsupportedMediaType(APIError):
    """A content type or encoding that no endpoint accepts."""

    status = 415
    default_code = "unsupported_media_type"


class ExpectationFailed(APIError):
    """An `Expect` header the server does not support."""

    status = 417
    default_code = "unsupported_expectation"


class UnsupportedTransferEncoding(APIError):
    """A transfer coding the server does not support."""

    status = 501
    default_code = "unsupported_transfer_encoding"
    retryable = False


class UpgradeRequired(APIError):
    """The route does not support the protocol that the request wants to upgrade to."""

    status = 426
    default_code = "upgrade_required"
    retryable = False


class HeadersTooLarge(APIError):
    """More header bytes than the operator allows."""

    status = 431
    default_code = "headers_too_large"


class RateLimited(APIError):
    """A limit of ours: requests, tokens or concurrency slots."""

    status = 429
    default_type = "requests"
    default_code = "rate_limit_exceeded"
    origin = "limit"


class BudgetHeld(APIError):
    """What is left of a budget of ours is held by running calls; it may be released."""

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


class RunBudgetExceeded(APIError):
    """A run has used what it may: money, tokens, calls, turns or time; its key may go on in another run."""

    status = 429
    default_type = "insufficient_quota"
    default_code = "run_budget_exceeded"
    origin = "budget"
    retryable = False


class AgentLoopDetected(APIError):
    """The loop guard stopped a run that repeats itself; its calls fail until the run is released."""

    status = 429
    default_type = "requests"
    default_code = "agent_loop_detected"
    origin = "limit"
    retryable = False


class Overloaded(APIError):
    """Rejected before any work was done: too many calls in flight, or draining."""

    status = 503
    default_type = "server_error"
    default_code = "overloaded"


class StoreUnavailable(APIError):
    """A store is unreachable and the policy is to deny."""

    status = 503
    default_type = "server_error"
    default_code = "store_unavailable"


def models_not_read(retry_after_s: float) -> StoreUnavailable:
    """Returns the error of a request that needs the list of models before it was read."""
    message = "The gateway has not read its list of models yet; please try again."
    return StoreUnavailable(message, retry_after_s=retry_after_s)


class ProviderRejected(APIError):
    """The provider says the request is at fault: 400, or its own 403, 404, 409, 413, 415 or 422."""

    status = 400
    origin = "provider"
    own_codes: ClassVar[frozenset[str]] = frozenset({
        "content_policy_violation", "context_length_exceeded", "model_not_found", "request_too_large",
        "unsupported_parameter", "unsupported_value",
    })  # fmt: skip
    """The codes that we set; any other is the provider's own."""

    @property
    def metric_code(self) -> str | None:
        """The code where it is one of ours."""
        return self.code if self.code in self.own_codes else None


class GuardrailRejected(APIError):
    """A guardrail of the sidecar's configuration rejects the prompt or the answer, with its own 4xx."""

    status = 400
    default_code = "content_policy_violation"
    origin = "guardrail"
    retryable = False


class GuardrailFailed(APIError):
    """A guardrail could not judge the call, and is configured to reject such calls."""

    status = 503
    default_type = "server_error"
    default_code = "guardrail_unavailable"
    origin = "guardrail"


class ProviderAuthError(APIError):
    """The provider rejects our credential: the operator's fault, never the caller's."""

    status = 502
    default_type = "server_error"
    default_code = "provider_auth"
    origin = "provider"
    retryable = False


class ProviderQuotaExceeded(APIError):
    """Our account at the provider has no money left."""

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
    """The provider is overloaded: its 503 or 529."""

    status = 503
    default_type = "server_error"
    default_code = "provider_overloaded"
    origin = "provider"


class ProviderFailed(APIError):
    """The provider answered with an error of its own, or unreadably, after the sidecar's retries."""

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


def backend_unreachable() -> UpstreamUnreachable:
    """Returns the error of a request for which no sidecar could be reached."""
    message = "The gateway cannot reach its model backend; please try again."
    return UpstreamUnreachable(message, retry_after_s=2)


class UpstreamConnectionLost(APIError):
    """The connection broke before an answer; the request was sent, so it is not repeated."""

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
    """No answer within the timeout."""

    status = 504
    may_have_executed = True
    default_type = "server_error"
    default_code = "upstream_timeout"
    origin = "provider"


class InternalError(APIError):
    """A bug of ours: the log has the traceback; the caller gets a general message."""

    status = 500
    default_type = "server_error"
    default_code = "internal_error"
    may_have_executed = True

    def __init__(self) -> None:
        super().__init__("The server had an error while processing your request.")
