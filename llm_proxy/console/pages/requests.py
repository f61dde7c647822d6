"""Requests, searched by filters that live in the address; all matches as CSV.

Invariants: a viewer sees the rows of its scope alone; no text of a prompt or an answer is in a list.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import AnyViewer, Viewer
from llm_proxy.console.console import Console
from llm_proxy.edge.routes.requests import DEFAULT_SINCE, csv_response
from llm_proxy.errors import APIError, BadRequest
from llm_proxy.ledger.request_filters import FILTERS, OUTCOMES, parse_filters, parse_position
from llm_proxy.ledger.request_search import RequestPage, RequestSearch, RequestSearcher
from llm_proxy.ledger.usage_query import parse_range

PAGE_ROWS = 50
_TIMES = ("since", "until")
_FIELDS = (*_TIMES, *FILTERS)
_STATUSES = ("", "2xx", "4xx", "5xx", "400", "401", "403", "429", "500", "502", "503", "504")


def router(console: Console) -> APIRouter:
    """Returns the pages' routes."""
    routes = APIRouter()
    searcher = RequestSearcher(console.data.pool)

    @routes.get("/requests")
    async def show(request: Request, viewer: AnyViewer) -> Response:
        given = _given(request)
        problem, page = "", RequestPage([], None)
        try:
            page = await searcher.find_page(_search(viewer, given, request.query_params.get("after", "")))
        except APIError as fault:
            problem = fault.message
        values = {
            "given": _shown(given),
            "outcomes": ("", *(one for one in OUTCOMES if one != "refused")),
            "statuses": tuple(dict.fromkeys((*_STATUSES, given.get("status", "")))),
            "rows": page.rows,
            "searched_to": page.searched_to,
            "older": "" if page.after is None else _address("/requests", given | {"after": str(page.after)}),
            "csv": _address("/requests.csv", given),
            "problem": problem,
        }
        return console.render(request, viewer, "requests.html", status=400 if problem else 200, **values)

    @routes.get("/requests.csv")
    async def export(request: Request, viewer: AnyViewer) -> Response:
        return await csv_response(searcher, _search(viewer, _given(request), ""))

    return routes


def _given(request: Request) -> dict[str, str]:
    """Returns the filters of the address, without empty ones; raises `BadRequest` for a repeated one."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise BadRequest(f"'{name[:40]}' is given twice.", param=name[:40])
        if name != "after" and value.strip():
            given[name] = value.strip()
    return given


def _shown(given: Mapping[str, str]) -> dict[str, str]:
    """Returns what the form's fields show."""
    fields = {name: given.get(name, "") for name in _FIELDS}
    fields["since"] = fields["since"] or DEFAULT_SINCE
    if fields["outcome"] == "refused":  # its synonym
        fields["outcome"] = "rejected"
    return fields


def _search(viewer: Viewer, given: Mapping[str, str], after: str) -> RequestSearch:
    """Returns the search of a page; raises `BadRequest`."""
    since, until = given.get("since", DEFAULT_SINCE), given.get("until")
    begin, end = parse_range(since, until, datetime.now(UTC))
    return RequestSearch(
        begin,
        end,
        parse_filters((name, value) for name, value in given.items() if name not in _TIMES),
        only_key=viewer.scope.key_id,
        only_tenant=viewer.scope.tenant,
        after=parse_position(after) if after else None,
        limit=PAGE_ROWS,
    )


def _address(path: str, given: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(given)}" if given else path
