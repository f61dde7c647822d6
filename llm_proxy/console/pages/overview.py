"""The overview: a range against the one before, who spent most, what is wrong now, whether budgets last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import AnyViewer, Reader
from llm_proxy.console.console import Console
from llm_proxy.console.problems import Problem, budget_amount, find_problems
from llm_proxy.console.result_cache import ResultCache
from llm_proxy.console.usage_view import PRESETS, read_view
from llm_proxy.ledger.request_search import RequestSearcher
from llm_proxy.ledger.usage_overview import ComparedName, UsageComparison

TOP = 10
_MOVERS = 4
LISTS = ("key", "agent", "tenant", "model")


@dataclass(frozen=True, slots=True)
class Mover:
    """A name whose cost changed much."""

    dimension: str
    name: ComparedName


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()
    comparisons, problems = ResultCache(), ResultCache()
    usage, searcher = console.data.usage, RequestSearcher(console.data.pool)

    @routes.get("/overview")
    async def show(request: Request, viewer: AnyViewer) -> Response:
        now = datetime.now(UTC)
        view = read_view(request.query_params, (), viewer, now)
        fields = view.dimensions(*LISTS)
        by = tuple(name for name in fields if name not in view.filters)
        found = await comparisons.get(
            view.key(), lambda: usage.compare(view.query(*by), view.before, TOP, now)
        )
        return console.render(
            request,
            viewer,
            "overview.html",
            view=view,
            fields=fields,
            presets=PRESETS,
            found=found,
            movers=_movers(found),
            change=change,
        )

    @routes.get("/overview/problems")
    async def wrong_now(request: Request, viewer: AnyViewer) -> Response:
        async def read() -> Sequence[Problem]:
            return await find_problems(viewer, usage, searcher, datetime.now(UTC))

        found = await problems.get((viewer.scope, viewer.role), read)
        is_part = "hx-request" in request.headers
        return console.render(
            request, viewer, "problems_part.html" if is_part else "problems.html", problems=found
        )

    @routes.get("/overview/budgets")
    async def budgets(request: Request, viewer: Reader, tenant: str = "") -> Response:
        found = await viewer.api.get("/admin/budgets", limit=500, tenant=tenant or None)
        return console.render(
            request, viewer, "budgets.html", rows=found["data"], has_more=found["has_more"],
            tenant=tenant, amount=budget_amount,
        )  # fmt: skip

    return routes


def change(now: Decimal | float | None, before: Decimal | float | None) -> str:
    """Returns how a figure changed: `12 % more`; empty where there is nothing to compare."""
    if not before or now is None:
        return "" if not now else "none before"
    share = float((Decimal(str(now)) - Decimal(str(before))) / Decimal(str(before)))
    if round(abs(share), 2) == 0:
        return "as before"
    return f"{abs(share) * 100:,.0f} % {'more' if share > 0 else 'less'}"


def _movers(found: UsageComparison) -> list[Mover]:
    """Returns the names that explain most of how the spend changed, in its direction."""
    rose = found.total.cost_usd >= found.before.cost_usd
    compared = {name: names for name, names in found.lists.items() if len(names) > 1}
    every = [Mover(name, one) for name, names in (compared or found.lists).items() for one in names]
    moved = [one for one in every if one.name.change_usd and (one.name.change_usd > 0) is rose]
    return sorted(moved, key=lambda one: -abs(one.name.change_usd))[:_MOVERS]
