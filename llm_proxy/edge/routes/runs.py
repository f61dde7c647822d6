"""`GET /v1/runs` and `GET /v1/runs/{run}`: the runs of agents with their sums, and the calls of one.

Invariants: a key sees its own runs, a tenant's admin its tenant's, other admins all; the runs of another are
not there.
"""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from llm_proxy.edge.auth import AuthDependencies
from llm_proxy.edge.responses import database_result, json_response, require_database
from llm_proxy.edge.visible_rows import own_key, own_tenant, visible_request
from llm_proxy.errors import BadRequest
from llm_proxy.identity import Admin, Caller
from llm_proxy.identity.caller import MAX_NAME_CHARS
from llm_proxy.json_access import Json
from llm_proxy.ledger.request_filters import parse_position
from llm_proxy.ledger.run_calls import MAX_PAGE, RunPage, RunQuery, RunReader
from llm_proxy.ledger.usage_query import RANGE_WORDS, parse_range, parse_zone

_FILTERS = ("run", "key", "tenant", "agent")
_Name = Annotated[str | None, Field(min_length=1, max_length=MAX_NAME_CHARS)]
_RESPONSES: dict[int | str, Json] = {
    400: {"description": "An invalid range or place, or a name that several runs have."},
    401: {"description": "No credential."},
    404: {"description": "No such key or run."},
    503: {"description": "The database is unavailable."},
}


class RunParameters(BaseModel):
    """The query parameters of both routes."""

    since: str | None = Field(None, description=f"2026-11-01, 24h, 7d, {', '.join(RANGE_WORDS)}; else 24h.")
    until: str | None = Field(None, description="The same; else the end of today, or of what `since` names.")
    tz: str = Field("UTC", description="An IANA zone, or an offset such as +05:30: the zone of days.")
    run: _Name = Field(None, description="Only runs of this name.")
    key: _Name = Field(None, description="Only this key's, by its name, id or prefix.")
    tenant: _Name = Field(None, description="Only this tenant's.")
    agent: _Name = Field(None, description="Only calls of this agent.")
    after: str | None = Field(None, description="`after` of the page before, with its `until`.")
    limit: int = Field(50, ge=1, le=MAX_PAGE, description="Rows of a page.")


def router(reader: RunReader | None, auth: AuthDependencies) -> APIRouter:
    """Returns the routes; each is 503 without a database (`reader` is None)."""
    routes = APIRouter(tags=["usage"], responses=_RESPONSES)

    @routes.get("/v1/runs", summary="Runs with their sums in a range, those with the latest calls first.")
    async def runs(
        request: Request,
        who: Annotated[Caller | Admin, Depends(auth.caller_or_admin)],
        query: Annotated[RunParameters, Query()],
    ) -> Response:
        question = _parse(request, query, who)
        page = await database_result(require_database(reader).runs(question))
        return json_response(_document(question, page, page.rows))

    @routes.get("/v1/runs/{run:path}", summary="One run and its calls, in the order they began.")
    async def calls(
        run: str,
        request: Request,
        who: Annotated[Caller | Admin, Depends(auth.caller_or_admin)],
        query: Annotated[RunParameters, Query()],
    ) -> Response:
        if query.run is not None:
            raise BadRequest("The path names the run.", param="run")
        question = _parse(request, query.model_copy(update={"run": run[: MAX_NAME_CHARS + 1]}), who)
        page = await database_result(require_database(reader).calls(question))
        rows = [visible_request(row, who) for row in page.rows]
        return json_response({"run": page.run, **_document(question, page, rows)})

    return routes


def _parse(request: Request, query: RunParameters, who: Caller | Admin) -> RunQuery:
    for name in request.query_params:
        if name not in RunParameters.model_fields:
            raise BadRequest(f"The parameter '{name[:40]}' is unknown.", param=name[:40])
    begin, end = parse_range(query.since or "24h", query.until, datetime.now(UTC), parse_zone(query.tz))
    given = {name: getattr(query, name) for name in _FILTERS}
    return RunQuery(
        begin,
        end,
        {name: value for name, value in given.items() if value is not None},
        only_key=own_key(who),
        only_tenant=own_tenant(who, query.tenant),
        after=parse_position(query.after) if query.after else None,
        limit=query.limit,
    )


def _document(query: RunQuery, page: RunPage, rows: list[Json]) -> Json:
    return {
        "object": "list",
        "since": query.since,
        "until": query.until,
        "data": rows,
        "has_more": page.after is not None,
        "after": None if page.after is None else str(page.after),
    }
