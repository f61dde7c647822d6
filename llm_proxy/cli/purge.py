"""`llm-proxy purge`: what is past its retention, shown and deleted.

Invariants: the gateway deletes the same by itself; a dry run deletes nothing; `purge` asks before it deletes.
"""

from dataclasses import asdict

import click

from llm_proxy.cli.context import load_settings
from llm_proxy.cli.database import current_actor, run_with_pool
from llm_proxy.cli.printing import (
    EXIT_WRONG_INPUT,
    Column,
    as_json_option,
    confirm,
    fail,
    print_json,
    print_table,
    yes_option,
)
from llm_proxy.ledger.retention import RETENTION, DueRows, days_kept, find_due
from llm_proxy.ledger.retention import purge as purge_rows


@click.command
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option("--table", "tables", multiple=True, help="Only this table; repeatable.")
@as_json_option
@yes_option
def purge(*, dry_run: bool, tables: tuple[str, ...], as_json: bool, yes: bool) -> None:
    """Delete what is past its retention now: rows in batches, and whole partitions, beside the calls.

    The gateway does the same by itself, except for the audit log of before the chain. The times are those of
    the settings (docs/retention.md), which are read from the environment, .env or .keys/, as DATABASE_URL is.
    """
    kept = days_kept(load_settings())
    for name in tables:
        if name not in {one.name for one in RETENTION}:
            fail(f"there is no table {name!r}", EXIT_WRONG_INPUT)
        if name not in kept:
            fail(f"no time is set for the table {name!r}: its rows are kept", EXIT_WRONG_INPUT)
    kept = {name: days for name, days in kept.items() if not tables or name in tables}
    due = run_with_pool(lambda pool: find_due(pool, kept))
    if not as_json:
        _print_due(due)
    if dry_run or not due:
        if as_json:
            print_json({"due": [asdict(one) for one in due], "deleted": {}})
        return
    confirm(f"Delete {sum(one.rows for one in due):,} rows for good?", yes=yes)
    deleted = run_with_pool(lambda pool: purge_rows(pool, current_actor(), kept, due))
    if as_json:
        print_json({"due": [asdict(one) for one in due], "deleted": deleted})
    else:
        click.echo(f"deleted {sum(deleted.values()):,} rows")


def _print_due(due: list[DueRows]) -> None:
    if not due:
        click.echo("nothing is past its retention")
        return
    rows = [
        (
            one.table,
            f"{one.days:,}",
            f"{one.rows:,}",
            f"{one.size_bytes:,}",
            f"{one.oldest:%Y-%m-%d %H:%M}" if one.oldest else "",
        )
        for one in due
    ]
    numbers = (Column(title, number=True) for title in ("days kept", "rows", "bytes"))
    print_table((Column("table", unbroken=True), *numbers, Column("oldest", unbroken=True)), rows)
