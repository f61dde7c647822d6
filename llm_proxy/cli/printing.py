"""What every command prints with: tables, fields, JSON, warnings, questions; and how a command fails.

Invariants: results go to standard output, everything else to standard error as `llm-proxy: one line`. Exit
codes: `EXIT_FAILED` 1, `EXIT_WRONG_INPUT` 2, `EXIT_UNAVAILABLE` 3 (docs/cli.md). No number and no id is
truncated or broken: a table that does not fit the terminal is printed as one block of lines a row.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

import click
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

EXIT_FAILED = 1
"""It was not done, or the answer is no: no such thing, not allowed, a check found faults."""
EXIT_WRONG_INPUT = 2
"""It was asked wrongly: an option, a value, a file or a setting. Nothing was done."""
EXIT_UNAVAILABLE = 3
"""The database, the limits store or the gateway does not answer. The same command may work later."""
PIPED_WIDTH = 200
_GAP = 2
_MIN_TEXT_WIDTH = 8

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


class CommandFailed(click.ClickException):
    """Ends the command with one line and an exit code."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: May be broken between words.
        number: To the right; never broken, and neither is any cell where `unbroken` is set.
        unbroken: An id or a time.
    """

    title: str
    number: bool = False
    unbroken: bool = False


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    """End the command with this line."""
    raise CommandFailed(message, code)


def warn(message: str) -> None:
    """One line on standard error; the command goes on."""
    click.echo(f"llm-proxy: {' '.join(message.split())}", err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be taken back; ends the command unless the answer is yes.

    Args:
        question: Such as `Revoke the key n?`.
        yes: The value of `--yes`: then nothing is asked. Without a terminal it is required.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Nobody can be asked here: repeat it with --yes", EXIT_WRONG_INPUT)
    if not click.confirm(f"llm-proxy: {question}", err=True):
        fail("nothing was done")


def console() -> Console:
    """Where tables go: as wide as the terminal or `COLUMNS`, else `PIPED_WIDTH`."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(width=None if known else PIPED_WIDTH, highlight=False)


def print_json(document: object) -> None:
    """One JSON document; money as text, times in ISO 8601."""
    click.echo(json.dumps(document, indent=2, default=to_plain, ensure_ascii=False))


def print_fields(document: Mapping[str, Any]) -> None:
    """One thing, a line each field; empty fields are left out."""
    shown = {name: value for name, value in document.items() if value is not None and value != []}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        text = json.dumps(value, default=to_plain) if isinstance(value, list | dict) else to_plain(value)
        click.echo(f"{name:<{width}}  {text}")


def print_table(columns: Sequence[Column | str], rows: Iterable[Sequence[str]]) -> None:
    """A table; one block of lines a row where the terminal is too narrow for its numbers and ids."""
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
    """A value as JSON and a line of text have it."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, date) else str(value) if isinstance(value, UUID) else value


def _column_widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """The columns' widths; None if they do not fit without breaking a number or an id."""
    natural: list[int] = []
    least: list[int] = []
    for place, column in enumerate(columns):
        content = max((_cell_width(row[place]) for row in rows), default=0)
        title = max(cell_len(word) for word in column.title.split() or [""])
        natural.append(max(content, title))
        kept = content if column.number or column.unbroken else min(content, _MIN_TEXT_WIDTH)
        least.append(max(kept, title))
    room -= _GAP * (len(columns) - 1)
    if sum(least) > room:
        return None
    while sum(natural) > room:
        spare = [have - need for have, need in zip(natural, least, strict=True)]
        widest = max(range(len(natural)), key=lambda place: (spare[place] > 0, natural[place]))
        natural[widest] -= 1
    return natural


def _cell_width(cell: str) -> int:
    return max((cell_len(line) for line in cell.split("\n")), default=0)
