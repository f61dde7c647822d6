"""The outcome of one call: its attempts, and the error LiteLLM gave up with, for the code that responds.

Invariant: callbacks may run in another task of the same request; all of them see the same record.
"""

import json
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import Json, as_object
from llm_proxy.quantities import USAGE_HEADER
from llm_proxy.sidecar import provider_errors
from llm_proxy.sidecar.forms import SentForm
from llm_proxy.sidecar.images import ImageCall
from llm_proxy.sidecar.patches.patch import installed
from llm_proxy.sidecar.provider_lines import ProviderLines

_CURRENT: ContextVar["CallOutcome | None"] = ContextVar("outcome", default=None)
MAX_HOPS = 16
MAX_NAME_CHARS = 100
UNKNOWN_COUNT = b"unknown"
_USAGE_HEADER = USAGE_HEADER.encode()
STATUS_OK = 200


@dataclass(slots=True)
class Attempt:
    """One deployment that LiteLLM's router chose for the call.

    Attributes:
        group: The model group it was chosen from.
        deployment: The deployment's id.
        model: The model's name in the configuration, with the provider's prefix.
        started_at: When the deployment was chosen (UTC).
        error: The exception the attempt failed with; None if it has not failed.
        credentials_rejected: Whether the provider rejected the deployment's credentials.
        sent: Whether the translated request was passed on for sending.
        guardrail_error: The exception of a guardrail of the model group.
        untranslatable_field: The request field that could not be translated.
        provider: The provider that `model_info` names; empty if it names none.
    """

    group: str
    deployment: str
    model: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    error: BaseException | None = None
    credentials_rejected: bool = False
    sent: bool = False
    guardrail_error: BaseException | None = None
    untranslatable_field: str | None = None
    provider: str = ""


@dataclass(slots=True)
class SpeechCall:
    """What is kept of a call that makes speech.

    Attributes:
        fields: What LiteLLM would drop of the request.
        answer: The provider's answer, its body unread; None from a provider of another protocol.
    """

    fields: Json
    answer: Any = None


@dataclass(slots=True)
class DirectAttempt:
    """What is kept of a call's first attempt, which may pass LiteLLM by (see `direct_calls`).

    Attributes:
        deployment: The chosen deployment, until LiteLLM's router has taken it.
        attempt: Its attempt, until then.
        answer: Gives LiteLLM's own request the answer that is there already; None if LiteLLM sends it.
        client: The client LiteLLM sent its request with.
        request: That request.
        logging: LiteLLM's logging object of the attempt.
        started_at: When the attempt began, if LiteLLM's part in it begins later.
    """

    deployment: Any = None
    attempt: Attempt | None = None
    answer: Callable[[Any], Awaitable[Any]] | None = None
    client: Any = None
    request: Any = None
    logging: Any = None
    started_at: datetime | None = None


@dataclass(slots=True)
class CallOutcome:
    """The outcome of one call.

    Attributes:
        endpoint: The operation that was called; None for one that no model group is chosen for.
        error: The exception LiteLLM gave up with, before it became an HTTP response.
        attempts: The attempts in order.
        original: The last complete answer in OpenAI's format as the provider sent it.
        states_tokens: Whether the last complete answer states its tokens; None without such an answer.
        stream_complete: Whether the stream reached the end its provider sent.
        finish_reason: The provider's finish reason, if it says more than OpenAI's; for the log.
        guardrail_error: The exception of a guardrail.
        rejected_usage: What an answer used that a guardrail rejected.
        without_cache: Whether no cache was consulted.
        native_body: The JSON of a call that reaches its provider as it was sent; empty for any other.
        native_answer: The provider's complete answer to such a call.
        native_cost_usd: What that answer cost, where LiteLLM may not say it; None if it is not known.
        optional_fields: Fields that a model may lack, as the gateway says.
        account: The only deployments that may serve the call; None if any may.
        form: The form of a call that has one.
        stated_usage: What an answer used that the gateway does not parse, as `quantities` encodes it.
        states_cost: `stated_cost_usd` holds in place of LiteLLM's own header.
        stated_cost_usd: What that answer cost; None if it is not known.
        added_fields: What the provider's request gets beside what LiteLLM sends; None if nothing is recorded.
        provider_answer: The provider's complete answer, as it was sent, to a call with fields of its own.
        provider_body: What the provider's request holds beside the model, whatever LiteLLM would send.
        images: What is kept of an image call; None of any other.
        speech: What is kept of a call that makes speech; None of any other.
        affinity: The name whose calls stay at one deployment; None if it names none.
        healthy: The deployments that could serve the attempt that runs.
        direct: What is kept of a first attempt that may pass LiteLLM by; None of most calls.
        stream: LiteLLM's object for the provider's stream that is read now; None before the first.
        lines: That stream's lines; None unless the HTTP client splits it into events.
    """

    endpoint: Endpoint | None = None
    error: BaseException | None = None
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    original: Json | None = None
    states_tokens: bool | None = None
    stream_complete: bool = False
    finish_reason: str | None = None
    guardrail_error: BaseException | None = None
    rejected_usage: Json | None = None
    without_cache: bool = False
    native_body: bytes = b""
    native_answer: bytes | None = None
    native_cost_usd: float | None = None
    optional_fields: tuple[str, ...] = ()
    account: frozenset[str] | None = None
    form: SentForm | None = None
    stated_usage: str | None = None
    states_cost: bool = False
    stated_cost_usd: float | None = None
    added_fields: Json | None = None
    provider_answer: bytes | None = None
    images: ImageCall | None = None
    speech: SpeechCall | None = None
    provider_body: Json | None = None
    affinity: str | None = None
    healthy: tuple[str, ...] = ()
    direct: DirectAttempt | None = None
    stream: Any = None
    lines: ProviderLines | None = None

    def set_error_if_none(self, error: BaseException) -> None:
        """Keep the error of the HTTP response if the failure callback recorded none."""
        self.error = self.error or error

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers for the gateway: attempts and cache; each attempt unless the first succeeded."""
        count = str(len(self.attempts)).encode() if "attempts" in installed else UNKNOWN_COUNT
        found = [(b"x-llmp-attempts", count)]
        if self.without_cache:
            found.append((b"x-llmp-cache", b"off"))
        if self.stated_usage is not None:
            found.append((_USAGE_HEADER, self.stated_usage.encode()))
        if not self.attempts:
            return found
        deployment = self.attempts[-1].deployment
        if deployment.isprintable() and deployment:
            found.append((b"x-llmp-deployment", deployment[:200].encode()))
        if len(self.attempts) > 1 or self.attempts[0].error is not None:
            hops = [_hop(one) for one in self.attempts[-MAX_HOPS:]]
            found.append((b"x-llmp-hops", json.dumps(hops, separators=(",", ":")).encode()))
        return found

    def error_headers(self, secrets: frozenset[str]) -> list[tuple[bytes, bytes]]:
        """Return the headers that say why the call failed; the message does not hold the `secrets`."""
        last = self.attempts[-1] if self.attempts else None
        rejection = self.guardrail_error or (last.guardrail_error if last else None)
        lines = provider_errors.headers_of_error(
            rejection or self.error,
            sent=last is None or last.sent,
            by_guardrail=rejection is not None,
            field=last.untranslatable_field if last else None,
            secrets=secrets,
        )
        if rejection is not None and self.rejected_usage:
            lines.append((b"x-llmp-usage", json.dumps(self.rejected_usage, separators=(",", ":")).encode()))
        return lines


def _hop(attempt: Attempt) -> list[str | int]:
    status = STATUS_OK if attempt.error is None else status_of_attempt(attempt.error)
    hop: list[str | int] = [attempt.group[:MAX_NAME_CHARS], attempt.deployment[:MAX_NAME_CHARS], status]
    return [*hop, "auth"] if attempt.credentials_rejected else hop


def status_of_attempt(error: BaseException) -> int:
    """Return the HTTP status of a failed attempt; 0 if no provider answered: LiteLLM's 500 is not one."""
    return 0 if provider_errors.is_unanswered(error) else status_of_error(error)


def status_of_error(error: BaseException) -> int:
    """Return the HTTP status of an exception, the provider's before LiteLLM's; 0 if it has none."""
    found = provider_errors.find_response(error)
    if found is not None:
        return found.status
    response = getattr(error, "response", None)
    for status in (getattr(error, "status_code", None), getattr(response, "status_code", None)):
        if isinstance(status, int):
            return status
    return 0


@contextmanager
def outcome_in_context(outcome: CallOutcome) -> Generator[None]:
    """Make the outcome that of the running call, for callbacks and patches."""
    token = _CURRENT.set(outcome)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def optional_fields() -> tuple[str, ...]:
    """Return the fields of the running call that are left out where the model lacks them."""
    outcome = _CURRENT.get()
    return outcome.optional_fields if outcome is not None else ()


def affinity() -> str | None:
    """Return the name whose deployment the running call shall get; None without one.

    It is empty once an attempt has failed: the call may then go elsewhere.
    """
    outcome = _CURRENT.get()
    if outcome is None or outcome.affinity is None:
        return None
    return "" if any(one.error is not None for one in outcome.attempts) else outcome.affinity


def note_healthy(deployments: Iterable[str]) -> None:
    """Note the deployments that may serve the attempt that begins."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.affinity is not None:
        outcome.healthy = tuple(deployments)


def healthy_deployments() -> tuple[str, ...]:
    """Return what was noted last; nothing for a call that is pinned by no name of ours."""
    outcome = _CURRENT.get()
    return outcome.healthy if outcome is not None else ()


def form() -> SentForm | None:
    """Return the form of the running call."""
    outcome = _CURRENT.get()
    return outcome.form if outcome is not None else None


def record_error(error: BaseException) -> None:
    """Record the exception of the running call; outside of a call it is dropped."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.error = error


def replaces_bodies() -> bool:
    """Whether a provider gets `provider_body`, and its answer is recorded."""
    return "broken_streams" in installed  # `provider_http` is a part of it


def relays_native_calls() -> bool:
    """Whether native calls pass LiteLLM as they were sent."""
    return "native_calls" in installed


def record_attempt(attempt: Attempt) -> None:
    """Record that a deployment was chosen for the running call."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.attempts.append(attempt)


def attempt_count() -> int:
    """Return the number of attempts of the running call."""
    outcome = _CURRENT.get()
    return len(outcome.attempts) if outcome is not None else 0


def last_attempt() -> Attempt | None:
    """Return the running attempt of the running call; None before the first, and outside of calls."""
    outcome = _CURRENT.get()
    return outcome.attempts[-1] if outcome is not None and outcome.attempts else None


def record_attempt_error(before: int, error: BaseException) -> Attempt | None:
    """Record the exception of the last attempt; return the attempt.

    Args:
        before: `attempt_count` before the attempt; None is returned if no deployment was chosen since.
        error: The exception.
    """
    outcome = _CURRENT.get()
    if outcome is None or len(outcome.attempts) <= before:
        return None
    attempt = outcome.attempts[-1]
    attempt.error = error
    return attempt


def record_response(original: Json | None, *, states_tokens: bool) -> None:
    """Record a provider's complete answer to the running call; `original` is None in another format."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.original, outcome.states_tokens = original, states_tokens


def response_states_tokens() -> bool:
    """Whether the last complete answer to the running call states its tokens."""
    outcome = _CURRENT.get()
    return outcome is not None and outcome.states_tokens is True


def is_native() -> bool:
    """Whether the running call reaches its provider as it was sent."""
    outcome = _CURRENT.get()
    return outcome is not None and bool(outcome.native_body)


def native_body() -> Json:
    """Return the body of the running call as it was sent, parsed anew; empty for any other call."""
    outcome = _CURRENT.get()
    raw = outcome.native_body if outcome is not None else b""
    return as_object(json.loads(raw)) if raw else {}


def record_native_answer(raw: bytes) -> None:
    """Record a provider's complete answer, as it was sent, to the running call."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.native_body:
        outcome.native_answer = raw
    if outcome is not None and (outcome.added_fields is not None or outcome.provider_body is not None):
        outcome.provider_answer = raw


def added_fields() -> Json:
    """Return the fields that a provider's request gets beside what LiteLLM sends; empty for most calls."""
    outcome = _CURRENT.get()
    return (outcome.added_fields or {}) if outcome is not None else {}


def speech_call() -> SpeechCall | None:
    """Return what is kept of the running call; None if it makes no speech, and outside of calls."""
    outcome = _CURRENT.get()
    return outcome.speech if outcome is not None else None


def provider_body() -> Json | None:
    """Return what the provider's request of the running call holds beside the model; None for most calls."""
    outcome = _CURRENT.get()
    return outcome.provider_body if outcome is not None else None


def record_native_cost(cost_usd: float | None) -> None:
    """Record what the provider's complete answer to the running call cost."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.native_cost_usd = cost_usd


def direct_attempt() -> DirectAttempt | None:
    """Return what is kept of the running call's first attempt; None if it cannot pass LiteLLM by."""
    outcome = _CURRENT.get()
    return outcome.direct if outcome is not None else None


def take_chosen_deployment() -> Any:  # noqa: ANN401 -- LiteLLM's
    """Return the deployment chosen for the running call's first attempt, once, and record the attempt."""
    direct = direct_attempt()
    if direct is None or direct.attempt is None:
        return None
    record_attempt(direct.attempt)
    direct.attempt = None
    return direct.deployment


def image_call() -> ImageCall | None:
    """Return what is kept of the running call; None if it makes no images, and outside of calls."""
    outcome = _CURRENT.get()
    return outcome.images if outcome is not None else None


def has_passed_events() -> bool:
    """Whether the caller has events of the running call, so that it cannot be made again."""
    call = image_call()
    return call is not None and call.events is not None and call.events.started


def running() -> CallOutcome | None:
    """Return the record of the running call; None outside of calls."""
    return _CURRENT.get()


def record_stream_end() -> None:
    """Record that the running call's stream reached the end its provider sent."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.stream_complete = True


def record_finish_reason(reason: str | None) -> None:
    """Record the provider's own finish reason for the running call; None is ignored."""
    outcome = _CURRENT.get()
    if outcome is not None and reason is not None:
        outcome.finish_reason = reason


def recorded_finish_reason() -> str | None:
    """Return the provider's finish reason if it says more than OpenAI's, else None."""
    outcome = _CURRENT.get()
    return outcome.finish_reason if outcome is not None else None


def record_sent() -> None:
    """Record that the running attempt's request was translated and is about to be sent."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.attempts:
        outcome.attempts[-1].sent = True


def record_guardrail_error(error: BaseException) -> None:
    """Record that a guardrail rejected the running call."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.guardrail_error = error


def record_rejected_usage(usage: Json) -> None:
    """Record the tokens and the cost of an answer that a guardrail rejected."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.rejected_usage = usage


def record_group_guardrail_error(error: BaseException) -> None:
    """Record that a guardrail of the chosen model group rejected the running attempt."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.attempts:
        outcome.attempts[-1].guardrail_error = error


def rejected_by_group_guardrail() -> bool:
    """Whether a guardrail of a model group rejected the running attempt."""
    outcome = _CURRENT.get()
    return outcome is not None and bool(outcome.attempts) and outcome.attempts[-1].guardrail_error is not None


def record_untranslatable_field(field: str) -> None:
    """Record the request field that could not be translated in the running attempt."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.attempts:
        outcome.attempts[-1].untranslatable_field = field


def failed_in_translation(error: BaseException) -> bool:
    """Whether the running attempt failed in translation, before any provider was contacted."""
    outcome = _CURRENT.get()
    if outcome is None or not outcome.attempts or outcome.attempts[-1].sent:
        return False
    return provider_errors.is_translation_error(error)
