"""`llm-proxy backup`: the list of backups, with those of the operator's own tools.

Invariants: a backup counts only where it succeeded; nothing here reads a row of the gateway's own tables.
"""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import click

from llm_proxy.cli.database import run_with_pool
from llm_proxy.cli.printing import (
    EXIT_WRONG_INPUT,
    Column,
    as_json_option,
    fail,
    print_fields,
    print_result,
    print_table,
)
from llm_proxy.json_access import Json
from llm_proxy.schema.backups import Backup, Backups

_CLOCKS_DIFFER = timedelta(minutes=5)
_MAX_NAME_CHARS = 64


def _parse_time(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time in ISO 8601, such as 2026-11-20T02:00:00Z.") from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    if at > datetime.now(UTC) + _CLOCKS_DIFFER:
        raise click.BadParameter(f"{text!r} is in the future.")
    return at


@click.group
def backup() -> None:
    """List backups of the database, and note those of other tools."""


@backup.command("record")
@click.option("--tool", default="snapshot", show_default=True, help="What made it: pgbackrest, wal-g, …")
@click.option(
    "--at", callback=_parse_time, help="When it ended, in ISO 8601, UTC by default  [default: now]."
)
@click.option("--bytes", "size_bytes", type=click.IntRange(0), help="Its size.")
@click.option("--failed", is_flag=True, help="It did not succeed.")
@click.option("--note", help="A few words for people.")
@as_json_option
def record_backup(
    *, tool: str, at: datetime | None, size_bytes: int | None, failed: bool, note: str | None, as_json: bool
) -> None:
    """Note a backup that another tool has made: snapshots, pgBackRest, WAL-G, the provider's own.

    Run it when that tool has succeeded; `doctor` and the alerts tell the age of the last one.
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
