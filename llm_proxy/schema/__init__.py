"""Numbered SQL in, a database of this version out.

Invariants: files are applied in order, each once, all pending ones in one transaction under an advisory
lock; a file that was applied never changes (expand and contract: old code runs on the new schema); a
database that is already right is only read, so the gateway's role needs no right to change it.
"""

import hashlib
import ssl
from dataclasses import dataclass
from importlib import resources
from typing import Union

import asyncpg
from asyncpg.pool import PoolConnectionProxy

_LOCK = 0x6C6C6D70726F7879  # "llmproxy"
_SIDECAR_ROLE = "llm_proxy_sidecar"

Connection = Union["asyncpg.Connection[asyncpg.Record]", "PoolConnectionProxy[asyncpg.Record]"]


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered file."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of its text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


class SchemaChanged(Exception):  # noqa: N818 -- errors are named for the state they report
    """A file was changed after it had been applied."""


def steps() -> list[Step]:
    """Every file, in order."""
    found = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".sql")]
    numbered = [Step(int(file.name[:3]), file.name, file.read_text(encoding="utf-8")) for file in found]
    return sorted(numbered, key=lambda step: step.number)


async def pending(connection: Connection) -> list[Step]:
    """Files not applied yet; raises `SchemaChanged` when an applied one reads differently now."""
    if await connection.fetchval("SELECT to_regclass('schema_steps')") is None:
        return steps()
    applied = {
        row["number"]: row["digest"]
        for row in await connection.fetch("SELECT number, digest FROM schema_steps")
    }
    for step in steps():
        if applied.get(step.number, step.digest) != step.digest:
            raise SchemaChanged(f"{step.name} was changed after it had been applied")
    return [step for step in steps() if step.number not in applied]


async def apply(connection: Connection) -> list[str]:
    """Bring the database to this version; returns the names of the files applied."""
    if not await pending(connection):
        return []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_steps (number integer PRIMARY KEY, name text NOT NULL,"
            " digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        todo = await pending(connection)
        for step in todo:
            await connection.execute(step.sql)
            await connection.execute(
                "INSERT INTO schema_steps (number, name, digest) VALUES ($1, $2, $3)",
                step.number, step.name, step.digest,
            )  # fmt: skip
    return [step.name for step in todo]


async def migrate(
    dsn: str, *, sidecar_password: str | None = None, tls: ssl.SSLContext | None = None
) -> list[str]:
    """Bring the database at this address to this version, over a connection of its own.

    Args:
        dsn: A role that may create tables.
        sidecar_password: Given, the sidecar's role may log in with it.
        tls: Whom to trust; without it what the address says.
    """
    connection = await asyncpg.connect(dsn, ssl=tls)
    try:
        applied = await apply(connection)
        if sidecar_password is not None:
            await let_sidecar_in(connection, sidecar_password)
    finally:
        await connection.close()
    return applied


async def let_sidecar_in(connection: Connection, password: str) -> str:
    """Give the sidecar's role this password and the right to log in; returns the role's name.

    The role may insert and update `llm_calls` and nothing else. Repeating it changes nothing.
    """
    statement: str = await connection.fetchval(
        "SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)", _SIDECAR_ROLE, password
    )
    await connection.execute(statement)
    return _SIDECAR_ROLE
