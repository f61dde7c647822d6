"""`GET /v1/requests`: single requests, searched, page by page, or all of them as CSV.

Invariants: a key sees only what it paid for, a tenant's admin its tenant, other admins all; CSV is sent as
it is read, and breaks off when it cannot be read to its end.
"""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from llm_proxy.edge.auth import AuthDependencies
from llm_proxy.edge.responses import database_result, json_response, require_database
from llm_proxy.edge.visible_rows import own_key, own_tenant, visible_request
from llm_proxy.errors import BadRequest
from llm_proxy.identity import Admin, Caller
from llm_proxy.json_access import Json
from llm_proxy.ledger.request_filters import FILTER_HELP, parse_filters, parse_position
from llm_proxy.ledger.request_rows import csv_header, csv_lines
from llm_proxy.ledger.request_search import MAX_PAGE, RequestSearch, RequestSearcher
from llm_proxy.ledger.usage_query import RANGE_WORDS, parse_range, parse_zone

DEFAULT_SINCE = "24h"
_FORMS = ("json", "csv")
_PARAMETERS = frozenset({"since", "until", "tz", "after", "limit", "format"})
_FILTERS_DOCUMENT: Json = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": text,
        }
        for name, text in FILTER_HELP.items()
    ]
}


class SearchParameters(BaseModel):
    """The query parameters of `GET /v1/requests` that are no filters."""

    since: str | None = Field(None, description=f"2026-11-01, 24h, 7d, {', '.join(RANGE_WORDS)}; else 24h.")
    until: str | None = Field(None, description="The same; else the end of today, or of what `since` names.")
    tz: str = Field("UTC", description="An IANA zone, or an offset such as +05:30: the zone of days.")
    after: str | None = Field(None, description="`after` of the page before.")
    limit: int = Field(50, ge=1, le=MAX_PAGE, description="Rows of a page.")
    form: str = Field("json", alias="format", description="`json`, or `csv`: all matches.")


def router(searcher: RequestSearcher | None, auth: AuthDependencies) -> APIRouter:
    """Returns the route; it is 503 without a database (`searcher` is None)."""
    routes = APIRouter(tags=["usage"])

    @routes.get(
        "/v1/requests",
        summary="Single requests, newest first: calls, and the sample of rejected ones.",
        openapi_extra=_FILTERS_DOCUMENT,
        responses={
            400: {"description": "An invalid range, filter or place."},
            401: {"description": "No credential."},
            404: {"description": "No key has this name."},
            503: {"description": "The database is unavailable."},
        },
    )
    async def search(
        request: Request,
        who: Annotated[Caller | Admin, Depends(auth.caller_or_admin)],
        query: Annotated[SearchParameters, Query()],
    ) -> Response:
        if query.form not in _FORMS:
            raise BadRequest(f"'format' is one of {', '.join(_FORMS)}.", param="format")
        begin, end = parse_range(
            query.since or DEFAULT_SINCE, query.until, datetime.now(UTC), parse_zone(query.tz)
        )
        given = [one for one in request.query_params.multi_items() if one[0] not in _PARAMETERS]
        filters = parse_filters(given)
        question = RequestSearch(
            begin,
            end,
            filters,
            only_key=own_key(who),
            only_tenant=own_tenant(who, filters.values.get("tenant")),
            after=parse_position(query.after) if query.after else None,
            limit=query.limit,
        )
        store = require_database(searcher)
        if query.form == "csv":
            return await csv_response(store, question)
        return json_response(await _page(store, question, who))

    return routes


async def _page(searcher: RequestSearcher, search: RequestSearch, who: Caller | Admin) -> Json:
    page = await database_result(searcher.find_page(search))
    return {
        "object": "list",
        "since": search.since,
        "until": search.until,
        "data": [visible_request(row, who) for row in page.rows],
        "has_more": page.after is not None,
        "after": None if page.after is None else str(page.after),
        "searched_to": page.searched_to,
    }


async def csv_response(searcher: RequestSearcher, search: RequestSearch) -> Response:
    """Returns all matches as CSV, sent as they are read; raises what the first page raises."""
    pages = searcher.find_all(search)
    first = await database_result(anext(pages, list[Json]()))

    async def lines() -> AsyncGenerator[str]:
        yield csv_header() + csv_lines(first)
        async for rows in pages:
            yield csv_lines(rows)

    headers = {"content-disposition": 'attachment; filename="requests.csv"'}
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)
