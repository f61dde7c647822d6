"""How one call ended, as LiteLLM's failure hook saw it, handed to the place that sends the answer.

Invariant: the hook may run in another task of the same request; both hold the same `Outcome`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_CURRENT: ContextVar["Outcome | None"] = ContextVar("outcome", default=None)


@dataclass(slots=True)
class Outcome:
    """The end of one call.

    Attributes:
        error: The error LiteLLM gave up with, before it became an HTTP answer.
        attempts: How often a deployment was chosen for it.
        deployment: The id of the last one.
    """

    error: BaseException | None = None
    attempts: int = 0
    deployment: str = ""

    def refused(self, error: BaseException) -> None:
        """Keep the answer's own error where no better one was seen."""
        self.error = self.error or error

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What was tried, for the gateway."""
        found = [(b"x-llmp-attempts", str(self.attempts).encode())]
        if self.deployment.isascii() and self.deployment.isprintable() and self.deployment:
            found.append((b"x-llmp-deployment", self.deployment[:200].encode()))
        return found


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


def tried(deployment: str) -> None:
    """Record that a deployment was chosen for the request that is running."""
    outcome = _CURRENT.get()
    if outcome is not None:
        outcome.attempts += 1
        outcome.deployment = deployment
