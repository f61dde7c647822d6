"""The doors that tell what was used: of one agent, of anything by anything, and of one request.

Invariants: a key sees only what it paid for, an admin everything; an unknown request and somebody else's
look the same; nothing here is on a call's way. 503 while Postgres cannot tell.
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Protocol
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from llm_proxy.admission import Standing
from llm_proxy.edge.auth import Doorkeeper
from llm_proxy.edge.told import asked, told
from llm_proxy.errors import BadRequest, NotFound, StoreUnavailable
from llm_proxy.identity import NOBODY, Caller, Named, on_behalf_of
from llm_proxy.ledger.queries import Line
from llm_proxy.ledger.question import DIMENSIONS, MOST_LINES, Question, midnight, moment
from llm_proxy.ledger.report import as_csv, as_json

Json = dict[str, Any]
Standings = Callable[[Caller], Awaitable[Iterable[Standing]]]

_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_DEFAULT_RANGE = timedelta(days=30)
_FORMS = ("json", "csv")
_HEARD = frozenset({400, 403, 404, 409, 413, 415, 422})
"""With these a caller has heard the provider's message; with others it is the operator's."""
_OWN = frozenset({"since", "until", "group_by", "format"})
_FILTERS: Json = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": f"Only this {name}.",
        }
        for name in DIMENSIONS
    ]
}
_REFUSALS: dict[int | str, Json] = {
    400: {"description": "A range or a dimension that is not one."},
    401: {"description": "No credential."},
    503: {"description": "Postgres cannot tell now."},
}
Since = Annotated[str | None, Query(description="2026-11-01, 2026-11-01T12:00Z, 24h, 7d; else 30 days ago.")]
Until = Annotated[str | None, Query(description="The same; else the end of today.")]
By = Annotated[str, Query(description=f"Comma-separated, of {', '.join(DIMENSIONS)}.")]
Agent = Annotated[str, Query(min_length=1)]
Form = Annotated[str, Query(alias="format", description="`json` or `csv`.")]


class Tells(Protocol):
    """Who knows what was used: Postgres, or a mock's memory."""

    async def ask(self, question: Question, now: datetime) -> list[Line]:
        """The lines of an answer."""
        ...

    async def total(self, question: Question, now: datetime) -> Line:
        """Their sum."""
        ...

    async def story(self, request_id: UUID) -> Json | None:
        """One request; None if unknown."""
        ...


def router(usage: Tells | None, keeper: Doorkeeper, standings: Standings) -> APIRouter:
    """`/internal/llm/usage`, `/v1/usage` and `/v1/requests/{id}`.

    Args:
        usage: None without Postgres: then nobody can tell; a mock remembers.
        keeper: Says who asks.
        standings: Where a caller stands at its limits.
    """
    doors = APIRouter(tags=["usage"], responses=_REFUSALS)

    @doors.get("/internal/llm/usage", summary="What one agent used, and where it stands at its limit.")
    async def of_agent(caller: Annotated[Caller, Depends(keeper.caller)], agent_id: Agent) -> Response:
        acting = on_behalf_of(caller, NOBODY, Named(agent=agent_id))
        line = await _used_by_agent(asked(usage), caller, agent_id)
        return _json({**line, "limits": await _limits(standings(acting))})

    @doors.get("/v1/usage", summary="What was used, by any dimension.", openapi_extra=_FILTERS)
    async def by_dimension(
        request: Request,
        who: Annotated[Caller | str, Depends(keeper.anybody)],
        *,
        since: Since = None,
        until: Until = None,
        group_by: By = "",
        form: Form = "json",
    ) -> Response:
        now = datetime.now(UTC)
        question = Question(
            since=moment(since, now) if since else midnight(now) - _DEFAULT_RANGE,
            until=moment(until, now) if until else _tomorrow(now),
            by=tuple(name for name in group_by.split(",") if name),
            where=_where(request, who),
        )
        return await _report(asked(usage), question, form, now)

    @doors.get(
        "/v1/requests/{request_id}",
        summary="One request's story.",
        responses={404: {"description": "No such request, or somebody else's."}},
    )
    async def story(request_id: UUID, who: Annotated[Caller | str, Depends(keeper.anybody)]) -> Response:
        found = await told(asked(usage).story(request_id))
        if found is None or (isinstance(who, Caller) and found["key_id"] != who.key_id):
            raise NotFound("No request of yours has this id.", code="request_not_found")
        if isinstance(who, Caller) and found.get("status") not in _HEARD:
            found.pop("provider_message", None)
        return _json(found)

    return doors


async def _used_by_agent(usage: Tells, caller: Caller, agent: str) -> Json:
    now = datetime.now(UTC)
    where = {"agent": agent} if caller.kind == "internal" else {"agent": agent, "key": caller.key_id}
    line = await told(usage.total(Question(_EPOCH, _tomorrow(now), where=where), now))
    return {
        "total_requests": line.requests,
        "total_tokens": line.total_tokens,
        "avg_latency_ms": round(line.avg_latency_ms or 0.0, 1),
        "success_rate": round(line.success_rate, 4),
        "total_cost_usd": round(float(line.cost_usd), 9),
    }


async def _report(usage: Tells, question: Question, form: str, now: datetime) -> Response:
    if form not in _FORMS:
        raise BadRequest("'format' is json or csv.", param="format")
    lines = await told(usage.ask(question, now))
    more = len(lines) >= MOST_LINES
    if form == "csv":
        headers = {"x-llm-proxy-has-more": "true"} if more else None
        return Response(as_csv(lines, question.by), headers=headers, media_type="text/csv; charset=utf-8")
    total = await told(usage.total(question, now))
    body = {
        "object": "list",
        "since": question.since.isoformat(),
        "until": question.until.isoformat(),
        "group_by": list(question.by),
        "data": [as_json(line) for line in lines],
        "has_more": more,
        "total": as_json(total),
    }
    return _json(body)


def _where(request: Request, who: Caller | str) -> dict[str, str]:
    where = {name: value for name, value in request.query_params.items() if name not in _OWN}
    unknown = next((name for name in where if name not in DIMENSIONS), None)
    if unknown is not None:
        raise BadRequest(f"There is no '{unknown[:40]}' to filter by.", param=unknown[:40])
    if isinstance(who, Caller):
        where["key"] = who.key_id
    return where


async def _limits(standings: Awaitable[Iterable[Standing]]) -> Json | None:
    try:
        found = await standings
    except StoreUnavailable:
        return None  # what was used is known all the same
    of_agent = [
        one
        for one in found
        if one.check.enforced and one.check.kind == "requests" and one.check.scope == "agent"
    ]
    if not of_agent:
        return None
    tightest = min(of_agent, key=lambda one: one.remaining)
    reset_s = tightest.reset_ms / 1000 if tightest.reset_ms is not None else 0.0
    return {"limit": tightest.check.limit, "remaining": tightest.remaining, "reset": reset_s}


def _tomorrow(now: datetime) -> datetime:
    return midnight(now) + timedelta(days=1)


def _json(body: Json) -> Response:
    return Response(orjson.dumps(body, default=_plain), media_type="application/json")


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return round(float(value), 9)
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, UUID):  # the driver's own subclass
        return str(value)
    raise TypeError(type(value).__name__)
