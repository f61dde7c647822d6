"""The numbered SQL files of this folder as steps, and which of them a database lacks.

Invariants: an applied file never changes. A file whose first line is `OUTSIDE_LINE` holds only statements
that make or drop an index `CONCURRENTLY`; nothing is wrong while such an index is missing, it is only slower.
A gateway older than the release before the one that migrated is rejected, by `schema_floor`.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Union

import asyncpg

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

OLDEST_SCHEMA = 41
"""The last migration of the release before: its gateways run on this schema, older ones do not."""
OUTSIDE_LINE = "-- outside a transaction"
_COMMENT = re.compile(r"--[^\n]*")
_INDEX_STATEMENT = re.compile(
    r"(?P<verb>CREATE|DROP)(?: UNIQUE)? INDEX CONCURRENTLY (?:IF (?:NOT )?EXISTS )?"
    r"(?P<index>[a-z_0-9]+)(?: |$)"
)

PgConnection = Union["asyncpg.Connection[asyncpg.Record]", "PoolConnectionProxy[asyncpg.Record]"]


class SchemaBusy(Exception):  # noqa: N818 -- errors are named for the state they report
    """Another process migrates, or a table is in use; the message says who."""


class SchemaChanged(Exception):  # noqa: N818 -- errors are named for the state they report
    """A file changed after it had been applied."""


class GatewayTooOld(Exception):  # noqa: N818 -- errors are named for the state they report
    """The database belongs to releases of which this one is too old."""


@dataclass(frozen=True, slots=True)
class IndexStatement:
    """One statement that makes or drops an index beside the calls."""

    index: str
    makes: bool
    sql: str


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the SQL text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def is_outside(self) -> bool:
        """Whether its statements run outside a transaction."""
        return self.sql.startswith(f"{OUTSIDE_LINE}\n")

    def index_statements(self) -> list[IndexStatement]:
        """Returns the statements of a step outside a transaction; raises ValueError for any other."""
        parts = (" ".join(part.split()) for part in _COMMENT.sub("", self.sql).split(";"))
        found: list[IndexStatement] = []
        for sql in filter(None, parts):
            stated = _INDEX_STATEMENT.match(sql)
            if stated is None:
                raise ValueError(f"{self.name}: a step outside a transaction makes and drops indexes only")
            found.append(IndexStatement(stated["index"], stated["verb"] == "CREATE", sql))
        return found


def all_migrations() -> list[Migration]:
    """Returns every migration, in order."""
    found = [file for file in resources.files("llm_proxy.schema").iterdir() if file.name.endswith(".sql")]
    numbered = [Migration(int(file.name[:3]), file.name, file.read_text(encoding="utf-8")) for file in found]
    return sorted(numbered, key=lambda step: step.number)


async def pending_migrations(
    connection: PgConnection, steps: Sequence[Migration] | None = None
) -> list[Migration]:
    """Returns the migrations not applied yet, of `steps` or of all.

    Raises:
        SchemaChanged: An applied file has changed.
        GatewayTooOld: This version may not run on the database's schema.
    """
    known = all_migrations() if steps is None else steps
    if await connection.fetchval("SELECT to_regclass('schema_steps')") is None:
        return [*known]
    applied = {
        row["number"]: row["digest"]
        for row in await connection.fetch("SELECT number, digest FROM schema_steps")
    }
    await _check_floor(connection, known[-1].number, max(applied, default=0))
    for step in known:
        if applied.get(step.number, step.digest) != step.digest:
            raise SchemaChanged(f"{step.name} was changed after it had been applied")
    return [step for step in known if step.number not in applied]


async def _check_floor(connection: PgConnection, own: int, newest: int) -> None:
    if await connection.fetchval("SELECT to_regclass('schema_floor')") is None:
        return
    oldest = await connection.fetchval("SELECT oldest FROM schema_floor")
    if own < (oldest or 0):
        raise GatewayTooOld(
            f"the database has schema {newest:03}, on which versions with schema {oldest:03} or newer run;"
            f" this version has schema {own:03} and is too old: install a newer one (docs/upgrade.md)"
        )


async def raise_floor(connection: PgConnection) -> None:
    """Keeps gateways away that are older than the release before this one."""
    if await connection.fetchval("SELECT to_regclass('schema_floor')") is not None:
        await connection.execute("UPDATE schema_floor SET oldest = $1 WHERE oldest < $1", OLDEST_SCHEMA)


async def record_step(connection: PgConnection, step: Migration) -> None:
    """Notes that a step was applied; a step that is noted stays so."""
    await connection.execute(
        "INSERT INTO schema_steps (number, name, digest) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        step.number, step.name, step.digest,
    )  # fmt: skip
