"""A request that was not admitted: counted always (`refusal_counts`), kept as a row only in a bounded sample.

Invariants: no text of the caller's is kept but its key's prefix, the names it acts under and the limit it
reached; the sample is at most so many rows a second for one worker, whatever is thrown at it, and strangers
take no place of callers that are known. Names of users stay out of the log.
"""

from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from llm_proxy.database import clean_text
from llm_proxy.dialects import Call
from llm_proxy.errors import ReachedLimit, Refused
from llm_proxy.identity import Caller
from llm_proxy.money import usd_text
from llm_proxy.telemetry.redact import redact

SAMPLE_PER_S = 10
_LONGEST_NAME, _LONGEST_SUBJECT = 128, 300  # a name as in `requests`; a subject may hold two
_AMOUNTS = ("limit", "used", "held", "kept", "wanted")


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
    user: str | None
    reached: ReachedLimit | None

    def row(self) -> tuple[Any, ...]:
        """Its values, in the order of the table's columns, as Postgres takes them."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(_as_postgres_takes(value) for value in values)

    def line(self) -> dict[str, Any]:
        """What the log says of it: unknown fields are left out, and users' names."""
        known = {
            "request_id": str(self.request_id),
            "status": self.status,
            "code": self.code,
            "refused_by": self.refused_by,
            "door": self.door,
            "key_prefix": self.key_prefix,
            "tenant": _named(self.tenant),
            "agent": _named(self.agent),
            "group": _named(self.group),
        }
        line: dict[str, Any] = {name: value for name, value in known.items() if value is not None}
        if self.reached is not None:
            line["limit"] = limit_as_json(self.reached) | {"subject": self._limited(self.reached)}
        return line

    def _limited(self, reached: ReachedLimit) -> str | None:
        """Whose limit it is, for the log: a key by its public part."""
        if reached.scope == "user_model":
            return "a user"
        return reached.subject if reached.subject == f"key {self.key_prefix}" else _named(reached.subject)


def refusal_of(
    request_id: UUID, started_at_s: float, caller: Caller | None, call: Call | None, refused: Refused
) -> Refusal:
    """The refusal of a request that was not admitted, as far as it is known whose it was."""
    return Refusal(
        request_id=request_id,
        refused_at=datetime.fromtimestamp(started_at_s, UTC),
        status=refused.status,
        code=refused.code,
        refused_by=refused.refused_by,
        door=call.door if call else None,
        key_id=caller.key_id if caller else None,
        key_prefix=caller.key_prefix if caller else None,
        tenant=caller.tenant if caller else None,
        agent=caller.agent if caller else None,
        group=call.group if call else None,
        user=caller.user if caller else None,
        reached=refused.reached,
    )


def limit_as_json(reached: ReachedLimit) -> dict[str, Any]:
    """A limit that was reached, for the record and the log; money in dollars, as text."""
    told: dict[str, Any] = asdict(reached)
    told["resets_at"] = reached.resets_at.isoformat() if reached.resets_at else None
    if reached.unit == "usd":
        told |= {name: usd_text(told[name]) for name in _AMOUNTS}
    return {name: value for name, value in told.items() if value is not None}


def _as_postgres_takes(value: object) -> object:
    if isinstance(value, ReachedLimit):
        cleaned = {
            name: clean_text(text)[:_LONGEST_SUBJECT] if isinstance(text, str) else text
            for name, text in limit_as_json(value).items()
        }
        return orjson.dumps(cleaned).decode()
    return clean_text(value)[:_LONGEST_NAME] if isinstance(value, str) else value


def _named(name: str | None) -> str | None:
    return None if name is None else redact(name)


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
