"""A request that was not admitted: counted always, kept as a row only in a bounded sample.

Invariants: no text of the caller's is kept but its key's prefix and the names it is bound to; the sample is
at most so many rows a second for one worker, whatever is thrown at it.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from llm_proxy.database import clean_text

SAMPLE_PER_S = 10


@dataclass(frozen=True, slots=True)
class Refusal:
    """One request answered with an error before it became a call."""

    request_id: UUID
    refused_at: datetime
    status: int
    code: str | None
    refused_by: str
    door: str | None
    key_id: str | None
    key_prefix: str | None
    tenant: str | None
    agent: str | None
    group: str | None

    def row(self) -> tuple[Any, ...]:
        """Its values, in the order of the table's columns, as Postgres takes them."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(clean_text(value) if isinstance(value, str) else value for value in values)


class Sample:
    """Says which refusals are kept: the first so many of each second."""

    __slots__ = ("_left", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._left = SAMPLE_PER_S

    def takes(self, now_s: float) -> bool:
        """Whether one more is kept at this time, on any clock that counts seconds."""
        second = int(now_s)
        if second != self._second:
            self._second, self._left = second, SAMPLE_PER_S
        self._left -= 1
        return self._left >= 0
