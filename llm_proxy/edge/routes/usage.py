"""`/v1/usage`, `/v1/requests/{request_id}` and `/internal/llm/usage`: usage by any dimension, one request.

Invariants: a key sees only its own calls and those of its child keys, a tenant's admin its tenant, other
admins everything; an unknown request and another caller's get the same response; 503 while the database is
unavailable.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from llm_proxy.admission import AdmissionController, current_limits
from llm_proxy.edge.auth import AuthDependencies
from llm_proxy.edge.responses import database_result, json_response, require_database
from llm_proxy.edge.visible_rows import own_key, own_tenant, visible_request
from llm_proxy.errors import BadRequest, Forbidden, NotFound, StoreUnavailable
from llm_proxy.identity import NO_ATTRIBUTION, Admin, Attribution, Caller, on_behalf_of
from llm_proxy.json_access import Json
from llm_proxy.ledger.key_families import is_in_family
from llm_proxy.ledger.rejected_requests import RejectionScope, not_recorded_message
from llm_proxy.ledger.request_detail import attempts_of, describe_request
from llm_proxy.ledger.usage_query import (
    DIMENSIONS,
    EMPTY_ROW,
    MAX_ROWS,
    RANGE_WORDS,
    UsageQuery,
    UsageResult,
    parse_range,
    parse_zone,
)
from llm_proxy.ledger.usage_report import (
    focus_groups,
    row_as_json,
    rows_as_csv,
    rows_as_focus_csv,
    spans_as_json,
)
from llm_proxy.ledger.usage_store import UsageStore

_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_FORMS = ("json", "csv", "focus")
_PARAMETERS = frozenset({"since", "until", "tz", "group_by", "top", "format"})
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
_ERROR_RESPONSES: dict[int | str, Json] = {
    400: {"description": "An invalid range or dimension."},
    404: {"description": "A name that is in no record."},
    401: {"description": "No credential."},
    503: {"description": "The database is unavailable."},
}
_UNKNOWN = "No request of yours has this id; a new record may take a second."
AgentQuery = Annotated[str, Query(min_length=1)]


class UsageParameters(BaseModel):
    """The query parameters of `GET /v1/usage` that are no filters."""

    since: str | None = Field(
        None,
        description=f"2026-11-01, 2026-11-01T12:00Z, 24h, 7d, {', '.join(RANGE_WORDS)}; else 30 days ago.",
    )
    until: str | None = Field(
        None, description="The same; else the end of today, or of the period `since` names."
    )
    tz: str = Field("UTC", description="An IANA zone, or an offset such as +05:30: the zone of days.")
    group_by: str = Field("", description=f"Comma-separated, of {', '.join(DIMENSIONS)}.")
    top: int | None = Field(
        None,
        ge=1,
        le=MAX_ROWS,
        description="The maximum of rows in each period, those with the highest cost first.",
    )
    form: str = Field(
        "json", alias="format", description="`json`, `csv`, or `focus`: CSV under FOCUS 1.2's column names."
    )


def router(usage: UsageStore | None, auth: AuthDependencies, admission: AdmissionController) -> APIRouter:
    """Returns the routes; each is 503 without a store (`usage` is None)."""
    routes = APIRouter(tags=["usage"], responses=_ERROR_RESPONSES)

    @routes.get("/internal/llm/usage", summary="What one agent used, and the status of its limit.")
    async def of_agent(
        caller: Annotated[Caller, Depends(auth.require_caller)], agent_id: AgentQuery
    ) -> Response:
        try:
            acting = on_behalf_of(caller, NO_ATTRIBUTION, Attribution(agent=agent_id))
        except Forbidden as error:
            error.param = "agent_id"
            raise
        line = await _used_by_agent(require_database(usage), caller, agent_id)
        return json_response({**line, "limits": await _tightest_agent_limit(admission, acting)})

    @routes.get("/v1/usage", summary="What was used, by any dimension.", openapi_extra=_FILTERS)
    async def by_dimension(
        request: Request,
        who: Annotated[Caller | Admin, Depends(auth.caller_or_admin)],
        query: Annotated[UsageParameters, Query()],
    ) -> Response:
        now, zone = datetime.now(UTC), parse_zone(query.tz)
        begin, end = parse_range(query.since, query.until, now, zone)
        by = tuple(name for name in query.group_by.split(",") if name)
        where, tenant = _restrict_to_tenant(_parse_filters(request), who)
        question = UsageQuery(begin, end, by, where, zone, query.top, own_key(who), tenant)
        return await _report(require_database(usage), question, query.form, query.tz.replace(" ", "+"), now)

    @routes.get(
        "/v1/requests/{request_id}",
        summary="One request and each of its hops.",
        responses={
            404: {"description": "No such request, or another caller's, or rejected and not recorded."}
        },
    )
    async def story(
        request_id: UUID, who: Annotated[Caller | Admin, Depends(auth.caller_or_admin)]
    ) -> Response:
        found = await database_result(require_database(usage).request_detail(request_id))
        if found is None or not _may_see(who, found):
            raise await _request_not_found(require_database(usage), request_id, who)
        found = visible_request(found, who)
        attempts = [one.as_json() for one in attempts_of(found)]
        return json_response({**found, "story": describe_request(found), "attempt_details": attempts})

    return routes


def _restrict_to_tenant(where: dict[str, str], who: Caller | Admin) -> tuple[dict[str, str], str | None]:
    """Returns the filters, and the one tenant an admin may see; raises `Forbidden` for another tenant."""
    tenant = own_tenant(who, where.get("tenant"))
    return (where if tenant is None else where | {"tenant": tenant}), tenant


async def _request_not_found(usage: UsageStore, request_id: UUID, who: Caller | Admin) -> NotFound:
    """Returns the error for a request without a record: unknown, another caller's, or rejected."""
    if isinstance(who, Caller):
        whose = RejectionScope(key=who.key_id, with_below=True)
    else:
        whose = RejectionScope(tenant=who.tenant)
    counted = await database_result(usage.rejected_in_minute(request_id, whose))
    if counted:
        return NotFound(not_recorded_message(request_id, counted), code="request_not_kept")
    return NotFound(_UNKNOWN, code="request_not_found")


def _may_see(who: Caller | Admin, found: Json) -> bool:
    if isinstance(who, Caller):
        return is_in_family(who.key_id, found["key_id"], found["key_ancestors"])
    return who.tenant is None or who.tenant == found["tenant"]


async def _used_by_agent(usage: UsageStore, caller: Caller, agent: str) -> Json:
    now = datetime.now(UTC)
    owner = None if caller.kind == "internal" else caller.key_id
    question = UsageQuery(_EPOCH, now + timedelta(days=1), filters={"agent": agent}, only_key=owner)
    try:
        line = (await database_result(usage.query(question, now))).total
    except NotFound:  # the agent has made no call yet
        line = EMPTY_ROW
    return {
        "total_requests": line.requests,
        "total_tokens": line.total_tokens,
        "avg_latency_ms": round(line.avg_latency_ms or 0.0, 1),
        "success_rate": round(line.success_rate, 4),
        "total_cost_usd": round(float(line.cost_usd), 9),
    }


async def _report(usage: UsageStore, question: UsageQuery, form: str, tz: str, now: datetime) -> Response:
    if form not in _FORMS:
        raise BadRequest(f"'format' is one of {', '.join(_FORMS)}.", param="format")
    if form != "json":
        return await csv_report(usage, question, now, focus=form == "focus")
    answer = await database_result(usage.query(question, now))
    body = {
        "object": "list",
        "since": question.since.isoformat(),
        "until": question.until.isoformat(),
        "tz": tz,
        "group_by": list(question.group_by),
        "data": [row_as_json(line) for line in answer.rows],
        "has_more": answer.has_more,
        "total": row_as_json(answer.total),
        "exact": not (answer.unknown_spans or answer.total_unknown_spans),
        "untold": spans_as_json(answer.unknown_spans),
        "total_untold": spans_as_json(answer.total_unknown_spans),
    }
    return json_response(body)


async def csv_report(usage: UsageStore, question: UsageQuery, now: datetime, *, focus: bool) -> Response:
    """Returns a report as CSV, if `focus` under FOCUS's column names; what CSV cannot hold is in headers."""
    if focus:
        question = replace(question, group_by=focus_groups(question))
    answer = await database_result(usage.query(question, now))
    text = rows_as_focus_csv(answer.rows, question) if focus else rows_as_csv(answer.rows, question.group_by)
    return Response(text, headers=_csv_headers(answer), media_type="text/csv; charset=utf-8")


def _csv_headers(answer: UsageResult) -> dict[str, str]:
    """Returns as headers what CSV cannot hold."""
    headers = {"x-llm-proxy-has-more": "true"} if answer.has_more else {}
    return headers | ({"x-llm-proxy-exact": "false"} if answer.unknown_spans else {})


def _parse_filters(request: Request) -> dict[str, str]:
    """Returns the filters; raises `BadRequest` for an unknown name."""
    where: dict[str, str] = {}
    for name, value in request.query_params.items():
        if name in _PARAMETERS:
            continue
        if name not in DIMENSIONS:
            raise BadRequest(f"Unknown filter or parameter: '{name[:40]}'.", param=name[:40])
        where[name] = value
    return where


async def _tightest_agent_limit(admission: AdmissionController, caller: Caller) -> Json | None:
    try:
        found = (await current_limits(admission, caller)).limit_statuses
    except StoreUnavailable:
        return None  # usage is known without the limits store
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
