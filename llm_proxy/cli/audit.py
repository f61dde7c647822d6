"""`llm-proxy audit`: what admins did, newest first; `audit verify`: whether the log is whole.

Invariants: read only. `verify` exits 1 when it found a fault.
"""

import sys
from datetime import UTC, datetime
from typing import Any

import click

from llm_proxy.cli.budgets import words
from llm_proxy.cli.completion import complete_keys
from llm_proxy.cli.database import with_pool
from llm_proxy.cli.printing import (
    FAILED,
    Column,
    as_json_option,
    plain,
    print_fields,
    print_json,
    print_table,
)
from llm_proxy.identity import AuditFilter, AuditLog
from llm_proxy.identity.audit_verify import Report, verify
from llm_proxy.identity.opened import Pool
from llm_proxy.json_access import Json
from llm_proxy.ledger.question import moment

_COLUMNS = (
    Column("id", number=True),
    Column("at (UTC)", whole=True),
    "who",
    Column("action", whole=True),
    "what",
    "changed",
)


@click.group(invoke_without_command=True, context_settings={"show_default": True})
@click.option("--action", help="`keys.change`, or `keys.*` for all that begin so.")
@click.option("--actor", help="An admin key's name, a user of this machine, or such as `keys file`.")
@click.option(
    "--subject",
    shell_complete=complete_keys,
    help="A key's id, name or prefix; a tenant, agent, user or model.",
)
@click.option("--since", help="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")
@click.option("--until", help="The same.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, help="At most so many, the latest.")
@click.option("--before", type=click.IntRange(0, 2**53), help="Only entries before this id: the next page.")
@as_json_option
@click.pass_context
def audit(
    context: click.Context, /, *, limit: int, before: int | None, as_json: bool, **said: str | None
) -> None:
    """Show what admins did and were refused.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    if context.invoked_subcommand is not None:
        return
    rows = with_pool(lambda pool: _page(pool, said, limit, before))
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, [_row(row) for row in rows])


@audit.command("verify")
@click.option(
    "--head", metavar="DIGEST", help="A head that was printed before and kept elsewhere: it must be there."
)
@as_json_option
def verify_log(*, head: str | None, as_json: bool) -> None:
    """Prove that no entry was changed, reordered, added or removed.

    Prints the head's digest. Keep it elsewhere: with --head, a later run finds also a log that was written
    anew as a whole, or that lost its end.
    """
    report = with_pool(lambda pool: verify(pool, head))
    if as_json:
        print_json({name: getattr(report, name) for name in Report.__slots__} | {"ok": not report.faults})
    else:
        for fault in report.faults:
            click.echo(f"fault  {fault}")
        print_fields(
            {
                "entries": report.entries,
                "last entry": report.last,
                "head": report.head or "none: the log is empty",
                "months dropped by retention": ", ".join(report.retired) or None,
                "names erased": report.nameless or None,
                "rows from before the chain, which nothing protects": report.unchained or None,
                "verdict": "changed" if report.faults else "whole",
            }
        )
    sys.exit(FAILED if report.faults else 0)


async def _page(pool: Pool, said: dict[str, str | None], limit: int, before: int | None) -> list[Json]:
    now = datetime.now(UTC)
    since, until = (moment(text, now) if (text := said.pop(name)) else None for name in ("since", "until"))
    wanted = AuditFilter(**said, since=since, until=until)
    return await AuditLog(pool).page(wanted, limit=limit, before=before)


def _row(row: Json) -> tuple[str, ...]:
    who = f"{row['actor']} ({row['role']})" if row["role"] else row["actor"]
    at = row["at"].astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    name = row["detail"].get("name")
    what = f"{name} ({row['target']})" if name else row["target"]
    return str(row["id"]), at, f"{who}\n{row['client_ip'] or ''}".strip(), row["action"], what, _changes(row)


def _changes(row: Json) -> str:
    shown = [f"{name}: {value}" for name, value in row["detail"].items() if name not in {"name", "param"}]
    if row["status"] is not None:
        return "\n".join([f"refused, {row['status']}: {row['reason']}", *shown])
    before: Json = row["before"] or {}
    after: Json = row["after"] or {}
    lines: list[str] = []
    for name in {**before, **after}:
        old, new = (_shown(side.get(name)) for side in (before, after))
        if old != new and row["before"] is not None:
            lines.append(f"{name}: {old} -> {new}")
        elif row["before"] is None and new not in (None, ""):
            lines.append(f"{name}: {new}")
    return "\n".join([*lines, *shown])


def _shown(value: Any) -> object:  # noqa: ANN401 -- JSON
    """A field's value in a line; budgets as people write them."""
    if not isinstance(value, list):
        return plain(value)
    entries: list[Any] = value  # pyright: ignore[reportUnknownVariableType] -- JSON
    return ", ".join(map(_budget, entries))


def _budget(entry: Any) -> str:  # noqa: ANN401 -- JSON
    if not isinstance(entry, dict) or "period" not in entry:
        return f"{entry}"
    document: dict[str, Any] = entry  # pyright: ignore[reportUnknownVariableType] -- JSON
    return words(document)
