"""Verifies the audit log: reads the whole chain and reports what was changed, reordered, added or removed.

Invariants: read only, one snapshot; digests are computed here, nothing that the database computes is trusted.
Whoever can write to the database can also write a whole new chain: only a head that was kept elsewhere finds
that, so a report has the head.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from llm_proxy.identity.audit import CHAINED, GENESIS, RETIRE, SEAL, Person, digest_of, pseudonym_of
from llm_proxy.identity.store import Connection, available

_MOST_FAULTS = 100
_ENTRIES = f"SELECT {', '.join(CHAINED)}, digest FROM audit_entries ORDER BY seq, at, digest"  # noqa: S608 -- our own column names
_BATCH = 1000


@dataclass(slots=True)
class Report:
    """What a verification found.

    Attributes:
        entries: Entries of the chain that are there.
        head: The last entry's digest, in hex; empty when there is no entry.
        last: The last entry's number.
        unchained: Rows from before the chain, which nothing protects.
        retired: Months that retention dropped, and the chain says so.
        nameless: Pseudonyms whose names were erased.
        faults: What is wrong, one sentence each, at most `_MOST_FAULTS`.
    """

    entries: int = 0
    head: str = ""
    last: int = 0
    unchained: int = 0
    retired: list[str] = field(default_factory=list[str])
    nameless: int = 0
    faults: list[str] = field(default_factory=list[str])

    def add(self, fault: str) -> None:
        """Note a fault."""
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(fault)


async def verify(pool: "asyncpg.Pool[asyncpg.Record]", known_head: str | None = None) -> Report:
    """Verify the whole log.

    Args:
        pool: On the database.
        known_head: A digest that an earlier report gave and somebody kept elsewhere.

    Raises:
        StoreUnavailable: Postgres does not answer, or has no audit log.
    """
    async with (
        available(),
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        walk = _Walk(known_head.lower() if known_head else None)
        async for row in connection.cursor(_ENTRIES, prefetch=_BATCH):
            walk.step(row)
        walk.end(await connection.fetchrow("SELECT seq, digest FROM audit_head"))
        await _check_people(connection, walk)
        walk.report.unchained = await connection.fetchval("SELECT count(*) FROM audit_log")
    return walk.report


class _Walk:
    """Goes through the entries in the order of their numbers."""

    def __init__(self, known_head: str | None) -> None:
        self.report = Report()
        self.pseudonyms: set[str] = set()
        self._known_head = known_head
        self._found_head = False
        self._first: Mapping[str, Any] | asyncpg.Record | None = None
        self._last: Mapping[str, Any] | asyncpg.Record | None = None
        self._retired: dict[tuple[int, str], list[str]] = {}
        self._by_month: Counter[str] = Counter()

    def step(self, row: asyncpg.Record) -> None:
        """Check the next entry."""
        report, seq = self.report, row["seq"]
        report.entries += 1
        if digest_of(row) != row["digest"]:
            report.add(f"entry {seq} was changed: its content does not fit its digest")
        if self._last is None:
            self._first = row
        else:
            self._compare(self._last, row)
        self._found_head = self._found_head or row["digest"].hex() == self._known_head
        self._read(row)
        self._last = row
        self._by_month[_month(row["at"])] += 1

    def end(self, head: asyncpg.Record | None) -> None:
        """Check both ends of the chain."""
        report, first, last = self.report, self._first, self._last
        if first is not None and last is not None:
            report.head, report.last = last["digest"].hex(), last["seq"]
            report.retired = sorted(month for months in self._retired.values() for month in months)
            if (
                first["previous"] != GENESIS
                and (first["seq"] - 1, first["previous"].hex()) not in self._retired
            ):
                report.add(f"the entries before {first['seq']} are missing, and no retirement is on record")
        if head is None:
            report.add("the record of the chain's end is missing")
        elif last is None and head["digest"] != GENESIS:
            report.add(f"every entry is missing: the chain had come to entry {head['seq']}")
        elif last is not None and (head["seq"], head["digest"]) != (last["seq"], last["digest"]):
            report.add(
                f"the chain ends at entry {last['seq']}, and its end was recorded as entry {head['seq']}: "
                "entries at the end are missing, or were added or changed"
            )
        if self._known_head is not None and not self._found_head:
            report.add(
                f"the head {self._known_head} is not in the chain: the log was rewritten, "
                "its end was cut off, or the head's month was retired"
            )

    def _compare(self, last: Mapping[str, Any] | asyncpg.Record, row: asyncpg.Record) -> None:
        report, seq, expected = self.report, row["seq"], last["seq"] + 1
        if seq == last["seq"]:
            report.add(f"there are two entries {seq}")
        elif seq != expected:
            gap = f"entry {expected} is" if seq == expected + 1 else f"entries {expected} to {seq - 1} are"
            report.add(f"{gap} missing")
        elif row["previous"] != last["digest"]:
            report.add(f"entry {seq} does not follow entry {last['seq']}: one of them was replaced")
        if row["at"] < last["at"]:
            report.add(f"entry {seq} is older than entry {last['seq']}")

    def _read(self, row: asyncpg.Record) -> None:
        """Keep what the entry says about people, sealed months and retired months."""
        if row["actor"].startswith("person:"):
            self.pseudonyms.add(row["actor"])
        if row["target"].startswith("person:"):
            self.pseudonyms.add(row["target"])
        if row["action"] not in {SEAL, RETIRE}:
            return
        try:
            detail = json.loads(row["detail"])
            if row["action"] == RETIRE:
                self._retired[int(detail["last"]), str(detail["digest"])] = [
                    str(one) for one in detail["months"]
                ]
            elif not self._fits(detail, row):
                self.report.add(f"month {row['target']} does not fit its seal, entry {row['seq']}")
        except (ValueError, KeyError, TypeError):
            self.report.add(f"entry {row['seq']} is no {row['action']} of ours")

    def _fits(self, seal: dict[str, Any], row: asyncpg.Record) -> bool:
        if self._last is None:  # the sealed month was retired; whether rightly, `end` decides
            return bool(seal["digest"] == row["previous"].hex())
        sealed = (seal["digest"], seal["last"], seal["entries"])
        return bool(sealed == (self._last["digest"].hex(), self._last["seq"], self._by_month[row["target"]]))


async def _check_people(connection: Connection, walk: _Walk) -> None:
    """Every name must fit its pseudonym: a swapped name would blame somebody else."""
    known: set[str] = set()
    for row in await connection.fetch("SELECT * FROM audit_people ORDER BY pseudonym"):
        known.add(row["pseudonym"])
        person = Person(row["name"], row["tenant"], row["kind"])
        if pseudonym_of(person, row["salt"]) != row["pseudonym"]:
            walk.report.add(f"the name of {row['pseudonym']} was changed")
    walk.report.nameless = len(walk.pseudonyms - known)


def _month(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m}"
