"""`llm-proxy usage`: what was used, by whom, at what cost; a table, a sparkline, CSV or JSON.

Invariants: the figures are those of `GET /v1/usage`; CSV and JSON print nothing else.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.table import Table

from llm_proxy.cli.database import database_url, run, trusted_at
from llm_proxy.cli.printing import console
from llm_proxy.ledger.queries import Line, connected
from llm_proxy.ledger.question import DIMENSIONS, Question, midnight, moment
from llm_proxy.ledger.report import as_csv, as_json

_BARS = "▁▂▃▄▅▆▇█"
_MOST_ROWS = 50


@click.command(context_settings={"show_default": True})
@click.option("--since", default="30d", help="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")
@click.option("--until", help="The same; the end of today by default.")
@click.option("--by", default="agent,model", help=f"Comma-separated, of {', '.join(DIMENSIONS)}.")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only these; repeatable.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV.")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
def command(*, since: str, until: str | None, by: str, where: tuple[str, ...], form: str | None) -> None:
    """Show what was used, by whom, at what cost.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    now = datetime.now(UTC)
    lines, days = run(_ask(database_url(), (since, until, by, where), now))
    names = tuple(name for name in by.split(",") if name)
    if form == "csv":
        click.echo(as_csv(lines, names), nl=False)
    elif form == "json":
        click.echo(json.dumps([as_json(line) for line in lines], indent=2))
    else:
        _show(lines, names, days)


async def _ask(
    url: str, asked: tuple[str, str | None, str, tuple[str, ...]], now: datetime
) -> tuple[list[Line], list[Line]]:
    since, until, by, where = asked
    begin = moment(since, now)
    end = moment(until, now) if until else midnight(now) + timedelta(days=1)
    filters = _filters(where)
    question = Question(begin, end, tuple(name for name in by.split(",") if name), filters)
    async with connected(url, trusted_at(url)) as usage:
        lines = await usage.ask(question, now)
        days = await usage.ask(Question(midnight(begin), midnight(end), ("day",), filters), now)
    return lines, days


def _filters(where: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in where]
    wrong = [name for name, sign, _ in pairs if not sign or name not in DIMENSIONS]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r}: write NAME=VALUE with a name of {', '.join(DIMENSIONS)}")
    return {name: value for name, _, value in pairs}


def _show(lines: Sequence[Line], by: Sequence[str], days: Sequence[Line]) -> None:
    out = console()
    table = Table(show_edge=False)
    for name in by:
        table.add_column(name)
    for name in ("requests", "ok %", "avg ms", "prompt", "completion", "cached", "cost USD", "unpriced"):
        table.add_column(name, justify="right")
    for line in lines[:_MOST_ROWS]:
        table.add_row(*(_text(line.group[name]) for name in by), *_figures(line))
    out.print(table)
    if len(lines) > _MOST_ROWS:
        out.print(f"... and {len(lines) - _MOST_ROWS} more; --csv prints them all")
    if len(days) > 1:
        out.print(f"requests a day: {sparkline([line.requests for line in days])}")
        out.print(f"cost a day:     {sparkline([float(line.cost_usd) for line in days])}")


def _figures(line: Line) -> tuple[str, ...]:
    return (
        f"{line.requests:,}",
        f"{line.success_rate * 100:.1f}",
        f"{line.avg_latency_ms:.0f}" if line.avg_latency_ms is not None else "-",
        f"{line.prompt_tokens:,}",
        f"{line.completion_tokens:,}",
        f"{line.cached_tokens:,}",
        f"{line.cost_usd:.6f}",
        f"{line.unpriced_requests:,}" if line.unpriced_requests else "",
    )


def sparkline(values: Sequence[float]) -> str:
    """A bar of eight heights for each value; the highest is the largest."""
    top = max(values, default=0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(7, int(value / top * 7.999))] for value in values)


def _text(value: Any) -> str:  # noqa: ANN401 -- a dimension's value
    return "-" if value is None else value.isoformat(" ") if hasattr(value, "hour") else str(value)
