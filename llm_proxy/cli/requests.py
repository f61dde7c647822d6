"""`llm-proxy requests`: the latest requests, or one request's story.

Invariants: no prompt and no answer is shown, they are not in the records; `--json` prints nothing else.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from llm_proxy.cli.completion import complete_keys, complete_models
from llm_proxy.cli.database import database_url, run, trusted_at
from llm_proxy.cli.printing import (
    FAILED,
    Column,
    as_json_option,
    fail,
    plain,
    print_fields,
    print_json,
    print_table,
)
from llm_proxy.ledger.queries import Recent, connected
from llm_proxy.ledger.question import WORDS, asked_range
from llm_proxy.ledger.refusal import SAMPLE_PER_S
from llm_proxy.ledger.refusals_kept import MOST_COUNTS, Whose, not_kept, summed
from llm_proxy.ledger.story import limit_line, lines_of
from llm_proxy.ledger.zones import zone_of

_COLUMNS: tuple[Column | str, ...] = (
    Column("started", whole=True),
    Column("request id", whole=True),
    *("agent", "model", "provider"),
    Column("status", number=True),
    "outcome",
    *(Column(title, number=True) for title in ("tokens", "cost USD", "ms")),
)


@click.command(context_settings={"show_default": True})
@click.argument("request_id", type=click.UUID, required=False)
@click.option("--since", default="24h", help=f"2026-11-01, 2026-11-01T12:00Z, 24h, 7d, {', '.join(WORDS)}.")
@click.option("--until", help="The same; by default the end of today, or of the period --since names.")
@click.option("--tz", default="UTC", help="Whose days are meant: Europe/Berlin, +05:30.")
@click.option("--agent", help="Only this agent's.")
@click.option("--key", help="Only this key's, by its name, prefix or id.", shell_complete=complete_keys)
@click.option("--model", help="Only this model group's.", shell_complete=complete_models)
@click.option("--provider", help="Only this provider's.")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--user", help="Only this end user's.")
@click.option("--session", help="Only this session's.")
@click.option("--run", help="Only this run's.")
@click.option("--tag", help="Only those with this tag.")
@click.option(
    "--outcome",
    type=click.Choice(["ok", "error", "client_gone", "cut", "lost", "refused"]),
    help="Only these. `refused`: never admitted, a sample, and the exact counts beside it.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, help="At most so many, the latest.")
@as_json_option
def requests(
    *,
    request_id: UUID | None,
    since: str,
    until: str | None,
    tz: str,
    limit: int,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Show single requests.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    url = database_url()
    if request_id is not None:
        story = run(_story(url, request_id))
        if isinstance(story, str):
            fail(story, FAILED)
        _print_story(story, as_json=as_json)
        return
    where = {name: value for name, value in filters.items() if value is not None}
    if where.get("outcome") == "refused":
        refused, counts = run(_refused(url, (since, until, tz), where, limit))
        if as_json:
            print_json({"requests": refused, "refusal_counts": counts})
        else:
            _print_refused(refused, counts, limit)
        return
    rows = run(_recent(url, (since, until, tz), where, limit))
    if as_json:
        print_json(rows)
    else:
        _print_rows(rows)


async def _story(url: str, request_id: UUID) -> dict[str, Any] | str:
    """One request, or what is known of it where it is not on record."""
    async with connected(url, trusted_at(url)) as usage:
        found = await usage.story(request_id)
        if found is not None:
            return found
        counted = await usage.refused_beside(request_id, Whose())
        if counted:
            return not_kept(request_id, counted)
        return "no request has this id; a new record may take a second"


async def _recent(
    url: str, asked: tuple[str, str | None, str], where: dict[str, str], limit: int
) -> list[dict[str, Any]]:
    async with connected(url, trusted_at(url)) as usage:
        return await usage.recent(_wanted(asked, where, limit))


async def _refused(
    url: str, asked: tuple[str, str | None, str], where: dict[str, str], limit: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    async with connected(url, trusted_at(url)) as usage:
        return await usage.refused(_wanted(asked, where, limit))


def _wanted(asked: tuple[str, str | None, str], where: dict[str, str], limit: int) -> Recent:
    since, until, tz = asked
    begin, end = asked_range(since, until, datetime.now(UTC), zone_of(tz))
    return Recent(begin, end, where, limit)


def _print_refused(rows: list[dict[str, Any]], counts: list[dict[str, Any]], limit: int) -> None:
    """The sample, then how many there were: all together, and the newest lines."""
    columns = (Column("refused", whole=True), Column("request id", whole=True), "agent", "model", "why")
    print_table(
        columns,
        (
            (
                row["refused_at"].strftime("%m-%d %H:%M:%S"), str(row["request_id"]), row["agent"] or "-",
                row["model_group"] or "-",
                limit_line(row["reached"]) if row["reached"] else row["code"] or str(row["status"]),
            )
            for row in rows
        ),
    )  # fmt: skip
    of = f" in the newest {MOST_COUNTS:,} lines" if len(counts) == MOST_COUNTS else ""
    click.echo(
        f"\nA sample: {SAMPLE_PER_S} a second of each worker. All that were refused{of}: {summed(counts)}\n"
    )
    print_table(
        (Column("minute", whole=True), "key", "tenant", "limit", "code", Column("times", number=True)),
        (
            (
                row["minute"].strftime("%m-%d %H:%M"), row["key_name"] or row["key_id"] or "-",
                row["tenant"] or "-", f"{row['limit_scope']}:{row['limit_kind']}".strip(":") or "-",
                row["code"], f"{row['times']:,}",
            )
            for row in counts[:limit]
        ),
    )  # fmt: skip


def _print_rows(rows: list[dict[str, Any]]) -> None:
    lines: list[tuple[str, ...]] = []
    for row in rows:
        known = row["prompt_tokens"] is not None
        tokens = str(row["prompt_tokens"] + (row["completion_tokens"] or 0)) if known else "?"
        cost = f"{row['cost_usd']:.6f}" if row["cost_usd"] is not None else "?"
        lines.append((
            row["started_at"].strftime("%m-%d %H:%M:%S"), str(row["request_id"]), row["agent"] or "-",
            row["model_group"], row["provider"] or "-", str(row["status"] or "-"), row["outcome"], tokens,
            cost, f"{row['latency_ms']:.0f}",
        ))  # fmt: skip
    print_table(_COLUMNS, lines)


def _print_story(story: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({**story, "story": lines_of(story)})
        return
    for line in lines_of(story):
        click.echo(line)
    click.echo()
    calls = story.pop("model_calls", [])
    print_fields(story)
    for number, call in enumerate(calls, 1):
        told = ", ".join(f"{name}={plain(value)}" for name, value in call.items() if value is not None)
        click.echo(f"model call {number}: {told}")
