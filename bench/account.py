"""Three books of one load, compared call by call: the callers', the provider's, and the records in Postgres.

A record is lost when the provider saw a call, or its caller got an answer, and no record tells of it; doubled
when two tell of one call; a call is repeated when the provider saw it twice.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg

from bench.traffic import Made

QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class Account:
    """What the comparison found; the last three should be 0.

    Attributes:
        unfinished: Records that say `lost`: calls that ran in a gateway that was killed.
    """

    made: int
    answered: int
    seen_by_provider: int
    records: int
    unfinished: int
    lost: int
    doubled: int
    repeated: int
    lost_marks: tuple[str, ...] = ()
    doubled_marks: tuple[str, ...] = ()
    repeated_marks: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """For a report: of each list of marks the first few."""
        found = asdict(self)
        return found | {name: found[name][:20] for name in found if name.endswith("_marks")}


def seen(lines: Path) -> Counter[str]:
    """How often the provider saw each mark."""
    found = Counter[str]()
    with lines.open(encoding="utf-8") as file:
        for line in file:
            mark = json.loads(line)["mark"]
            if mark:
                found[mark] += 1
    return found


async def records(database_url: str, patience_s: float) -> list[tuple[str, str]]:
    """Mark and outcome of every record, once no more come in."""
    connection = await asyncpg.connect(database_url)
    try:
        end, count, since = time.monotonic() + patience_s, -1, time.monotonic()
        while time.monotonic() < end and time.monotonic() - since < QUIET_S:
            now = await connection.fetchval("SELECT count(*) FROM requests")
            if now != count:
                count, since = now, time.monotonic()
            await asyncio.sleep(0.2)
        rows = await connection.fetch("SELECT client_request_id, outcome FROM requests")
    finally:
        await connection.close()
    return [(str(row[0]), str(row[1])) for row in rows]


def compare(made: Iterable[Made], provider: Counter[str], kept: list[tuple[str, str]]) -> Account:
    """The account of a load that has ended."""
    calls = {one.mark: one for one in made}
    by_mark = Counter(mark for mark, _ in kept)
    answered = {mark for mark, one in calls.items() if one.status == 200}
    owed = answered | {mark for mark in provider if mark in calls}
    lost = sorted(mark for mark in owed if not by_mark[mark])
    return Account(
        made=len(calls),
        answered=len(answered),
        seen_by_provider=sum(provider.values()),
        records=len(kept),
        unfinished=sum(outcome == "lost" for _, outcome in kept),
        lost=len(lost),
        doubled=sum(count - 1 for count in by_mark.values()),
        repeated=sum(count - 1 for count in provider.values()),
        lost_marks=tuple(lost),
        doubled_marks=tuple(mark for mark, count in by_mark.items() if count > 1),
        repeated_marks=tuple(mark for mark, count in provider.items() if count > 1),
    )
