"""How every command prints (tables, fields, JSON), warns, asks and fails.

Invariants: results go to standard output, everything else to standard error as `llm-proxy: one line`. Exit
codes: `EXIT_FAILED` 1, `EXIT_WRONG_INPUT` 2, `EXIT_UNAVAILABLE` 3 (docs/cli.md). No number and no id is
truncated or broken: a table that does not fit the terminal is printed as one block of lines a row.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast
from uuid import UUID

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from llm_proxy.stack.environments import Installed

EXIT_FAILED = 1
"""Not done, or the answer is no: not found, not allowed, a check found faults."""
EXIT_WRONG_INPUT = 2
"""Wrong input: an option, a value, a file or a setting. Nothing was done."""
EXIT_UNAVAILABLE = 3
"""The database, the limits store or the gateway does not answer. The same command can succeed later."""
PIPED_WIDTH = 200
_GAP = 2
Document = TypeVar("Document")
_MIN_TEXT_WIDTH = 8
_WHOLE_SENTENCE = 1000
_LINE_EVERY_S = 10.0

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Skip the question.")


class CommandFailed(click.ClickException):
    """Ends the command with one line and an exit code."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: Broken between words if necessary.
        number: Whether cells are numbers: aligned right, never broken.
        unbroken: Whether cells are never broken: ids, times.
    """

    title: str
    number: bool = False
    unbroken: bool = False


class CommandGroup(click.Group):
    """A group whose help shows the first sentence of each command whole."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a line or more for each command."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, one.get_short_help_str(_WHOLE_SENTENCE)) for name, one in found if one is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    """Ends the command with this line and exit code."""
    raise CommandFailed(message, code)


def exit_with_lines(lines: Iterable[str], code: int) -> NoReturn:
    """Ends the command with these lines, each of which may hold line breaks, and this exit code."""
    for line in lines:
        click.echo(f"llm-proxy: {line}", err=True)
    sys.exit(code)


def warn(message: str) -> None:
    """Prints one line on standard error; the command continues."""
    click.echo(f"llm-proxy: {' '.join(message.split())}", err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Asks before what cannot be undone; ends the command unless the answer is yes.

    Args:
        question: Such as `Revoke the key n?`.
        yes: The value of `--yes`, which skips the question; required without a terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} There is no terminal to answer on: repeat the command with --yes", EXIT_WRONG_INPUT)
    if not click.confirm(f"llm-proxy: {question}", err=True):
        fail("nothing was done")


@contextmanager
def installation_progress(
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Callable[["Installed"], None]]:
    """Yields a function that shows how far an installation is: a bar on a terminal, else a line at times."""
    if not sys.stderr.isatty():
        yield _InstallationLines(clock).report
        return
    from rich.console import Console  # noqa: PLC0415 -- 2 MB, and `serve` prints no table
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    shown: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("packages, {task.fields[megabytes]} MB written"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def report(found: "Installed") -> None:
            if found.name not in shown:
                title = f"the {found.name}'s environment, once"
                shown[found.name] = progress.add_task(title, total=found.total, megabytes=0)
            task = shown[found.name]
            megabytes = max(progress.tasks[task].fields["megabytes"], found.written_bytes // 10**6)
            progress.update(task, completed=found.packages, megabytes=megabytes)

        yield report


class _InstallationLines:
    """Prints how far an installation is, at its beginning and every `_LINE_EVERY_S`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._name, self._began_s, self._printed_s = "", 0.0, 0.0

    def report(self, found: "Installed") -> None:
        """Prints a line if it is time."""
        now_s = self._clock()
        if found.name != self._name:
            self._name, self._began_s, self._printed_s = found.name, now_s, now_s
            text = f"installing the {found.name}'s environment, once: {found.total} packages"
        elif now_s - self._printed_s >= _LINE_EVERY_S:
            self._printed_s = now_s
            text = (
                f"  {found.packages} of {found.total} packages, {found.written_bytes // 10**6} MB written,"
                f" {now_s - self._began_s:.0f} s"
            )
        else:
            return
        click.echo(text, err=True)


def console() -> "Console":
    """Returns the console for tables: as wide as the terminal or `COLUMNS`, else `PIPED_WIDTH`."""
    from rich.console import Console  # noqa: PLC0415 -- 2 MB, and `serve` prints no table

    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(width=None if known else PIPED_WIDTH, highlight=False)


def print_json(document: object) -> None:
    """Prints one JSON document; money as text, times in ISO 8601."""
    click.echo(json.dumps(document, indent=2, default=to_plain, ensure_ascii=False))


def print_result(document: Document, show: Callable[[Document], None], *, as_json: bool) -> None:
    """Prints a document as JSON if `as_json`, else with `show`."""
    if as_json:
        print_json(document)
    else:
        show(document)


def print_fields(document: Mapping[str, Any]) -> None:
    """Prints one line a field; fields that are None or `[]` are left out."""
    shown = {name: value for name, value in document.items() if value is not None and value != []}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {to_text(value)}")


def print_secret_once(document: Mapping[str, Any]) -> None:
    """Prints a document's fields and, if it holds a new `key`, warns that this is the only time."""
    print_fields(document)
    if "key" in document:
        warn("this is the only time the key is shown")


def print_table(columns: Sequence[Column | str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table, or one block of lines a row if the terminal is too narrow for numbers and ids."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 -- as in `console`
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    known = [one if isinstance(one, Column) else Column(one) for one in columns]
    cells = [list(row) for row in rows]
    out = console()
    widths = _column_widths(known, cells, out.width)
    if widths is None:
        for number, row in enumerate(cells):
            if number:
                click.echo()
            print_fields(dict(zip((one.title for one in known), row, strict=True)))
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for column, width in zip(known, widths, strict=True):
        title = Text(column.title)
        table.add_column(title, justify="right" if column.number else "left", overflow="fold", width=width)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def to_plain(value: object) -> object:
    """Returns a value for JSON and for text: decimals, times and UUIDs as text."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, date) else str(value) if isinstance(value, UUID) else value


def to_text(value: object) -> str:
    """Returns a field's value for people: `yes`, `1,061.2`, `a, b`, `name value, name value`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, dict):
        known = cast("dict[str, object]", value)
        return ", ".join(f"{name} {to_text(one)}" for name, one in known.items() if one is not None)
    if isinstance(value, list):
        return ", ".join(map(to_text, cast("list[object]", value)))
    return str(to_plain(value))


def time_text(value: datetime | str) -> str:
    """Returns a time, or its text in ISO 8601, to the second in UTC: `2026-11-27 20:37:46 UTC`."""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _column_widths(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], max_width: int
) -> list[int] | None:
    """Returns the columns' widths; None if they exceed `max_width` unless a number or an id is broken."""
    natural: list[int] = []
    minimal: list[int] = []
    for index, column in enumerate(columns):
        content = max((_cell_width(row[index]) for row in rows), default=0)
        title = max(_cell_width(word) for word in column.title.split() or [""])
        natural.append(max(content, title))
        kept = content if column.number or column.unbroken else min(content, _MIN_TEXT_WIDTH)
        minimal.append(max(kept, title))
    max_width -= _GAP * (len(columns) - 1)
    if sum(minimal) > max_width:
        return None
    while sum(natural) > max_width:
        spare = [have - need for have, need in zip(natural, minimal, strict=True)]
        widest = max(range(len(natural)), key=lambda index: (spare[index] > 0, natural[index]))
        natural[widest] -= 1
    return natural


def _cell_width(cell: str) -> int:
    from rich.cells import cell_len  # noqa: PLC0415 -- as in `console`

    return max((cell_len(line) for line in cell.split("\n")), default=0)
