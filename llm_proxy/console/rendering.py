"""Makes pages from templates: everything that is not markup of ours is escaped.

Invariants: the only home of Jinja2; autoescape is always on, a name that a page does not give is an error,
and nothing but a template's own text is markup. Times are shown with their zone, money as the API has it.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from llm_proxy.ledger.request_detail import cause_of, model_of
from llm_proxy.money import nano_to_usd
from llm_proxy.path_names import page_segment

UNKNOWN = "\N{EN DASH}"
_SHORT_ID_CHARS = 8
_MS_PER_S, _S_PER_MIN = 1000, 60
_SMALL_USD = Decimal("0.0001")


class Templates:
    """The templates of `console/templates`."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        """Takes the values that every template has."""
        self._environment = Environment(
            loader=PackageLoader("llm_proxy.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals.update(names)
        self._environment.filters.update(_FILTERS)

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """Returns a page's text."""
        return self._environment.get_template(name).render(values)


class KnownFields(dict[str, Any]):
    """A row for its template: a field that only another kind of row has is None."""

    def __missing__(self, name: str) -> None:
        """Returns nothing for a field that is not there."""


def usd(value: object) -> str:
    """Returns an amount of dollars as the API has it, without an exponent; a dash for an unknown one."""
    if value is None:
        return UNKNOWN
    amount = Decimal(str(value))
    text = f"{amount:f}"
    return f"${text.rstrip('0').rstrip('.') if '.' in text else text}"


def money(value: object) -> Markup:
    """Returns an amount of dollars in few digits; the API's exact one is its value and title."""
    if value is None:
        return escape(UNKNOWN)
    amount = Decimal(str(value))
    shown = (
        f"{amount:,.2f}"
        if abs(amount) >= 1
        else f"{amount:.4g}"
        if abs(amount) >= _SMALL_USD
        else usd(amount).removeprefix("$")
    )
    exact = usd(amount)
    return Markup('<data value="{}" title="{}">${}</data>').format(exact.removeprefix("$"), exact, shown)


def nano_usd(value: int | None) -> str:
    """Returns nano-dollars as dollars."""
    return usd(None if value is None else nano_to_usd(value))


def number(value: float | None) -> str:
    """Returns a number with separators of thousands; a dash for an unknown one."""
    return UNKNOWN if value is None else f"{value:,}"


def when(value: object) -> Markup:
    """Returns a time, of the database or of the API, as an element with its zone; a dash without one."""
    if value is None or value == "":
        return escape(UNKNOWN)
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    moment = moment.astimezone(UTC)
    iso, shown = moment.isoformat(timespec="seconds"), f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}">{}</time>').format(iso, shown)


def duration_ms(value: float | None) -> str:
    """Returns milliseconds in a unit that reads well."""
    if value is None:
        return UNKNOWN
    if value < _MS_PER_S:
        return f"{value:.0f} ms"
    seconds = value / _MS_PER_S
    return f"{seconds:.2f} s" if seconds < _S_PER_MIN else f"{seconds / _S_PER_MIN:.1f} min"


def short_id(value: object) -> Markup:
    """Returns the end of an id, the whole one as its title."""
    text = str(value or UNKNOWN)
    return Markup('<abbr title="{}">{}</abbr>').format(text, escape(text[-_SHORT_ID_CHARS:]))


def pretty_json(value: object) -> str:
    """Returns a JSON value over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


_FILTERS: dict[str, Callable[..., Any]] = {
    "page_segment": page_segment,
    "cause": cause_of,
    "model": model_of,
    "usd": usd,
    "money": money,
    "nano_usd": nano_usd,
    "number": number,
    "when": when,
    "duration_ms": duration_ms,
    "short_id": short_id,
    "pretty_json": pretty_json,
}
