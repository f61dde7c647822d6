"""Prompts and answers, for operators who want them: apart from the records, redacted, never in the way.

Invariants: nothing is stored unless asked for; key-like text is blanked before it leaves this process; the
queue is bounded in bytes, and what does not fit, or finds Postgres away, is dropped and counted, never
spooled.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from llm_proxy.telemetry.redact import redact

_MOST_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Payload:
    """What was said in one call: the body sent to the model and the answer, as JSON or event text."""

    request_id: UUID
    started_at: datetime
    tenant: str | None
    agent: str | None
    user: str | None
    prompt: bytes
    answer: bytes

    def row(self) -> tuple[Any, ...]:
        """Its values in the order of the table's columns, redacted."""
        return (
            self.request_id, self.started_at, self.tenant, self.agent, self.user,
            _text(self.prompt), _text(self.answer),
        )  # fmt: skip


class PayloadQueue:
    """Payloads on their way to Postgres.

    Attributes:
        dropped: How many did not fit.
    """

    def __init__(self) -> None:
        self._waiting: list[Payload] = []
        self._bytes = 0
        self.dropped = 0

    def add(self, payload: Payload) -> None:
        """Take one, or drop it when there is no room."""
        size = len(payload.prompt) + len(payload.answer)
        if self._bytes + size > _MOST_BYTES:
            self.dropped += 1
            return
        self._waiting.append(payload)
        self._bytes += size

    def take(self) -> list[Payload]:
        """Everything waiting."""
        taken, self._waiting, self._bytes = self._waiting, [], 0
        return taken


def _text(raw: bytes) -> str:
    return redact(raw.decode("utf-8", "replace")).replace("\0", "")
