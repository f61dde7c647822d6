"""`llm-proxy usage`: what was used, by whom, at what cost; a table, a sparkline, CSV or JSON.

Invariants: the figures are those of `GET /v1/usage`; CSV and JSON print nothing else, what is missing is said
on standard error.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import click

from llm_proxy.cli.database import database_url, run, trusted_at
from llm_proxy.cli.printing import Column, console, print_table, warn
from llm_proxy.ledger.focus import as_focus, by_period
from llm_proxy.ledger.queries import connected
from llm_proxy.ledger.question import DIMENSIONS, WORDS, Answer, Line, Question, asked_range
from llm_proxy.ledger.report import as_csv, as_json, as_spans
from llm_proxy.ledger.zones import zone_of

_BARS = "▁▂▃▄▅▆▇█"
_MOST_ROWS = 50
_MOST_LINES = 1_000_000
_UNNAMED = "(unnamed)"
FORMS = ("table", "json", "csv", "focus")


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of numbers; one that is not for `always` is left out where the total has none."""

    title: str
    of: Callable[[Line], str]
    always: bool = True


_FIGURES = (
    Figure("requests", lambda line: f"{line.requests:,}"),
    Figure("ok %", lambda line: f"{line.success_rate * 100:.1f}"),
    Figure("avg ms", lambda line: f"{line.avg_latency_ms:.0f}" if line.avg_latency_ms is not None else "-"),
    Figure("prompt", lambda line: f"{line.prompt_tokens:,}"),
    Figure("completion", lambda line: f"{line.completion_tokens:,}"),
    Figure("cached", lambda line: f"{line.cached_tokens:,}", always=False),
    Figure("cost USD", lambda line: f"{line.cost_usd:.6f}"),
    Figure("unpriced", lambda line: f"{line.unpriced_requests:,}", always=False),
)


@click.command(context_settings={"show_default": True})
@click.option("--since", default="30d", help=f"2026-11-01, 2026-11-01T12:00Z, 24h, 7d, {', '.join(WORDS)}.")
@click.option("--until", help="The same; by default the end of today, or of the period --since names.")
@click.option("--tz", default="UTC", help="Whose days are meant: Europe/Berlin, +05:30.")
@click.option("--by", help=f"Comma-separated, of {', '.join(DIMENSIONS)}.  [default: agent,model]")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only these; repeatable.")
@click.option("--top", type=click.IntRange(1, 10_000), help="The costliest so many, of each time of --by.")
@click.option("--format", "form", type=click.Choice(FORMS), default="table", help="How it is printed.")
@click.option("--csv", "form", flag_value="csv", help="The same as --format csv.")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
def usage(
    *,
    since: str,
    until: str | None,
    tz: str,
    by: str | None,
    where: tuple[str, ...],
    top: int | None,
    form: str,
) -> None:
    """Show what was used, by whom, at what cost.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    now = datetime.now(UTC)
    answer, days, question = run(_ask(database_url(), (since, until, tz, by, where, top), form, now))
    if form == "csv":
        click.echo(as_csv(answer.lines, question.by), nl=False)
    elif form == "focus":
        click.echo(as_focus(answer.lines, question), nl=False)
    elif form == "json":
        click.echo(json.dumps([as_json(line) for line in answer.lines], indent=2))
    else:
        _show(answer, question, tz, days)
    _warn(answer)


Asked = tuple[str, str | None, str, str | None, tuple[str, ...], int | None]


async def _ask(url: str, asked: Asked, form: str, now: datetime) -> tuple[Answer, Sequence[Line], Question]:
    since, until, tz, by, where, top = asked
    zone = zone_of(tz)
    begin, end = asked_range(since, until, now, zone)
    default = "" if form == "focus" else "agent,model"
    names = tuple(name for name in (default if by is None else by).split(",") if name)
    question = Question(begin, end, names, _filters(where), zone, top, most=_MOST_LINES)
    if form == "focus":
        question = replace(question, by=by_period(question))
    async with connected(url, trusted_at(url)) as usage:
        answer = await usage.ask(question, now)
        if form != "table":
            return answer, (), question
        days = await usage.ask(replace(question, by=("day",), top=None), now)
    return answer, days.lines, question


def _filters(where: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in where]
    wrong = [name for name, sign, _ in pairs if not sign or name not in DIMENSIONS]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r}: write NAME=VALUE with a name of {', '.join(DIMENSIONS)}")
    found = {name: value for name, _, value in pairs}
    if len(found) < len(pairs):
        raise click.BadParameter("--where names something twice; a call has one value of each")
    return found


def _show(answer: Answer, question: Question, tz: str, days: Sequence[Line]) -> None:
    out = console()
    begin, end = (one.astimezone(question.zone).strftime("%Y-%m-%d %H:%M") for one in _ends(question))
    out.print(f"{begin} to {end} {tz}")
    figures = [one for one in _FIGURES if one.always or one.of(answer.total).strip("0")]
    columns = [*map(Column, question.by), *(Column(one.title, number=True) for one in figures)]
    rows = [
        (*(_text(name, line) for name in question.by), *(one.of(line) for one in figures))
        for line in answer.lines[:_MOST_ROWS]
    ]
    total = tuple(one.of(answer.total) for one in figures)
    rows = [*rows, ("total", *("" for _ in question.by[1:]), *total)] if question.by else [total]
    print_table(columns, rows)
    if len(answer.lines) > _MOST_ROWS:
        out.print(f"... and {len(answer.lines) - _MOST_ROWS} more; --csv prints them all")
    if "tag" in question.by:
        out.print("A call with several tags is in a line for each; the total counts it once.")
    if len(days) > 1:
        out.print(f"requests a day: {sparkline([line.requests for line in days])}")
        out.print(f"cost a day:     {sparkline([float(line.cost_usd) for line in days])}")


def _ends(question: Question) -> tuple[datetime, datetime]:
    return question.spans() or (question.since, question.until)


def _warn(answer: Answer) -> None:
    """What is missing, on standard error."""
    why = "only sums of whole days (UTC) are kept of it"
    for spans, where in ((answer.untold, "lines"), (answer.total_untold, "total")):
        for span in as_spans(spans):
            warn(f"not in the {where}: {span['since']} to {span['until']}; {why}")
    if answer.has_more:
        warn(f"only the first {len(answer.lines):,} lines; ask for a shorter range")


def sparkline(values: Sequence[float]) -> str:
    """A bar of eight heights for each value; the highest is the largest."""
    top = max(values, default=0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(7, int(value / top * 7.999))] for value in values)


def _text(name: str, line: Line) -> str:
    """What a line is called; one called like the unnamed stands in quotes."""
    value: Any = line.group[name]
    if name == "key":
        value = line.group["key_name"] or value
    if value is None:
        return _UNNAMED
    if isinstance(value, datetime):
        return value.isoformat(" ", "minutes")
    return f'"{value}"' if value == _UNNAMED else str(value)
