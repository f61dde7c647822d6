"""`llm-proxy backup`: backs the database up, exports revocations, lists backups with those of other tools.

Invariants: a backup counts only where it succeeded; a file is there as a whole or not at all, for its owner
alone; an export holds no secret (see `identity/revocation_export.py`).
"""

import os
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import click

from llm_proxy.cli.context import load_settings
from llm_proxy.cli.database import database_url, run_with_pool
from llm_proxy.cli.postgres_tools import SERVICE, open_tools, tools_option
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_WRONG_INPUT,
    Column,
    CommandGroup,
    as_json_option,
    fail,
    print_fields,
    print_result,
    print_table,
)
from llm_proxy.identity.postgres_store import Pool, database_errors
from llm_proxy.identity.revocation_export import mac_keys, read_export, seal_export, write_whole
from llm_proxy.json_access import Json
from llm_proxy.schema.backups import Backup, Backups
from llm_proxy.sealing import SealingKey, parse_sealing_keys

MOVED_ASIDE = "before_restore_"
"""The beginning of the names of schemas that a restore moved aside."""
_STANDARD_OUTPUT = Path("-")
_CLOCKS_DIFFER = timedelta(minutes=5)
_MAX_NAME_CHARS, _MAX_NOTE_CHARS = 64, 500


def _parse_time(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a time in ISO 8601, such as 2026-11-20T02:00:00Z."
        ) from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    if at > datetime.now(UTC) + _CLOCKS_DIFFER:
        raise click.BadParameter(f"{text!r} is in the future.")
    return at


@click.group(cls=CommandGroup, invoke_without_command=True)
@click.option("--to", "file", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@tools_option
@as_json_option
@click.pass_context
def backup(ctx: click.Context, *, file: Path | None, tools: Path | None, as_json: bool) -> None:
    """Back the database up into a file with pg_dump, as a custom archive that `llm-proxy restore` reads.

    Keep the exports of `backup revocations` apart from it. Reads DATABASE_URL.
    """
    if ctx.invoked_subcommand is not None:
        return
    if file is None:
        fail("--to names the file to write; see `llm-proxy backup --help`", EXIT_WRONG_INPUT)
    if not file.absolute().parent.is_dir():
        fail(f"{file.absolute().parent} is not a folder", EXIT_WRONG_INPUT)
    number = run_with_pool(lambda pool: Backups(pool).begin("pg_dump"))
    try:
        size_bytes = _dump(file, tools)
    except BaseException as fault:
        note = fault.message[:_MAX_NOTE_CHARS] if isinstance(fault, click.ClickException) else "interrupted"
        run_with_pool(partial(_finish, number, None, note))
        raise
    run_with_pool(partial(_finish, number, size_bytes, None))
    document = {"file": str(file), "bytes": size_bytes}
    print_result(document, print_fields, as_json=as_json)


async def _finish(number: int, size_bytes: int | None, note: str | None, pool: Pool) -> None:
    await Backups(pool).finish(number, size_bytes, ok=note is None, note=note)


def _dump(file: Path, tools: Path | None) -> int:
    url, major = database_url(), run_with_pool(server_major)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.touch(mode=0o600)
        with open_tools(url, major, tools) as programs:
            what = ("--format=custom", f"--exclude-schema={MOVED_ASIDE}*")
            programs.run("pg_dump", *what, "--no-password", f"--file={part}", f"--dbname=service={SERVICE}")
        size_bytes = part.stat().st_size
        part.replace(file)
    except OSError as fault:
        fail(f"{file} cannot be written: {fault.strerror}", EXIT_FAILED)
    finally:
        part.unlink(missing_ok=True)
    return size_bytes


async def server_major(pool: Pool) -> int:
    """Returns the server's major version."""
    number: int = await pool.fetchval("SELECT current_setting('server_version_num')::int")
    return number // 10_000


def export_keys() -> tuple[SealingKey, ...]:
    """Returns the keys by which exports of revocations are known; ends the command without any."""
    settings = load_settings()
    sealing = settings.sealing_keys
    keys = mac_keys(
        parse_sealing_keys(sealing.get_secret_value()) if sealing is not None else (), settings.admin_keys
    )
    if not keys:
        fail(
            "an export needs LLM_PROXY__SEALING_KEYS or LLM_PROXY__ADMIN_KEY, of which its seal is made",
            EXIT_WRONG_INPUT,
        )
    return keys


@backup.command("revocations")
@click.option(
    "--to",
    "file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to replace; `-` for standard output.",
)
@as_json_option
def export_revocations(*, file: Path, as_json: bool) -> None:
    """Export what a restored backup would lack: revocations, changed limits, erasures, what was spent.

    Run it every minute and keep the file apart from the backups; `restore-check` reads it. It holds digests,
    no secret and no person's name, and a seal by LLM_PROXY__SEALING_KEYS, or by LLM_PROXY__ADMIN_KEY.
    """
    keys = export_keys()

    async def read(pool: Pool) -> str:
        async with database_errors(), pool.acquire() as connection:
            return await read_export(connection)

    content = seal_export(run_with_pool(read), keys)
    if file == _STANDARD_OUTPUT:
        click.echo(content, nl=False)
        return
    try:
        write_whole(file, content)
    except OSError as fault:
        fail(f"{file} cannot be written: {fault.strerror}", EXIT_FAILED)
    print_result({"file": str(file), "bytes": len(content)}, print_fields, as_json=as_json)


@backup.command("record")
@click.option("--tool", default="snapshot", show_default=True, help="What made it: pgbackrest, wal-g, …")
@click.option(
    "--at", callback=_parse_time, help="When it ended, in ISO 8601, UTC by default  [default: now]."
)
@click.option("--bytes", "size_bytes", type=click.IntRange(0), help="Its size.")
@click.option("--failed", is_flag=True, help="It did not succeed.")
@click.option("--note", help="A comment.")
@as_json_option
def record_backup(
    *, tool: str, at: datetime | None, size_bytes: int | None, failed: bool, note: str | None, as_json: bool
) -> None:
    """Record a backup that another tool has made: snapshots, pgBackRest, WAL-G, the provider's own.

    Run it when that tool has succeeded; `doctor` and the alerts report the age of the last one.
    """
    tool = tool.strip()
    if not 0 < len(tool) <= _MAX_NAME_CHARS:
        fail(f"--tool is a name of 1 to {_MAX_NAME_CHARS} characters", EXIT_WRONG_INPUT)
    made = run_with_pool(
        lambda pool: Backups(pool).record(tool, at=at, size_bytes=size_bytes, ok=not failed, note=note)
    )
    print_result(_backup_document(made), print_fields, as_json=as_json)


@backup.command("list")
@click.option("--last", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@as_json_option
def list_backups(*, last: int, as_json: bool) -> None:
    """List the latest backups."""
    found = run_with_pool(lambda pool: Backups(pool).latest(last))
    print_result([_backup_document(one) for one in found], _print_backups, as_json=as_json)


def _backup_document(one: Backup) -> Json:
    return asdict(one) | {
        "started_at": one.started_at.isoformat(),
        "finished_at": _time_text(one.finished_at),
    }


def _time_text(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None


def _print_backups(found: list[Json]) -> None:
    rows = [
        (
            one["finished_at"] or one["started_at"],
            one["kind"],
            "ok" if one["ok"] else "failed" if one["finished_at"] else "unfinished",
            "-" if one["size_bytes"] is None else f"{one['size_bytes']:,}",
            one["note"] or "",
        )
        for one in found
    ]
    print_table((Column("at", unbroken=True), "tool", "result", Column("bytes", number=True), "note"), rows)
