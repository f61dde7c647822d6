"""How many requests were refused, exactly: by minute, key, tenant, code and limit.

Invariants: counting never waits; a row holds all of its minute at this worker, so that a batch written twice
counts once; rows in memory are at most `MOST` whatever is thrown at them (names that callers choose are no
part of a row), and what finds no row of its own is counted in one for all the rest of its minute.
Units: minutes since 1970, as the request's id says.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from llm_proxy.database import clean_text
from llm_proxy.errors import Refused
from llm_proxy.identity import Caller

MOST = 50_000
KEPT_MINUTES = 15
"""So long a written row can still grow: a request is refused within minutes of its begin."""
_LONGEST_TEXT = 128
_MS_PER_MINUTE = 60_000

Place = tuple[int, str, str, str, str, str]
"""Minute, key, tenant, code, and the limit's scope and kind."""
Row = tuple[Any, ...]


class RefusalCounts:
    """Counts of this worker on their way to Postgres.

    Attributes:
        worker: This worker's name in the table, of this start.
    """

    def __init__(self) -> None:
        self.worker = secrets.token_hex(8)
        self._times: dict[Place, int] = {}
        self._changed: set[Place] = set()
        self._newest = 0

    def add(self, request_id: UUID, caller: Caller | None, refused: Refused) -> None:
        """A request was refused before it became a call."""
        minute = minute_of(request_id)
        self._newest = max(self._newest, minute)
        minute = max(minute, self._newest - KEPT_MINUTES)  # older rows may be forgotten
        reached = refused.reached
        tenant = caller.tenant if caller is not None and caller.kind == "virtual" else None
        place = (
            minute,
            _text(caller.key_id if caller else ""),
            _text(tenant or ""),
            _text(refused.code or str(refused.status)),
            reached.scope if reached else "",
            reached.kind if reached else "",
        )
        if place not in self._times and len(self._times) >= MOST:
            place = (minute, "", "", "other", "", "")
        self._times[place] = self._times.get(place, 0) + 1
        self._changed.add(place)

    def changed(self) -> list[Row]:
        """The rows that Postgres does not have yet, as it takes them."""
        return [
            (datetime.fromtimestamp(place[0] * 60, UTC), *place[1:], self.worker, self._times[place])
            for place in self._changed
        ]

    def written(self, rows: Sequence[Row]) -> None:
        """Postgres has these rows; those that cannot grow any more are forgotten."""
        for row in rows:
            place = (int(row[0].timestamp()) // 60, *row[1:6])
            if self._times.get(place) == row[-1]:
                self._changed.discard(place)
        oldest = self._newest - KEPT_MINUTES
        for place in [one for one in self._times if one[0] < oldest and one not in self._changed]:
            del self._times[place]


def minute_of(request_id: UUID) -> int:
    """The minute in which the request with this id came, since 1970."""
    return (request_id.int >> 80) // _MS_PER_MINUTE


def _text(name: str) -> str:
    return clean_text(name)[:_LONGEST_TEXT]
