"""`GET /admin/audit` and `GET /admin/refused-credentials`: admin actions, and credentials that were refused.

Invariants: read only; a filter on a name that nothing knows is a 404, never an empty page.
"""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from llm_proxy.edge.auth import By
from llm_proxy.errors import BadRequest, StoreUnavailable
from llm_proxy.identity import AuditFilter, AuditLog, RefusedCredentials
from llm_proxy.identity.spoken import MOST
from llm_proxy.json_access import Json
from llm_proxy.ledger.question import moment

Text = Annotated[str | None, Query(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
Action = Annotated[Text, Query(description="`keys.change`, or `keys.*` for all that begin so.")]
Subject = Annotated[Text, Query(description="A key's id, name or prefix; a tenant, agent, user or model.")]
Moment = Annotated[Text, Query(description="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")]
Before = Annotated[Text, Query(description="The last `at` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def router(
    audit_log: AuditLog | None,
    refused: RefusedCredentials | None,
    *,
    by: By,
) -> APIRouter:
    """Both routes; without a database each is 503."""
    routes = APIRouter(
        prefix="/admin",
        tags=["admin"],
        dependencies=[Depends(by)],
        responses={
            400: {"description": "A filter is wrong; `param` names it."},
            401: {"description": "No admin key."},
            503: {"description": "The database is away."},
        },
    )

    @routes.get(
        "/audit",
        summary="What admins did and were refused, newest first.",
        responses={404: {"description": "No entry has this action, actor or subject."}},
    )
    async def audit(
        *,
        action: Action = None,
        actor: Text = None,
        subject: Subject = None,
        since: Moment = None,
        until: Moment = None,
        limit: Limit = 100,
        before: Annotated[int | None, Query(ge=0, le=MOST)] = None,
    ) -> Json:
        if audit_log is None:
            raise _no_database()
        times = (asked_moment("since", since), asked_moment("until", until))
        wanted = AuditFilter(action, actor, subject, *times)
        found = await audit_log.page(wanted, limit=limit, before=before)
        return {"data": found, "has_more": len(found) == limit}

    @routes.get(
        "/refused-credentials",
        summary="Refused credentials: how often, from where, at which path; newest first.",
    )
    async def refused_credentials(limit: Limit = 100, before: Before = None) -> Json:
        if refused is None:
            raise _no_database()
        return {"data": await refused.page(limit=limit, before=asked_moment("before", before))}

    return routes


def asked_moment(field: str, text: str | None) -> datetime | None:
    """The time that a filter states; raises `BadRequest`."""
    try:
        return moment(text, datetime.now(UTC)) if text else None
    except (BadRequest, OverflowError) as error:
        raise BadRequest(f"'{field}' is not a time; write 2026-11-01, or 24h, or 7d.", param=field) from error


def _no_database() -> StoreUnavailable:
    return StoreUnavailable("The audit log needs a database (DATABASE_URL).")
