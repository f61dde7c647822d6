"""`/admin/audit` and `/admin/refused-credentials`; rejected admin actions are put into the audit log.

Invariants: the routes are read only; a filter on an unknown name is 404. Rejected actions are recorded for a
known admin key only, at most `PER_MINUTE` and `PER_HOUR` per key and worker; the next entry says how many
were left out; recording never changes the response.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request

from llm_proxy.edge.auth import ActorDependency, AuthDependencies, route_access
from llm_proxy.errors import APIError, BadRequest, StoreUnavailable
from llm_proxy.identity import Actor, AuditFilter, AuditLog, AuthFailureLog, Person
from llm_proxy.identity.admin_documents import MAX_NUMBER
from llm_proxy.json_access import Json
from llm_proxy.ledger.usage_query import parse_time
from llm_proxy.telemetry.privacy import redact

log = logging.getLogger(__name__)

Text = Annotated[str | None, Query(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
Action = Annotated[Text, Query(description="`keys.change`, or `keys.*` for all with this prefix.")]
Subject = Annotated[Text, Query(description="A key's id, name or prefix; a tenant, agent, user or model.")]
Moment = Annotated[Text, Query(description="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")]
BeforeQuery = Annotated[Text, Query(description="The last `at` of the page before.")]
LimitQuery = Annotated[int, Query(ge=1, le=1000)]


def router(
    audit_log: AuditLog | None,
    failures: AuthFailureLog | None,
    *,
    require_actor: ActorDependency,
) -> APIRouter:
    """Returns `/admin/audit` and `/admin/refused-credentials`; each is 503 without a database."""
    routes = APIRouter(
        prefix="/admin",
        tags=["admin"],
        dependencies=[Depends(require_actor)],
        responses={
            400: {"description": "A filter is wrong; `param` names it."},
            401: {"description": "No admin key."},
            503: {"description": "The database is unavailable."},
        },
    )

    @routes.get(
        "/audit",
        summary="Admin actions, rejected ones too, newest first.",
        responses={404: {"description": "No entry has this action, actor or subject."}},
    )
    async def audit(
        *,
        action: Action = None,
        actor: Text = None,
        subject: Subject = None,
        since: Moment = None,
        until: Moment = None,
        limit: LimitQuery = 100,
        before: Annotated[int | None, Query(ge=0, le=MAX_NUMBER)] = None,
    ) -> Json:
        if audit_log is None:
            raise _no_database()
        times = (parse_time_filter("since", since), parse_time_filter("until", until))
        filters = AuditFilter(action, actor, subject, *times)
        found = await audit_log.list_entries(filters, limit=limit, before=before)
        return {"data": found, "has_more": len(found) == limit}

    @routes.get(
        "/refused-credentials",
        summary="Rejected credentials: count, address and path; newest first.",
    )
    async def refused_credentials(limit: LimitQuery = 100, before: BeforeQuery = None) -> Json:
        if failures is None:
            raise _no_database()
        return {"data": await failures.list_counts(limit=limit, before=parse_time_filter("before", before))}

    return routes


def parse_time_filter(field: str, text: str | None) -> datetime | None:
    """Returns the time a filter states, None without one; raises `BadRequest` for anything else."""
    try:
        return parse_time(text, datetime.now(UTC)) if text else None
    except (BadRequest, OverflowError) as error:
        raise BadRequest(f"'{field}' is not a time; write 2026-11-01, or 24h, or 7d.", param=field) from error


def _no_database() -> StoreUnavailable:
    return StoreUnavailable("The audit log needs a database (DATABASE_URL).")


BODY_SCOPE_KEY = "llm_proxy.body"
"""Key of the JSON body in a request's ASGI scope, for the subject of a rejected action."""
PER_MINUTE, PER_HOUR = 20, 100
_SUBJECT_FIELDS = ("scope", "kind", "name", "role", "tenant", "subject", "model")
_PUBLIC_SCOPES = frozenset({"key", "agent", "tenant", "tenant_group", "provider"})
"""Policy scopes whose subject is not a person."""
_KEY_PREFIX = re.compile(r"sk-llm[a-z]{1,8}-[0-9A-Za-z]{12}(?![0-9A-Za-z])")
_MAX_LENGTH = 256

AuditDetail = dict[str, Any]
RecordRejectedAction = Callable[[Actor, str, str, APIError, AuditDetail], Awaitable[None]]


class EntryAllowance:
    """Counts the entries of one admin key in the current minute and hour.

    Attributes:
        left_out: Rejected actions without an entry since the last entry.
    """

    __slots__ = ("_hour", "_in_hour", "_in_minute", "_minute", "left_out")

    def __init__(self) -> None:
        self._minute = self._hour = self._in_minute = self._in_hour = 0
        self.left_out = 0

    def try_take(self, now_s: float) -> bool:
        """Returns whether one more entry is allowed; counts it, or the action as left out. Unit: seconds."""
        minute, hour = int(now_s // 60), int(now_s // 3600)
        if minute != self._minute:
            self._minute, self._in_minute = minute, 0
        if hour != self._hour:
            self._hour, self._in_hour = hour, 0
        if self._in_minute >= PER_MINUTE or self._in_hour >= PER_HOUR:
            self.left_out += 1
            return False
        self._in_minute += 1
        self._in_hour += 1
        return True


class RejectedActionLog:
    """Records rejected requests to routes that have an action (`RouteAccess.action`)."""

    def __init__(
        self,
        record: RecordRejectedAction | None,
        auth: AuthDependencies,
    ) -> None:
        self._record = record
        self._auth = auth
        self._allowances: dict[str, EntryAllowance] = {}

    async def record(self, request: Request, error: APIError) -> None:
        """Records the rejection of a request; never raises."""
        access = route_access(request)
        if self._record is None or access is None or access.action is None:
            return
        try:
            admin = await self._auth.find_admin(request)
            if admin is None:
                return
            allowance = self._allowances.setdefault(admin.name, EntryAllowance())
            if not allowance.try_take(time.time()):
                if allowance.left_out == 1:
                    log.warning("too many admin actions are rejected: the audit log leaves some out")
                return
            target, detail = _target(request, access.action)
            if allowance.left_out:
                detail["left_out_before"], allowance.left_out = allowance.left_out, 0
            await self._record(self._auth.actor_of(admin, request), access.action, target, error, detail)
        except APIError as fault:
            if fault.status != 401:
                log.warning("a rejected admin action cannot be recorded", extra={"cause": fault.message})


def _target(request: Request, action: str) -> tuple[str, AuditDetail]:
    """Returns the action's target (values of path, query and body) and the people among them."""
    values = [str(value)[:_MAX_LENGTH] for value in request.scope.get("path_params", {}).values()]
    fields = dict(request.query_params) | _body_fields(request)
    people: AuditDetail = {}
    if action.startswith("admin_keys."):
        by_name = [one for one in values if not one.startswith(("adm_", "sk-"))]
        values = [one for one in values if one not in by_name]
        name = fields.pop("name", None) or "".join(by_name)
        people |= {"name": Person(name[:_MAX_LENGTH], kind="admin")} if name else {}
    elif fields.get("subject") and "kind" not in fields and fields.get("scope") not in _PUBLIC_SCOPES:
        subject = fields.pop("subject")[:_MAX_LENGTH]
        people["subject"] = Person(subject, fields.get("tenant", "")[:_MAX_LENGTH] or None)
    words = [
        *map(_redacted, values),
        *(f"{name}={_redacted(fields[name])}" for name in _SUBJECT_FIELDS if fields.get(name)),
    ]
    return " ".join(words)[:_MAX_LENGTH], people


def _redacted(word: str) -> str:
    """Returns the word redacted; of a virtual key only its public prefix."""
    prefix = _KEY_PREFIX.match(word)
    return prefix[0] if prefix else redact(word)


def _body_fields(request: Request) -> dict[str, str]:
    body: object = request.scope.get(BODY_SCOPE_KEY)
    fields = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    return {name: fields[name] for name in _SUBJECT_FIELDS if isinstance(fields.get(name), str)}
