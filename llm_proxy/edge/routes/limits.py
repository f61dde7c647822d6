"""`GET /v1/limits` and `POST /v1/explain`: a caller's limit status, and what admission would decide.

Invariants: both run the code of a real call and count nothing; without a store, figures are null; what
several tenants use together is shown only to those who may see all of them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from llm_proxy.admission import (
    AdmissionController,
    Explanation,
    LimitStatus,
    current_limits,
    explain_call,
    reset_time,
)
from llm_proxy.dialects import Call
from llm_proxy.dialects.request.model_resolution import MAX_NAME_CHARS
from llm_proxy.errors import APIError, StoreUnavailable
from llm_proxy.identity import Admin, Caller, KeyRecord, KeyRepository, PolicyRepository
from llm_proxy.identity.admin_documents import policy_document
from llm_proxy.identity.caller import SHARED_SCOPES
from llm_proxy.identity.policies import policy_applies_to
from llm_proxy.identity.virtual_keys import caller_from_record, inactive_key_error
from llm_proxy.json_access import Json
from llm_proxy.money import usd_text

Key = Annotated[str | None, Query(description="A key, by id, name or prefix; takes an admin key.")]
CallerDependency = Callable[[Request], Awaitable[Caller]]
Model = Annotated[
    str | None,
    Query(max_length=MAX_NAME_CHARS, description="With what holds at this model group, by any name."),
]
KeyLookupDependency = Callable[[Request, str], Awaitable["LimitSubject"]]
ReadRequest = Callable[[Request, Caller | None], Awaitable[tuple[Caller, Call]]]


@dataclass(frozen=True, slots=True)
class LimitSubject:
    """Whose limits are looked at.

    Attributes:
        shows_shared: What several tenants use together may be told too.
        ended: Why the key's calls are refused, when it was revoked or has expired.
    """

    caller: Caller
    shows_shared: bool = False
    ended: APIError | None = None


def router(
    admission: AdmissionController,
    *,
    caller: CallerDependency,
    of_key: KeyLookupDependency,
    read: ReadRequest,
) -> APIRouter:
    """The two doors.

    Args:
        admission: Who decides.
        caller: The caller of a request without a body.
        of_key: For an operator the caller that the named key makes; refuses everybody else.
        read: Caller and call of a request, found as the door it is meant for would find them.
    """
    doors = APIRouter(
        tags=["limits"],
        responses={401: {"description": "No credential."}, 503: {"description": "A store is away."}},
    )

    async def whose(request: Request, key: Key = None) -> LimitSubject:
        return LimitSubject(await caller(request)) if key is None else await of_key(request, key)

    @doors.get("/v1/limits", summary="Where the caller, or a key, stands at every limit and budget.")
    async def limits(looked: Annotated[LimitSubject, Depends(whose)], model: Model = None) -> Json:
        found = await current_limits(admission, looked.caller, model)
        return {
            "caller": _caller(looked.caller),
            "state": found.state,
            "limits": [limit_status_row(one, of_all=looked.shows_shared) for one in found.limit_statuses],
        }

    @doors.post("/v1/explain", summary="What would become of a request; no model is called, nothing counted.")
    async def explained(request: Request, key: Key = None) -> Json:
        looked = await of_key(request, key) if key is not None else None
        if looked is not None and looked.ended is not None:
            return _verdict(looked.ended)
        try:
            who, call = await read(request, looked.caller if looked else None)
        except APIError as refused:
            if refused.status == 401:
                raise
            return _verdict(refused)
        found = await explain_call(admission, who, call)
        return _verdict(found.error, found, who, call, of_all=looked is not None and looked.shows_shared)

    return doors


def _verdict(
    refused: APIError | None,
    found: Explanation | None = None,
    who: Caller | None = None,
    call: Call | None = None,
    *,
    of_all: bool = False,
) -> Json:
    told: Json = {"verdict": "refused" if refused is not None else "admitted"}
    if refused is not None:
        told["refusal"] = {
            "status": refused.status,
            "refused_by": refused.origin,
            "retry_after_s": refused.retry_after_s,
            **refused.body()["error"],
        }
    if who is not None and call is not None:
        told |= {"caller": _caller(who), "model": call.model, "group": call.group, "door": call.endpoint}
    if found is not None:
        rows = [limit_status_row(one, of_all=of_all) for one in found.limit_statuses]
        told |= {"state": found.state, "limits": rows}
    return told


def _caller(who: Caller) -> Json:
    return {
        "key": who.key_prefix or who.key_id,
        "kind": who.kind,
        "tenant": who.tenant,
        "agent": who.agent,
        "user": who.user,
        "models": list(who.models) if who.models is not None else None,
    }


def limit_status_row(one: LimitStatus, *, of_all: bool) -> Json:
    """A standing as a document; what several tenants use together is told to operators of all alone."""
    check = one.check
    row: Json = {
        "kind": check.kind,
        "scope": check.scope,
        "subject": check.subject,
        "enforced": check.enforced,
    }
    if check.is_shared and not of_all:
        return row | {"wait_ms": one.wait_ms, "would_refuse": one.rejects}
    if check.kind == "budget":
        return row | _budget_row(one)
    return row | {
        "limit": check.limit,
        "used": one.used,
        "remaining": one.remaining,
        "wait_ms": one.wait_ms,
        "reset_ms": one.reset_ms,
        "would_refuse": one.rejects,
    }


def _budget_row(one: LimitStatus) -> Json:
    """A budget: its period, and what is spent, held, kept and left, as `_usd` or in its unit."""
    check = one.check
    figures = {
        "limit": check.limit,
        "used": one.used,
        "held": one.held,
        "kept": one.kept,
        "remaining": one.remaining if one.used is not None else None,
    }
    if check.unit == "usd":
        told: Json = {f"{name}_usd": usd_text(figure) for name, figure in figures.items()}
    else:
        told = {"unit": check.unit, **figures}
    ends = reset_time(check)
    return {
        "period": check.period,
        **told,
        "would_refuse": one.rejects,
        "resets_at": ends.isoformat() if ends else None,
        "zone": check.zone,
        "exhausted_at": _exhausted_at(one),
    }


def _exhausted_at(one: LimitStatus) -> str | None:
    """When a budget is used up if its period goes on as it began; None when that is not within it."""
    check, ends, now = one.check, reset_time(one.check), datetime.now(UTC)
    if not one.used or ends is None or check.period_start is None:
        return None
    if one.used >= check.limit:
        return now.astimezone(ends.tzinfo).isoformat(timespec="seconds")
    at = check.period_start + (now - check.period_start) * (check.limit / one.used)
    return at.astimezone(ends.tzinfo).isoformat(timespec="seconds") if at < ends else None


class KeyStatus:
    """Tells of keys."""

    def __init__(
        self, admission: AdmissionController, registry: KeyRepository | None, rulings: PolicyRepository | None
    ) -> None:
        self._admission = admission
        self._registry = registry
        self._rulings = rulings

    async def _record(self, name: str, tenant: str | None) -> KeyRecord:
        """A key by its id, name or prefix; with `tenant`, only one of that tenant's. Raises `NotFound`."""
        if self._registry is None:
            raise StoreUnavailable("Virtual keys need a database (DATABASE_URL).")
        return await self._registry.get(name, tenant=tenant)

    def key_dependency(self, admin: Callable[[Request], Awaitable[Admin]]) -> KeyLookupDependency:
        """How a request asks about a key: as an admin, of one tenant's keys or of all."""

        async def of_key(request: Request, name: str) -> LimitSubject:
            who = await admin(request)
            record = await self._record(name, who.tenant)
            return LimitSubject(
                caller_from_record(record), who.tenant is None, inactive_key_error(record, datetime.now(UTC))
            )

        return of_key

    async def document(self, record: KeyRecord, *, of_all: bool) -> Json:
        """Limits and rules of a key; limits are null while nobody can tell.

        `of_all` is off for who may not know what several tenants use together.
        """
        rules = await self._rulings.list_policies() if self._rulings is not None else []
        told = (rule for rule in rules if of_all or rule.scope not in SHARED_SCOPES)
        on_it = [
            policy_document(rule) for rule in told if policy_applies_to(rule, record.key_id, record.spec)
        ]
        try:
            found = await current_limits(self._admission, caller_from_record(record))
        except StoreUnavailable:
            return {"limits": None, "rules": on_it}
        return {
            "limits": [limit_status_row(one, of_all=of_all) for one in found.limit_statuses],
            "rules": on_it,
        }
