"""Watches whether the database is the one the gateway knows; closes the gate if it came out of a backup.

Invariants: no call waits for a check: a loop looks twice a second, and every new connection is looked
at before anything is read through it. Limits store and disk are read when this process does not know the
database, or something is not as before. A store that does not answer confirms nothing, and locks nothing.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.sightings import StoredSightings
from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity.restore_gate import RestoreGate
from llm_proxy.schema import PgConnection
from llm_proxy.schema.connections import Pool
from llm_proxy.schema.database import DRIVER_ERRORS, DatabaseUnavailable, RowsRejected, db_deadline
from llm_proxy.schema.database_marker import (
    BEAT_MS,
    RESTORED_OLDER,
    DatabasePlace,
    Marker,
    Sighting,
    beat,
    has_keys,
    lock_database,
    make_marker,
    read_marker,
    read_place,
    why_restored,
)
from llm_proxy.schema.sightings_file import read_sightings, write_sighting

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
FULL_EVERY_S = BEAT_MS / 1000
_DEADLINE_S, _AT_START_S = 2.0, 3.0
_UNCHECKED = "the database is being looked at"
_UNCONFIRMED = "the database is not as it was, and the limits store, which would confirm it, does not answer"
ACKNOWLEDGE = "run `llm-proxy restore-check`"


class RestoreWatch:
    """Opens and closes a gate.

    Attributes:
        gate: Closed while the database is not trusted.
    """

    def __init__(self, gate: RestoreGate, folder: Path | None) -> None:
        """`folder` is where this host notes what it saw; None where it cannot."""
        self.gate = gate
        self._folder = folder
        self._pool: Pool | None = None
        self._stored: StoredSightings | None = None
        self._on_change: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._before_admitting: Callable[[], Awaitable[None]] | None = None
        self._on_epoch: Callable[[int, float], None] | None = None
        self._is_acknowledged = False  # the gate opens once the look's connection is free
        self._seen: dict[str, Sighting] = {}
        self._full_at = float("-inf")
        self._noted: dict[str, Sighting] = {}
        self._loop = BackgroundLoop("database-marker", self._step, every_s=LOOK_EVERY_S)
        self._one_at_a_time = asyncio.Lock()

    async def start(
        self,
        pool: Pool,
        stored: StoredSightings | None,
        on_change: Callable[[], Coroutine[Any, Any, None]] | None = None,
        before_admitting: Callable[[], Awaitable[None]] | None = None,
        on_epoch: Callable[[int, float], None] | None = None,
    ) -> None:
        """Looks once, as far as the stores answer, then twice a second.

        Args:
            pool: Of the database.
            stored: What the limits store saw; None without one.
            on_change: Called when a restore is found, and when it is acknowledged.
            before_admitting: Called when a restore is acknowledged, before calls are admitted; if it raises
                `StoreUnavailable`, they are not, and it is called again.
            on_epoch: Called at each look with the newest epoch, and when the look began (`time.monotonic`).
        """
        self._pool, self._stored, self._on_change = pool, stored, on_change
        self._before_admitting, self._on_epoch = before_admitting, on_epoch
        try:
            async with asyncio.timeout(_AT_START_S):
                await self._loop.run_once(self._step)
        except TimeoutError:
            log.debug("the database does not answer yet")
        self._loop.start()

    async def stop(self) -> None:
        """Stops looking."""
        await self._loop.stop()

    async def verify(self, connection: PgConnection) -> None:
        """Looks at the database of a new connection before it is used; closes the gate unless it is known."""
        try:
            marker = await read_marker(connection)
        except DRIVER_ERRORS:
            return  # the next user of the connection gets the error
        if marker is not None and marker.seen is not None and marker.seen.lineage in self._seen:
            reason = marker.lock_reason or why_restored(marker, None, self._seen.values())
            if reason is None:
                return
        self._full_at = float("-inf")
        if self.gate.reason is None:
            self.gate.reason = _UNCHECKED

    async def _step(self) -> None:
        assert self._pool is not None  # noqa: S101 -- it was started
        try:
            async with self._one_at_a_time:
                self._is_acknowledged = False
                async with (
                    db_deadline(_DEADLINE_S),
                    self._pool.acquire(timeout=_DEADLINE_S) as connection,
                ):
                    await self._look(connection)
                if self._is_acknowledged:
                    await self._admit()
        except (DatabaseUnavailable, RowsRejected, StoreUnavailable):
            log.debug("the database's marker cannot be read now")

    async def _look(self, connection: PgConnection) -> None:
        began_at = time.monotonic()
        marker = await read_marker(connection)
        if marker is not None and marker.seen is not None and self._on_epoch is not None:
            self._on_epoch(marker.seen.epoch, began_at)
        if marker is None or marker.seen is None:
            await self._look_at_unmarked(connection, marker)
        elif marker.lock_reason is not None:
            self._found(marker.lock_reason)
        elif self._needs_no_closer_look(marker):
            self._seen[marker.seen.lineage] = marker.seen
        else:
            await self._look_closely(connection, marker, marker.seen)

    def _needs_no_closer_look(self, marker: Marker) -> bool:
        """Whether this process knows the database, has looked closely not long ago, and sees nothing odd."""
        if self.gate.reason is not None or time.monotonic() - self._full_at >= FULL_EVERY_S:
            return False
        return why_restored(marker, None, self._seen.values()) is None

    async def _look_closely(self, connection: PgConnection, marker: Marker, seen: Sighting) -> None:
        """Judges by everything that was seen; goes on with the marker if nothing speaks against it."""
        place = await read_place(connection)
        sightings, store_answers = [*self._seen.values(), *self._on_disk().values()], True
        if self._stored is not None:
            try:
                found = await self._stored.of_lineage(seen.lineage)
                sightings += [found] if found is not None else []
            except LimiterUnavailable:
                store_answers = False
        reason = why_restored(marker, place, sightings)
        if reason is None:
            await self._trust(connection, marker, seen, place)
        elif not store_answers and why_restored(marker, None, sightings) is None:
            self.gate.reason = _UNCONFIRMED
        else:
            self._found(reason)
            await lock_database(connection, reason)

    async def _trust(
        self, connection: PgConnection, marker: Marker, seen: Sighting, place: DatabasePlace
    ) -> None:
        self._seen[seen.lineage] = seen
        self._full_at = time.monotonic()
        if self.gate.reason in {None, _UNCHECKED, _UNCONFIRMED}:
            self.gate.reason = None
        else:
            self._is_acknowledged = True
        if marker.now_ms - seen.beat_ms >= BEAT_MS or place.differs_from(marker.place):
            seen = await beat(connection, marker, place) or seen
        await self._note(marker.name, seen)

    async def _admit(self) -> None:
        """Opens the gate after a restore was acknowledged."""
        if self._before_admitting is not None:
            await self._before_admitting()
        self.gate.reason = None
        log.warning("the database is trusted again: calls are admitted")
        self._changed()

    async def _look_at_unmarked(self, connection: PgConnection, marker: Marker | None) -> None:
        """A database without a marker is new, or of an earlier version, or from a backup of one."""
        name = marker.name if marker is not None else await connection.fetchval("SELECT current_database()")
        former = self._on_disk().get(name)
        if former is None and self._stored is not None:
            try:
                former = await self._stored.of_name(name)
            except LimiterUnavailable:
                log.debug("the limits store does not answer: what it saw of the database is left out")
        if marker is None:
            self.gate.reason = None if former is None else _UNCHECKED  # until it is migrated
            return
        if former is not None and await has_keys(connection):
            self._found(RESTORED_OLDER)
            await make_marker(connection, former)
            return
        self.gate.reason = None
        await make_marker(connection)
        made = await read_marker(connection)
        if made is not None and made.seen is not None:
            await self._look_closely(connection, made, made.seen)

    def _on_disk(self) -> dict[str, Sighting]:
        return {} if self._folder is None else read_sightings(self._folder)

    async def _note(self, name: str, seen: Sighting) -> None:
        """Writes what was seen into the limits store and on the disk, if that is new."""
        if self._noted.get(name) == seen:
            return
        if self._folder is not None:
            await asyncio.to_thread(write_sighting, self._folder, name, seen)
        if self._stored is not None:
            try:
                await self._stored.write(name, seen)
            except LimiterUnavailable:
                return
        self._noted[name] = seen

    def _found(self, reason: str) -> None:
        """Closes the gate of a database that was restored."""
        was, self.gate.reason = self.gate.reason, reason
        if was != reason:
            fields = {"why": reason, "do": ACKNOWLEDGE}
            log.error(
                "the database came out of a backup: nothing is admitted until that is acknowledged",
                extra=fields,
            )
            self._changed()

    def _changed(self) -> None:
        if self._on_change is not None:
            spawn("after-restore", self._on_change())
