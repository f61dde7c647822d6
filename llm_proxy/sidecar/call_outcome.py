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

_CURRENT: ContextVar["Outcome | None"] = ContextVar("outcome", default=None)
_noted = Event()
"""Whether attempts are noted at all: `attempts` is a patch, and may be off."""
MOST_TOLD = 16
LONGEST_NAME = 100
UNKNOWN = b"unknown"
ANSWERED = 200


@dataclass(slots=True)
class Attempt:
    """One deployment that was asked.

    Attributes:
        group: The model group it was chosen from.
        deployment: Its id.
        model: The model's name in the configuration, with the provider's prefix.
        error: What it failed with; None while it has not.
        refused: The provider did not accept the deployment's credentials.
        sent: Its request was translated and about to be sent.
        refusal: What a guardrail of its model group raised.
        field: The field of the request that could not be translated.
        provider: What the deployment's `model_info` calls its provider; empty where it says nothing.
    """

    group: str
    deployment: str
    model: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    error: BaseException | None = None
    refused: bool = False
    sent: bool = False
    refusal: BaseException | None = None
    field: str | None = None
    provider: str = ""


@dataclass(slots=True)
class Outcome:
    """One call.

    Attributes:
        error: The error LiteLLM gave up with, before it became an HTTP answer.
        tried: The attempts, in order.
        said: The last whole answer on OpenAI's wire, as the provider said it.
        counted: Whether the last whole answer states its tokens; None while there was none.
        complete: A stream came to the end its provider gave it.
        finish_reason: The provider's own, where it says more than OpenAI's; for the log.
        hook_error: What a guardrail raised.
        uncached: No cache had a say in the call.
    """

    error: BaseException | None = None
    tried: list[Attempt] = field(default_factory=list[Attempt])
    said: Json | None = None
    counted: bool | None = None
    complete: bool = False
    finish_reason: str | None = None
    hook_error: BaseException | None = None
    uncached: bool = False

    def refused(self, error: BaseException) -> None:
        """Keep the answer's own error where no better one was seen."""
        self.error = self.error or error

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What was tried, for the gateway; every attempt where it was not one success alone."""
        count = str(len(self.tried)).encode() if _noted.is_set() else UNKNOWN
        found = [(b"x-llmp-attempts", count)]
        if self.uncached:
            found.append((b"x-llmp-cache", b"off"))
        if not self.tried:
            return found
        deployment = self.tried[-1].deployment
        if deployment.isascii() and deployment.isprintable() and deployment:
            found.append((b"x-llmp-deployment", deployment[:200].encode()))
        if len(self.tried) > 1 or self.tried[0].error is not None:
            told = [_told(one) for one in self.tried[-MOST_TOLD:]]
            found.append((b"x-llmp-hops", json.dumps(told, separators=(",", ":")).encode()))
        return found

    def error_headers(self, secrets: frozenset[str]) -> list[tuple[bytes, bytes]]:
        """Why it failed, for the gateway; `secrets` are texts that no message may hold."""
        last = self.tried[-1] if self.tried else None
        refusal = self.hook_error or (last.refusal if last else None)
        return provider_errors.headers(
            refusal or self.error,
            sent=last is None or last.sent,
            refused_by_hook=refusal is not None,
            field=last.field if last else None,
            secrets=secrets,
        )


def _told(attempt: Attempt) -> list[str | int]:
    status = ANSWERED if attempt.error is None else status_of(attempt.error)
    told: list[str | int] = [attempt.group[:LONGEST_NAME], attempt.deployment[:LONGEST_NAME], status]
    return [*told, "auth"] if attempt.refused else told


def status_of(error: BaseException) -> int:
    """The HTTP status of an error, 0 when it has none."""
    response = getattr(error, "response", None)
    for status in (getattr(error, "status_code", None), getattr(response, "status_code", None)):
        if isinstance(status, int):
            return status
    return 0


@contextmanager
def witnessed(outcome: Outcome) -> Generator[None]:
    """Let the failure hook of this request find its outcome."""
    token = _CURRENT.set(outcome)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def note(error: BaseException) -> None:
    """Record the error of the request that is running; outside a request it is dropped."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.error = error


def attempts_are_noted() -> None:
    """Say that each attempt from now on is recorded; before it their number is unknown."""
    _noted.set()


def tried(attempt: Attempt) -> None:
    """Record that a deployment was chosen for the request that is running."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.tried.append(attempt)


def attempts() -> int:
    """How many attempts the request that is running has made."""
    outcome = _CURRENT.get()
    return len(outcome.tried) if outcome is not None else 0


def failed(before: int, error: BaseException) -> Attempt | None:
    """Record how the attempt that was made since then failed; None when no deployment was chosen for it."""
    outcome = _CURRENT.get()
    if outcome is None or len(outcome.tried) <= before:
        return None
    attempt = outcome.tried[-1]
    attempt.error = error
    return attempt


def is_known() -> bool:
    """Whether this runs for a request."""
    return _CURRENT.get() is not None


def answered(said: Json | None, *, counted: bool) -> None:
    """Record a provider's whole answer to the request that is running."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.said, outcome.counted = said, counted


def states_tokens() -> bool:
    """Whether the last whole answer to the running request states its tokens."""
    outcome = _CURRENT.get()
    return outcome is not None and outcome.counted is True


def completed() -> None:
    """Record that the stream of the request that is running came to its provider's end."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.complete = True


def finished(reason: str | None) -> None:
    """Record a provider's own finish reason for the request that is running."""
    outcome = _CURRENT.get()
    if outcome is not None and reason is not None:
        outcome.finish_reason = reason


def finish_reason() -> str | None:
    """The provider's own finish reason, where it says more than OpenAI's."""
    outcome = _CURRENT.get()
    return outcome.finish_reason if outcome is not None else None


def sent() -> None:
    """Record that the running request was translated and is about to be sent."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.tried:
        outcome.tried[-1].sent = True


def refused_by_hook(error: BaseException) -> None:
    """Record that a guardrail refused the running request."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.hook_error = error


def refused_by_group(error: BaseException) -> None:
    """Record that a guardrail of the chosen model group refused the running attempt."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.tried:
        outcome.tried[-1].refusal = error


def is_refused_by_group() -> bool:
    """Whether a guardrail of a model group refused the running attempt."""
    outcome = _CURRENT.get()
    return outcome is not None and bool(outcome.tried) and outcome.tried[-1].refusal is not None


def untranslatable(field: str) -> None:
    """Record which field of the running request could not be translated."""
    outcome = _CURRENT.get()
    if outcome is not None and outcome.tried:
        outcome.tried[-1].field = field


def never_sent(error: BaseException) -> bool:
    """Whether the running request failed while it was translated, so that no provider heard of it."""
    outcome = _CURRENT.get()
    if outcome is None or not outcome.tried or outcome.tried[-1].sent:
        return False
    return provider_errors.stumbled(error)
