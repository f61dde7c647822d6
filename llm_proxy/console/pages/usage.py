"""Usage over time by any group, as stacked plots and as a table; exports of the same rows.

Invariants: the plots draw the table's numbers; exports are those of `GET /v1/usage` for the same parameters.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import AnyViewer
from llm_proxy.console.console import Console
from llm_proxy.console.pages.overview import change
from llm_proxy.console.result_cache import ResultCache
from llm_proxy.console.usage_view import FILTERS, PRESETS, UsageView, read_view
from llm_proxy.edge.routes.usage import csv_report
from llm_proxy.errors import BadRequest
from llm_proxy.ledger.usage_overview import MEASURES, Measure, NameSums, UsageSeries
from llm_proxy.ledger.usage_query import group_label

SERIES, NAMES = 7, 100
_GROUPS = ("key", "agent", "tenant", "model", "provider", "user", "root_key", "session", "run")
_MEASURE_NAMES: Mapping[Measure, str] = {
    "cost": "Spend (USD)",
    "requests": "Calls",
    "tokens": "Tokens",
    "errors": "Calls without success",
}


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()
    store, cache = console.data.usage, ResultCache()

    @routes.get("/usage")
    async def show(request: Request, viewer: AnyViewer) -> Response:
        now = datetime.now(UTC)
        view = read_view(request.query_params, ("by", "measure"), viewer, now)
        groups = view.dimensions(*_GROUPS)
        by, measure = _choice(view, "by", groups), _measure(view)
        query, names = view.query(by, view.unit), view.query(by)
        series, found = await asyncio.gather(
            cache.get(view.key(by, measure), lambda: store.over_time(query, measure, SERIES, now)),
            cache.get(view.key(by), lambda: store.compare(names, view.before, NAMES, now)),
        )
        return console.render(
            request, viewer, "usage.html", view=view, presets=PRESETS, groups=groups, by=by,
            fields=view.dimensions(*FILTERS), measure=measure, measures=_MEASURE_NAMES, series=series,
            times=_times(series, view), found=found, names=found.lists[by], limit=NAMES, change=change,
            value=partial(_value, measure),
        )  # fmt: skip

    @routes.get("/usage/export")
    async def export(request: Request, viewer: AnyViewer) -> Response:
        now = datetime.now(UTC)
        view = read_view(request.query_params, ("by", "measure", "format"), viewer, now)
        by = _choice(view, "by", view.dimensions(*_GROUPS))
        focus = view.given.get("format") == "focus"
        query = view.query() if focus else view.query(by, view.unit)
        report = await csv_report(store, query, now, focus=focus)
        name = "focus" if focus else "usage"
        report.headers["content-disposition"] = f'attachment; filename="{name}.csv"'
        return report

    return routes


def _choice(view: UsageView, name: str, options: tuple[str, ...]) -> str:
    default = next((one for one in options if one not in view.filters), options[0])
    chosen = view.given.get(name, default)
    if chosen not in options:
        raise BadRequest(f"'{name}' is one of {', '.join(options)}.", param=name)
    return chosen


def _measure(view: UsageView) -> Measure:
    chosen = view.given.get("measure", "cost")
    if chosen not in MEASURES:
        raise BadRequest(f"'measure' is one of {', '.join(MEASURES)}.", param="measure")
    return cast("Measure", chosen)


def _value(measure: Measure, sums: NameSums) -> str:
    """Returns a measure exactly, as plots read it."""
    return f"{sums.measure(measure):f}" if measure == "cost" else str(sums.measure(measure))


def _times(series: UsageSeries, view: UsageView) -> list[tuple[datetime, str]]:
    """Returns the beginning of each group of time, and its label in the view's zone."""
    found: list[tuple[datetime, str]] = []
    for moment in series.times:
        label = group_label(view.unit, moment, view.zone)
        text = label if isinstance(label, str) else label.isoformat()
        found.append((moment, text.replace("T", " ")))
    return found
