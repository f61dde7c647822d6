"""Prompts and answers, for operators who want them: apart from the records, redacted, never in the way.

Invariants: nothing is stored unless asked for; key-like text is blanked before it leaves this process; the
queue is bounded in bytes, and what does not fit, or finds Postgres away, is dropped and counted, never
spooled.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from llm_proxy.database import clean_text
from llm_proxy.telemetry.redact import redact

LONGEST_NAME = 128
"""Characters of a name that are kept, as in `requests`; longer ones do not fit into an index."""
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
            self.request_id, self.started_at, _name(self.tenant), _name(self.agent), _name(self.user),
            _text(self.prompt), _text(self.answer),
        )  # fmt: skip


class PayloadQueue:
    """Payloads on their way to Postgres.

    Attributes:
        most_bytes: So much may wait.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._waiting: list[Payload] = []
        self._bytes = 0
        self.most_bytes = most_bytes

    def add(self, payload: Payload) -> bool:
        """Take one; False when there is no room."""
        size = len(payload.prompt) + len(payload.answer)
        if self._bytes + size > self.most_bytes:
            return False
        self._waiting.append(payload)
        self._bytes += size
        return True

    def take(self) -> list[Payload]:
        """Everything waiting."""
        taken, self._waiting, self._bytes = self._waiting, [], 0
        return taken


def _text(raw: bytes) -> str:
    return clean_text(redact(raw.decode("utf-8", "replace")))


def _name(name: str | None) -> str | None:
    return clean_text(name)[:LONGEST_NAME] if name is not None else None
