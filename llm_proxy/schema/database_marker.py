"""The database's marker: by which it is known again, and one that came out of a backup is found.

It lies in the database, so that a backup has it as it was; a `Sighting` is how far it was seen from outside.
Invariants: a database that is behind a sighting, or lies elsewhere while none confirms it, came out of a
backup; the epoch grows with every change that takes something away, the beat with time, the generation with
every restore that was acknowledged. Raises the driver's errors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import asyncpg

from llm_proxy.schema.steps import PgConnection

BEAT_MS = 10_000
BEHIND_MS = 60_000
"""What a standby may lack that is promoted, while no change of keys or limits is among it."""
MOVED_WITHIN_MS = 2 * 3_600_000
"""A database that lay idle for longer and turns up elsewhere is not believed to have been moved."""
RESTORED = "it was restored from a backup"
RESTORED_OLDER = f"{RESTORED} of an older version"
_READ = """
    SELECT m.*, coalesce((SELECT max(epoch) FROM tenant_epochs), 0) AS epoch, current_database() AS name,
           floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
    FROM (SELECT) AS one LEFT JOIN database_marker AS m ON true"""
_IDENTITY = "SELECT * FROM database_identity()"
_HAS_KEYS = "SELECT EXISTS (SELECT FROM api_keys) OR EXISTS (SELECT FROM requests)"
_MARK = """
    INSERT INTO database_marker (lineage, generation, beat_ms, server_id, database_oid, timeline,
                                 locked_at, lock_reason)
    SELECT coalesce($1, gen_random_uuid()), $2, floor(extract(epoch FROM clock_timestamp()) * 1000),
           i.server_id, i.database_oid, i.timeline,
           CASE WHEN $3::text IS NOT NULL THEN clock_timestamp() END, $3
    FROM database_identity() AS i ON CONFLICT DO NOTHING"""
_BEAT = """
    UPDATE database_marker SET beat_ms = greatest(beat_ms + 1, $2),
        server_id = $3, database_oid = $4, timeline = $5
    WHERE locked_at IS NULL AND beat_ms = $1 RETURNING beat_ms"""
_LOCK = """
    UPDATE database_marker SET locked_at = clock_timestamp(), lock_reason = $1 WHERE locked_at IS NULL"""
_UNLOCK = """
    UPDATE database_marker SET locked_at = NULL, lock_reason = NULL,
        generation = greatest(generation, $1) + 1,
        beat_ms = greatest(beat_ms + 1, $2, floor(extract(epoch FROM clock_timestamp()) * 1000)),
        (server_id, database_oid, timeline) =
            (SELECT i.server_id, i.database_oid, i.timeline FROM database_identity() AS i)"""


class DatabasePlace(NamedTuple):
    """Where a database lies; None for what the server does not report."""

    server_id: str | None
    database_oid: str | None
    timeline: str | None

    def differs_from(self, other: "DatabasePlace") -> bool:
        """Whether something differs that both know."""
        return any(None not in (a, b) and a != b for a, b in zip(self, other, strict=True))


class Sighting(NamedTuple):
    """What was seen of a database: its lineage, and how far it was; the beat in ms since 1970."""

    lineage: str
    generation: int
    beat_ms: int
    epoch: int

    def as_text(self) -> str:
        """Returns it as one line."""
        return " ".join(map(str, self))


def parse_sighting(text: str) -> Sighting | None:
    """Returns the sighting of a line; None for anything else."""
    words = text.split()
    if len(words) != len(Sighting._fields) or not all(one.isascii() and one.isdigit() for one in words[1:]):
        return None
    return Sighting(words[0], *map(int, words[1:]))


@dataclass(frozen=True, slots=True)
class Marker:
    """A database's marker, as it was read.

    Attributes:
        name: The database's.
        now_ms: The server's clock.
        seen: How far the database is; None without a marker: no gateway of this version has used it.
        place: Where it lay when a gateway used it last.
        lock_reason: Why nothing is admitted until its restore is acknowledged; None where it is not locked.
    """

    name: str
    now_ms: int
    seen: Sighting | None
    place: DatabasePlace
    lock_reason: str | None


async def read_marker(connection: PgConnection) -> Marker | None:
    """Returns the marker; None where the schema is older than it."""
    try:
        row = await connection.fetchrow(_READ)
    except asyncpg.UndefinedTableError:
        return None
    assert row is not None  # noqa: S101 -- the statement always has one row
    lineage: UUID | None = row["lineage"]
    seen = None
    if lineage is not None:
        seen = Sighting(str(lineage), row["generation"], row["beat_ms"], row["epoch"])
    place = DatabasePlace(row["server_id"], row["database_oid"], row["timeline"])
    locked = row["locked_at"] is not None
    return Marker(
        row["name"], row["now_ms"], seen, place, (row["lock_reason"] or RESTORED) if locked else None
    )


async def read_place(connection: PgConnection) -> DatabasePlace:
    """Returns where the database lies now."""
    row = await connection.fetchrow(_IDENTITY)
    assert row is not None  # noqa: S101 -- the function always has one row
    return DatabasePlace(*row)


async def has_keys(connection: PgConnection) -> bool:
    """Whether the database has keys or requests: an empty one revives nothing."""
    found: bool = await connection.fetchval(_HAS_KEYS)
    return found


async def make_marker(connection: PgConnection, former: Sighting | None = None) -> None:
    """Gives a database without a marker one, of a new lineage.

    With `former`, of that lineage, and locked: it was seen with a marker, and came out of an older backup.
    """
    if former is None:
        await connection.execute(_MARK, None, 0, None)
        return
    await connection.execute(_MARK, UUID(former.lineage), former.generation, RESTORED_OLDER)
    await lock_database(connection, RESTORED_OLDER)  # one that another process has just made


async def beat(connection: PgConnection, marker: Marker, place: DatabasePlace) -> Sighting | None:
    """Notes that the database is in use, and where; None when another process has just done so."""
    if marker.seen is None:
        return None
    beat_ms: int | None = await connection.fetchval(_BEAT, marker.seen.beat_ms, marker.now_ms, *place)
    return None if beat_ms is None else marker.seen._replace(beat_ms=beat_ms)


async def lock_database(connection: PgConnection, reason: str) -> None:
    """Locks the database for every gateway until its restore is acknowledged."""
    await connection.execute(_LOCK, reason)


async def unlock_database(connection: PgConnection, seen: Iterable[Sighting]) -> None:
    """Unlocks it where it lies now, ahead of every sighting of it."""
    known = list(seen)
    generation = max((one.generation for one in known), default=0)
    await connection.execute(_UNLOCK, generation, max((one.beat_ms + 1 for one in known), default=0))


def why_restored(marker: Marker, place: DatabasePlace | None, sightings: Iterable[Sighting]) -> str | None:
    """Returns why a marked database came out of a backup; None where it did not.

    Args:
        marker: As it was read.
        place: Where it lies; None leaves that out of the judgement.
        sightings: What was seen of databases, of this one and of others.
    """
    now = marker.seen
    if now is None:
        return None
    of_it = [one for one in sightings if one.lineage == now.lineage]
    for one in of_it:
        if one.generation > now.generation:
            return f"{RESTORED} from before another restore"
        if one.generation == now.generation and one.epoch > now.epoch:
            return f"{RESTORED}: changes of keys or limits that were made are not in it"
        if one.generation == now.generation and one.beat_ms > now.beat_ms + BEHIND_MS:
            return f"{RESTORED}: it lacks the last {(one.beat_ms - now.beat_ms) // 1000} seconds"
    if place is None or not place.differs_from(marker.place) or _is_confirmed(marker, now, of_it):
        return None
    return f"{RESTORED}, or was copied: it lies elsewhere than before, and nothing confirms that it is whole"


def _is_confirmed(marker: Marker, now: Sighting, of_it: list[Sighting]) -> bool:
    """Whether it was seen as far as it is, and used so lately that it may have been moved since."""
    seen = any(one.generation == now.generation and one.beat_ms >= now.beat_ms - BEHIND_MS for one in of_it)
    return seen and marker.now_ms - now.beat_ms < MOVED_WITHIN_MS
