"""The outcome of one call: its attempts, and the error LiteLLM gave up with, for the code that responds.

Invariant: callbacks may run in another task of the same request; all of them see the same record.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event

from llm_proxy.json_access import Json
from llm_proxy.sidecar import provider_errors

_CURRENT: ContextVar["CallOutcome | None"] = ContextVar("outcome", default=None)
_attempts_recorded = Event()
"""Whether attempts are noted at all: `attempts` is a patch, and may be off."""
MAX_HOPS = 16
MAX_NAME_CHARS = 100
UNKNOWN = b"unknown"
STATUS_OK = 200


@dataclass(slots=True)
class Attempt:
    """One deployment that was asked.

    Attributes:
        group: The model group it was chosen from.
        deployment: Its id.
        model: The model's name in the configuration, with the provider's prefix.
        error: What it failed with; None while it has not.
        credentials_rejected: The provider did not accept the deployment's credentials.
        sent: Its request was translated and about to be sent.
        guardrail_error: What a guardrail of its model group raised.
        untranslatable_field: The field of the request that could not be translated.
        provider: What the deployment's `model_info` calls its provider; empty where it says nothing.
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
class CallOutcome:
    """One call.

    Attributes:
        error: The error LiteLLM gave up with, before it became an HTTP answer.
        attempts: The attempts, in order.
        original: The last whole answer on OpenAI's wire, as the provider said it.
        states_tokens: Whether the last whole answer states its tokens; None while there was none.
        stream_complete: A stream came to the end its provider gave it.
        finish_reason: The provider's own, where it says more than OpenAI's; for the log.
        guardrail_error: What a guardrail raised.
        without_cache: No cache had a say in the call.
    """

    error: BaseException | None = None
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    original: Json | None = None
    states_tokens: bool | None = None
    stream_complete: bool = False
    finish_reason: str | None = None
    guardrail_error: BaseException | None = None
    without_cache: bool = False

    def set_error_if_none(self, error: BaseException) -> None:
        """Keep the answer's own error where no better one was seen."""
        self.error = self.error or error

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What was tried, for the gateway; every attempt where it was not one success alone."""
        count = str(len(self.attempts)).encode() if _attempts_recorded.is_set() else UNKNOWN
        found = [(b"x-llmp-attempts", count)]
        if self.without_cache:
            found.append((b"x-llmp-cache", b"off"))
        if not self.attempts:
            return found
        deployment = self.attempts[-1].deployment
        if deployment.isascii() and deployment.isprintable() and deployment:
            found.append((b"x-llmp-deployment", deployment[:200].encode()))
        if len(self.attempts) > 1 or self.attempts[0].error is not None:
            told = [_hop(one) for one in self.attempts[-MAX_HOPS:]]
            found.append((b"x-llmp-hops", json.dumps(told, separators=(",", ":")).encode()))
        return found

    def error_headers(self, secrets: frozenset[str]) -> list[tuple[bytes, bytes]]:
        """Why it failed, for the gateway; `secrets` are texts that no message may hold."""
        last = self.attempts[-1] if self.attempts else None
        refusal = self.guardrail_error or (last.guardrail_error if last else None)
        return provider_errors.headers_of_error(
            refusal or self.error,
            sent=last is None or last.sent,
            refused_by_hook=refusal is not None,
            field=last.untranslatable_field if last else None,
            secrets=secrets,
        )


def _hop(attempt: Attempt) -> list[str | int]:
    status = STATUS_OK if attempt.error is None else status_of_error(attempt.error)
    told: list[str | int] = [attempt.group[:MAX_NAME_CHARS], attempt.deployment[:MAX_NAME_CHARS], status]
    return [*told, "auth"] if attempt.credentials_rejected else told


def status_of_error(error: BaseException) -> int:
    """The HTTP status of an error, 0 when it has none."""
    response = getattr(error, "response", None)
    for status in (getattr(error, "status_code", None), getattr(response, "status_code", None)):
        if isinstance(status, int):
            return status
    return 0


@contextmanager
def outcome_in_context(outcome: CallOutcome) -> Generator[None]:
    """Let the failure hook of this request find its outcome."""
    token = _CURRENT.set(outcome)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def record_error(error: BaseException) -> None:
    """Record the error of the request that is running; outside a request it is dropped."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.error = error


def enable_attempt_recording() -> None:
    """Say that each attempt from now on is recorded; before it their number is unknown."""
    _attempts_recorded.set()


def record_attempt(attempt: Attempt) -> None:
    """Record that a deployment was chosen for the request that is running."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.attempts.append(attempt)


def attempt_count() -> int:
    """How many attempts the request that is running has made."""
    outcome = _CURRENT.get()
    return len(outcome.attempts) if outcome is not None else 0


def record_attempt_error(before: int, error: BaseException) -> Attempt | None:
    """Record how the attempt that was made since then failed; None when no deployment was chosen for it."""
    outcome = _CURRENT.get()
    if outcome is None or len(outcome.attempts) <= before:
        return None
    attempt = outcome.attempts[-1]
    attempt.error = error
    return attempt


def in_call() -> bool:
    """Whether this runs for a request."""
    return _CURRENT.get() is not None


def record_response(said: Json | None, *, counted: bool) -> None:
    """Record a provider's whole answer to the request that is running."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.original, outcome.states_tokens = said, counted


def response_states_tokens() -> bool:
    """Whether the last whole answer to the running request states its tokens."""
    outcome = _CURRENT.get()
    return outcome is not None and outcome.states_tokens is True


def record_stream_end() -> None:
    """Record that the stream of the request that is running came to its provider's end."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.stream_complete = True


def record_finish_reason(reason: str | None) -> None:
    """Record a provider's own finish reason for the request that is running."""
    outcome = _CURRENT.get()
    if outcome is not None and reason is not None:
        outcome.finish_reason = reason


def recorded_finish_reason() -> str | None:
    """The provider's own finish reason, where it says more than OpenAI's."""
    outcome = _CURRENT.get()
    return outcome.finish_reason if outcome is not None else None


def record_sent() -> None:
    """Record that the running request was translated and is about to be sent."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.attempts:
        outcome.attempts[-1].sent = True


def record_guardrail_error(error: BaseException) -> None:
    """Record that a guardrail refused the running request."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.guardrail_error = error


def record_group_guardrail_error(error: BaseException) -> None:
    """Record that a guardrail of the chosen model group refused the running attempt."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.attempts:
        outcome.attempts[-1].guardrail_error = error


def rejected_by_group_guardrail() -> bool:
    """Whether a guardrail of a model group refused the running attempt."""
    outcome = _CURRENT.get()
    return outcome is not None and bool(outcome.attempts) and outcome.attempts[-1].guardrail_error is not None


def record_untranslatable_field(field: str) -> None:
    """Record which field of the running request could not be translated."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.attempts:
        outcome.attempts[-1].untranslatable_field = field


def failed_in_translation(error: BaseException) -> bool:
    """Whether the running request failed while it was translated, so that no provider heard of it."""
    outcome = _CURRENT.get()
    if outcome is None or not outcome.attempts or outcome.attempts[-1].sent:
        return False
    return provider_errors.is_translation_error(error)
