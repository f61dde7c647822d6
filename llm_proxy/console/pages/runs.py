"""Runs of agents, and one as a tree: its agents, their calls in order, each call's hops; cost and repeats.

Invariants: everything is the API's (`/v1/runs`), so a viewer sees what its credential may.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import CHANGERS, READERS, AnyViewer, Changer, Viewer
from llm_proxy.console.console import Console, PathName
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.console.rendering import KnownFields
from llm_proxy.json_access import Json
from llm_proxy.path_names import api_segment, page_segment

PAGE_RUNS, PAGE_CALLS = 50, 500
_NO_ANSWER = 500
_FILTERS = ("since", "until", "run", "key", "tenant", "agent")
_TO_ONE = ("since", "until", "key", "tenant", "after")


@dataclass(slots=True)
class Branch:
    """The calls of one agent of a run.

    Attributes:
        agent: Empty for calls without one.
        calls: In the order they began.
    """

    agent: str
    calls: list[Json] = field(default_factory=list[Json])

    @property
    def rejected(self) -> int:
        """How many of them were not admitted."""
        return sum(one["outcome"] == "refused" for one in self.calls)

    @property
    def cost_usd(self) -> float:
        """What its priced calls cost."""
        return round(sum(one["cost_usd"] or 0 for one in self.calls), 9)

    @property
    def tokens(self) -> int:
        """The tokens that are known."""
        return sum((one["prompt_tokens"] or 0) + (one["completion_tokens"] or 0) for one in self.calls)


def router(console: Console) -> APIRouter:
    """Returns the pages' routes."""
    routes = APIRouter()

    @routes.get("/runs")
    async def show(request: Request, viewer: AnyViewer) -> Response:
        given = {name: value for name, value in request.query_params.items() if value.strip()}
        found, stopped = await asyncio.gather(_find(viewer, given), _stopped(viewer))
        values: dict[str, Any] = {
            "stopped": stopped,
            "may_release": viewer.may(*CHANGERS),
            "given": {name: given.get(name, "") for name in _FILTERS} | {"since": given.get("since", "24h")},
            "rows": [one | {"address": run_address(one, given)} for one in found.rows],
            "older": found.next,
            "problem": found.problem,
        }
        return console.render(request, viewer, "runs.html", status=found.status, **values)

    @routes.get("/runs/{run:path}")
    async def one(run: PathName, request: Request, viewer: AnyViewer) -> Response:
        given = {name: value for name, value in request.query_params.items() if name in _TO_ONE and value}
        page = await viewer.api.get(f"/v1/runs/{api_segment(run)}", **(given | {"limit": PAGE_CALLS}))
        values: dict[str, Any] = {
            "run": page["run"],
            "branches": tree_of(page["data"], page["run"]["first_at"]),
            "later": _next(f"/runs/{page_segment(run)}", given, page),
        }
        return console.render(request, viewer, "run.html", **values)

    return routes


def release_router(console: Console) -> APIRouter:
    """Returns the route that lets a stopped run go on."""
    routes = APIRouter()

    @routes.post("/runs/release")
    async def release(
        viewer: Changer,
        run: Annotated[str, Form()],
        key: Annotated[str, Form()],
        tenant: Annotated[str, Form()] = "",
    ) -> Response:
        body = {"run": run, "key": key} | ({"tenant": tenant} if tenant else {})
        try:
            await viewer.api.send("POST", "/admin/runs/release", body)
        except GatewayRejected as fault:
            return console.redirect("/runs", notice=fault.message)
        return console.redirect("/runs", notice=f"The run {run} may go on.")

    return routes


async def _stopped(viewer: Viewer) -> list[Json] | None:
    """Returns the runs that the loop guard has stopped, none to who may not see them; None: not known."""
    if not viewer.may(*READERS):
        return []
    try:
        found: list[Json] = (await viewer.api.get("/admin/runs/quarantined"))["data"]
    except GatewayRejected:  # the limits store is away: runs are shown all the same
        return None
    return found


@dataclass(frozen=True, slots=True)
class Found:
    """Runs that were found.

    Attributes:
        next: The address of those that come after.
        problem: Why none could be looked for.
        status: Of the page.
    """

    rows: list[Json] = field(default_factory=list[Json])
    next: str = ""
    problem: str = ""
    status: int = 200


async def _find(viewer: Viewer, given: dict[str, str]) -> Found:
    """Returns a page of runs."""
    try:
        page = await viewer.api.get("/v1/runs", **(given | {"limit": PAGE_RUNS}))
    except GatewayRejected as fault:
        return Found(problem=fault.message, status=fault.status if fault.status >= _NO_ANSWER else 400)
    return Found(page["data"], _next("/runs", given, page))


def run_address(run: Json, given: dict[str, str]) -> str:
    """Returns the address of a run's page: its name, and whose it is."""
    owner = {
        "key": run["key_id"],
        "tenant": run["tenant"],
        "since": given.get("since"),
        "until": given.get("until"),
    }
    query = urlencode({name: value for name, value in owner.items() if value})
    return f"/runs/{page_segment(run['run'])}?{query}"


def tree_of(calls: Iterable[Json], began: str) -> list[Branch]:
    """Returns calls and rejections by agent, in the order in which the agents appear.

    Each call gets `at_ms`, since the run began, and `alike`: how many calls of the page have its model and a
    prompt of its size, itself included.
    """
    rows, start = [KnownFields(one) for one in calls], datetime.fromisoformat(began)
    sizes = Counter((one["model"], one["prompt_bytes"]) for one in rows)
    branches: dict[str, Branch] = {}
    for one in rows:
        at = datetime.fromisoformat(one["started_at"] or one["refused_at"])
        alike = sizes[one["model"], one["prompt_bytes"]] if one["prompt_bytes"] else 1
        one |= {"at_ms": (at - start).total_seconds() * 1000, "alike": alike}
        branches.setdefault(one["agent"] or "", Branch(one["agent"] or "")).calls.append(one)
    return list(branches.values())


def _next(path: str, given: dict[str, str], page: Json) -> str:
    """Returns the address of the next page; it has the end of the range, so that later calls move nothing."""
    if not page["after"]:
        return ""
    return f"{path}?{urlencode(given | {name: page[name] for name in ('after', 'until', 'since')})}"
