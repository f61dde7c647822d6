"""`llm-proxy restore` and `restore-check`: a backup into the database, and what it lacks.

Invariants: a restore leaves what was in the database in a schema beside it, and puts it back if it fails. The
restored database is locked; only `restore-check --acknowledge` unlocks it, and without an export of
revocations that needs an option of its own.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from llm_proxy.admission.limiter import LimiterUnavailable, epoch_key
from llm_proxy.admission.redis.backend import open_backend
from llm_proxy.admission.redis.sightings import StoredSightings
from llm_proxy.cli.backup import MOVED_ASIDE, export_keys, server_major
from llm_proxy.cli.context import load_settings
from llm_proxy.cli.database import current_actor, database_url, run_with_pool
from llm_proxy.cli.postgres_tools import SERVICE, PostgresTools, open_tools, tools_option
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_WRONG_INPUT,
    Column,
    as_json_option,
    confirm,
    fail,
    print_fields,
    print_json,
    print_table,
    warn,
    yes_option,
)
from llm_proxy.identity.audit import admin_transaction
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.identity.revocation_export import ExportRejected, RevocationExport, load_export
from llm_proxy.json_access import Json
from llm_proxy.ledger.restore_check import RestoreReport, acknowledge, compare
from llm_proxy.ledger.spool import list_segments, read_lines
from llm_proxy.ledger.worker_slot import slot_folders
from llm_proxy.postgres_urls import SIDECAR_ROLE
from llm_proxy.schema import PgConnection
from llm_proxy.schema.database_marker import (
    RESTORED,
    Marker,
    Sighting,
    has_keys,
    lock_database,
    make_marker,
    read_marker,
    read_place,
    why_restored,
)
from llm_proxy.schema.sightings_file import read_sightings

_GATEWAYS_NOTICE_S = 1.5
_MAX_LISTED_TENANTS = 20


@click.command
@click.option(
    "--from", "file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The archive that `llm-proxy backup`, or pg_dump --format=custom, has made.",
)  # fmt: skip
@click.option("--replace", is_flag=True, help="The database has tables: they move into a schema beside it.")
@tools_option
@yes_option
def restore(*, file: Path, replace: bool, tools: Path | None, yes: bool) -> None:
    """Restore a backup into DATABASE_URL with pg_restore, and lock the database.

    Nothing is admitted by any gateway until `llm-proxy restore-check --acknowledge`.
    """
    url, major, began = database_url(), run_with_pool(server_major), time.monotonic()
    with open_tools(url, major, tools) as programs:
        programs.require_archive(file)
        name, has_tables = run_with_pool(_look_at_target)
        if has_tables and not replace:
            fail(f"the database {name} has tables: name an empty one, or add --replace", EXIT_WRONG_INPUT)
        confirm(f"Restore {file} into the database {name}?", yes=yes)
        before, was_locked = run_with_pool(_make_room) if has_tables else (None, False)
        run_with_pool(_make_role)
        try:
            _restore(programs, file)
        except BaseException:
            if before is not None:
                run_with_pool(partial(_put_back, before, was_locked=was_locked))
                warn("what was in the database is there again")
            raise
        is_locked = run_with_pool(_lock_restored)
    undetected = "" if is_locked else " --lock"  # the dump is of a version that marks no database
    print_fields({
        "restored": name,
        "seconds": f"{time.monotonic() - began:.1f}",
        "former tables": f"in the schema {before}: drop it when nothing is missed" if before else None,
        "next": f"llm-proxy migrate; llm-proxy restore-check --revocations FILE{undetected}",
    })  # fmt: skip


def _restore(programs: PostgresTools, file: Path) -> None:
    arguments = ("--no-owner", "--exit-on-error", "--single-transaction", "--no-password")
    programs.run("pg_restore", *arguments, f"--dbname=service={SERVICE}", str(file))


async def _look_at_target(pool: Pool) -> tuple[str, bool]:
    async with admin_transaction(pool) as connection:
        row = await connection.fetchrow(
            "SELECT current_database(), EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'p')"
            " AND relnamespace = current_schema()::regnamespace)"
        )
    assert row is not None  # noqa: S101 -- the statement has one row
    return row[0], row[1]


async def _make_room(pool: Pool) -> tuple[str, bool]:
    """Closes every gateway and moves the schema aside; returns its new name, and whether it was locked."""
    async with admin_transaction(pool) as connection:
        marker = await read_marker(connection) if await _has_marker(connection) else None
        if marker is not None and marker.seen is not None:
            await lock_database(connection, f"{RESTORED}, which is running")
    await asyncio.sleep(_GATEWAYS_NOTICE_S)
    before = f"{MOVED_ASIDE}{int(time.time())}"
    async with admin_transaction(pool) as connection:
        schema = await connection.fetchval("SELECT quote_ident(current_schema())")
        await connection.execute(f"ALTER SCHEMA {schema} RENAME TO {before}")
        await connection.execute(f"CREATE SCHEMA {schema}")
        if schema == "public":  # every new database has this grant, so a dump leaves it out
            await connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    return before, marker is not None and marker.lock_reason is not None


async def _has_marker(connection: PgConnection) -> bool:
    return await connection.fetchval("SELECT to_regclass('database_marker')") is not None


async def _put_back(before: str, pool: Pool, *, was_locked: bool) -> None:
    async with admin_transaction(pool) as connection:
        schema = await connection.fetchval("SELECT quote_ident(current_schema())")
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        await connection.execute(f"ALTER SCHEMA {before} RENAME TO {schema}")
        if not was_locked and await _has_marker(connection):
            await connection.execute("UPDATE database_marker SET locked_at = NULL, lock_reason = NULL")


async def _make_role(pool: Pool) -> None:
    """Makes the sidecars' role, which is in no backup and to which one grants rights."""
    async with admin_transaction(pool) as connection:
        if not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", SIDECAR_ROLE
        ):
            await connection.execute(f"CREATE ROLE {SIDECAR_ROLE} NOLOGIN")


async def _lock_restored(pool: Pool) -> bool:
    """Locks the database; returns False for one of a version without the marker."""
    async with admin_transaction(pool) as connection:
        if not await _has_marker(connection):
            return False
        await make_marker(connection)
        await lock_database(connection, f"{RESTORED} by `llm-proxy restore`")
    return True


@click.command("restore-check")
@click.option(
    "--revocations", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The latest file of `llm-proxy backup revocations`.",
)  # fmt: skip
@click.option(
    "--without-revocations", is_flag=True, help="No export is left: what it would restore stays lost."
)
@click.option(
    "--acknowledge", "confirmed", is_flag=True, help="Apply again what the restore undid, and admit calls."
)
@click.option(
    "--lock", is_flag=True, help="Lock a restored database that no gateway has recognized as restored."
)
@as_json_option
@yes_option
def restore_check(
    *, file: Path | None, without_revocations: bool, confirmed: bool, lock: bool, as_json: bool, yes: bool
) -> None:
    """Show what a restored database lacks; with --acknowledge apply it again, and admit calls.

    Exit code 1 while the database is locked. Reads DATABASE_URL, LIMITS_REDIS_URL, LLM_PROXY__SPOOL_DIR and
    the keys of the export from the environment, .env or .keys/.
    """
    if confirmed and file is None and not without_revocations:
        fail(
            "name the export by --revocations; without one, keys that were revoked since the backup are valid"
            " again, and --without-revocations says that this is accepted",
            EXIT_WRONG_INPUT,
        )
    export = _load(file) if file is not None else None
    document, is_locked = run_with_pool(
        partial(_check, export, lock=lock, confirmed=confirmed, yes=yes, as_json=as_json)
    )
    if as_json:
        print_json(document)
    sys.exit(EXIT_FAILED if is_locked else 0)


def _load(file: Path) -> RevocationExport:
    try:
        return load_export(file, export_keys())
    except ExportRejected as fault:
        fail(f"{file}: {fault}", EXIT_WRONG_INPUT)
    except OSError as fault:
        fail(f"{file} cannot be read: {fault.strerror}", EXIT_WRONG_INPUT)


async def _check(
    export: RevocationExport | None, pool: Pool, *, lock: bool, confirmed: bool, yes: bool, as_json: bool
) -> tuple[Json, bool]:
    folder = load_settings().spool_dir
    on_disk = read_sightings(folder)
    async with _open_store() as store:
        if export is not None:
            on_disk["the export"] = export.seen
        marker, sightings, reason = await _judge(pool, store, on_disk, lock=lock)
        if export is not None and marker.seen is not None and export.seen.lineage != marker.seen.lineage:
            fail("the export is of another database", EXIT_WRONG_INPUT)
        report = await compare(pool, marker, export)
        document = _document(report, reason) | await _outside(pool, store, marker, folder)
        if not as_json:
            _print_report(document)
        if not confirmed or reason is None:
            return document, reason is not None
        confirm("Acknowledge the restore, and admit calls?", yes=yes)
        await acknowledge(pool, current_actor(), report, export, sightings)
    warn("acknowledged: gateways admit calls within a second, and erase people again who were erased")
    return document | {"acknowledged": True}, False


@asynccontextmanager
async def _open_store() -> AsyncGenerator[StoredSightings | None]:
    """Yields the limits store; None where none is set, or it does not answer."""
    settings = load_settings()
    url = settings.limits_redis_url
    if url is None:
        yield None
        return
    async with open_backend(url.get_secret_value(), 1.0, settings.tls_for(url)) as backend:
        if not backend.is_available:
            warn("the limits store does not answer: what it knows is left out")
        yield StoredSightings(backend.cluster) if backend.is_available else None


async def _judge(
    pool: Pool, store: StoredSightings | None, on_disk: Mapping[str, Sighting], *, lock: bool
) -> tuple[Marker, list[Sighting], str | None]:
    """Returns the marker, what was seen of the database, and why it is locked, or has to be."""
    async with admin_transaction(pool) as connection:
        marker = await read_marker(connection)
        if marker is None:
            fail("the schema is of an older version: run `llm-proxy migrate` first", EXIT_FAILED)
        former = on_disk.get(marker.name) or (await store.of_name(marker.name) if store is not None else None)
        if marker.seen is None:
            was_known = former is not None and await has_keys(connection)
            await make_marker(connection, former if was_known else None)
        if lock:
            await lock_database(connection, f"{RESTORED}, as an operator says")
        marker = await read_marker(connection)
        assert marker is not None and marker.seen is not None  # noqa: S101, PT018 -- it was made
        stored = await store.of_lineage(marker.seen.lineage) if store is not None else None
        sightings = [*on_disk.values(), *([stored] if stored is not None else [])]
        sightings = [one for one in sightings if one.lineage == marker.seen.lineage]
        reason = marker.lock_reason or why_restored(marker, await read_place(connection), sightings)
        if reason is not None:
            await lock_database(connection, reason)
    return marker, sightings, reason


async def _outside(pool: Pool, store: StoredSightings | None, marker: Marker, folder: Path) -> Json:
    """What the limits store and this host's disk know that the database does not."""
    waiting = sum(1 for slot in slot_folders(folder) for one in list_segments(slot) for _ in read_lines(one))
    found: Json = {"records waiting on this host": waiting}
    if store is None or marker.seen is None:
        return found | {"limits store": "it was not read"}
    try:
        known = await store.of_lineage(marker.seen.lineage) is not None
        async with admin_transaction(pool) as connection:
            rows = await connection.fetch(
                "SELECT tenant, max(epoch) AS epoch FROM (SELECT tenant, epoch FROM tenant_epochs UNION ALL"
                " SELECT coalesce(tenant, ''), 0 FROM api_keys) AS t WHERE tenant <> '*' GROUP BY tenant"
            )
        ahead = [
            row["tenant"] or "-" for row in rows if await store.epoch(epoch_key(row["tenant"])) > row["epoch"]
        ]
    except LimiterUnavailable:
        return found | {"limits store": "it does not answer"}
    kept = "it knows the database: windows and budgets go on from it"
    lost = "it was lost: budgets are counted from the records and the export"
    return found | {
        "limits store": kept if known else lost,
        "tenants with changes after the backup": ahead[:_MAX_LISTED_TENANTS],
    }


def _document(report: RestoreReport, reason: str | None) -> Json:
    return {
        "locked": reason,
        "backup of about": report.backup_at,
        "export of": report.export_at,
        "export": "it is older than the backup, and adds nothing" if report.export_is_older else None,
        "findings": [asdict(one) for one in report.findings],
    }


def _print_report(document: Json) -> None:
    print_fields({name: value for name, value in document.items() if name != "findings"})
    rows = [
        (one["area"], one["what"], f"{one['count']:,}", ", ".join(one["names"]))
        for one in document["findings"]
    ]
    if rows:
        click.echo()
        print_table(("", "what", Column("count", number=True), "names"), rows)
    if document["locked"] is None:
        click.echo("the database is not locked")
