"""`GET /v1/limits` and `POST /v1/explain`: a caller's limit status, and what admission would decide.

Invariants: both run the code of a real call and count nothing; without a store, figures are null; what
several tenants use together is shown only to those who may see all of them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from llm_proxy.admission import AdmissionController, LimitStatus, current_limits, reset_time
from llm_proxy.admission.controller import Explanation, explain_call
from llm_proxy.dialects import Call, wants_batch
from llm_proxy.dialects.request.model_resolution import MAX_NAME_CHARS
from llm_proxy.edge.routes.admin_bodies import require_repository
from llm_proxy.errors import APIError, StoreUnavailable, Unauthorized
from llm_proxy.identity import Admin, Caller, KeyRecord, KeyRepository, PolicyRepository, QueueShares
from llm_proxy.identity.admin_documents import policy_document
from llm_proxy.identity.caller import SHARED_SCOPES, Priority
from llm_proxy.identity.policies import policy_applies_to
from llm_proxy.json_access import Json
from llm_proxy.money import usd_text
from llm_proxy.quantities import shown_amount

KeyQuery = Annotated[str | None, Query(description="A key, by id, name or prefix; needs an admin key.")]
CallerDependency = Callable[[Request], Awaitable[Caller]]
ModelQuery = Annotated[
    str | None,
    Query(
        max_length=MAX_NAME_CHARS, description="A model by any name: adds the limits that hold for its group."
    ),
]
KeyLookupDependency = Callable[[Request, str], Awaitable["LimitSubject"]]
DescribeCall = Callable[[Call], Json]
ReadRequest = Callable[[Request, Caller | None], Awaitable[tuple[Caller, Call]]]


@dataclass(frozen=True, slots=True)
class LimitSubject:
    """Whose limits are requested.

    Attributes:
        shows_shared: Whether figures that several tenants share are shown.
        ended: Why the key's calls are rejected, if it was revoked or has expired.
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
    describe: DescribeCall,
    shares: QueueShares,
) -> APIRouter:
    """Returns `/v1/limits` and `/v1/explain`.

    `caller` returns the caller of a request, `of_key` the subject an admin names by key; `read` reads caller
    and call of a request, by the code of the inference endpoint; `describe` returns its guardrails
    and timeouts, `shares` its class and weights while calls wait for a slot.
    """
    routes = APIRouter(
        tags=["limits"],
        responses={401: {"description": "No credential."}, 503: {"description": "A store is unavailable."}},
    )

    async def subject_of(request: Request, key: KeyQuery = None) -> LimitSubject:
        return LimitSubject(await caller(request)) if key is None else await of_key(request, key)

    @routes.get("/v1/limits", summary="The status of every limit and budget of the caller, or of a key.")
    async def limits(subject: Annotated[LimitSubject, Depends(subject_of)], model: ModelQuery = None) -> Json:
        found = await current_limits(admission, subject.caller, model)
        rows = [limit_status_row(one, shows_shared=subject.shows_shared) for one in found.limit_statuses]
        return {"caller": _caller_document(subject.caller), "state": found.state, "limits": rows}

    @routes.post(
        "/v1/explain", summary="What would happen to a request; no model is called, nothing counted."
    )
    async def explained(request: Request, key: KeyQuery = None) -> Json:
        subject = await of_key(request, key) if key is not None else None
        if subject is not None and subject.ended is not None:
            return _explanation_document(subject.ended)
        try:
            who, call = await read(request, subject.caller if subject else None)
        except APIError as error:
            if error.status == 401:
                raise
            return _explanation_document(error)
        found = await explain_call(admission, who, call)
        shows_shared = subject is not None and subject.shows_shared
        document = _explanation_document(found.error, found, who, call, shows_shared=shows_shared)
        return document | describe(call) | {"queue": _queue_document(shares, who, call)}

    return routes


def _explanation_document(
    error: APIError | None,
    found: Explanation | None = None,
    caller: Caller | None = None,
    call: Call | None = None,
    *,
    shows_shared: bool = False,
) -> Json:
    document: Json = {"verdict": "refused" if error is not None else "admitted"}
    if error is not None:
        document["refusal"] = {
            "status": error.status,
            "refused_by": error.origin,
            "retry_after_s": error.retry_after_s,
            **error.body()["error"],
        }
    if caller is not None and call is not None:
        document |= {
            "caller": _caller_document(caller),
            "model": call.model,
            "group": call.group,
            "door": call.endpoint,
        }
    if found is not None:
        rows = [limit_status_row(one, shows_shared=shows_shared) for one in found.limit_statuses]
        document |= {"state": found.state, "limits": rows}
    return document


def _queue_document(shares: QueueShares, caller: Caller, call: Call) -> Json:
    """Returns the class and the weights that a call would have while calls wait for a slot."""
    share = shares.share_of(caller, wants_batch=wants_batch(call))
    priority: Priority = "batch" if share.is_batch else "interactive"
    return {"priority": priority, "tenant_weight": share.tenant_weight, "key_weight": share.key_weight}


def _caller_document(caller: Caller) -> Json:
    return {
        "key": caller.key_prefix or caller.key_id,
        "kind": caller.kind,
        "tenant": caller.tenant,
        "agent": caller.agent,
        "user": caller.user,
        "run": caller.run_id,
        "models": list(caller.models) if caller.models is not None else None,
    }


def limit_status_row(status: LimitStatus, *, shows_shared: bool) -> Json:
    """Returns a limit's status as JSON; figures that tenants share only with `shows_shared`."""
    check = status.check
    row: Json = {
        "kind": check.kind,
        "scope": check.scope,
        "subject": check.subject,
        "enforced": check.enforced,
    }
    if check.is_shared and not shows_shared:
        return row | {"wait_ms": status.wait_ms, "would_refuse": status.rejects}
    if check.kind == "budget":
        return row | _budget_row(status)
    if check.kind == "duration":
        figures = {"limit": check.limit, "used": status.used or 0, "remaining": status.remaining}
        shown = {name: shown_amount(figure, "seconds") for name, figure in figures.items()}
        return row | {"unit": "seconds", **shown, "would_refuse": status.rejects}
    return row | {
        "limit": check.limit,
        "used": status.used,
        "remaining": status.remaining,
        "wait_ms": status.wait_ms,
        "reset_ms": status.reset_ms,
        "would_refuse": status.rejects,
    }


def _budget_row(status: LimitStatus) -> Json:
    """Returns a budget's period and figures, as `_usd` or in its unit."""
    check = status.check
    figures = {
        "limit": check.limit,
        "used": status.used,
        "held": status.held,
        "kept": status.kept,
        "remaining": status.remaining if status.used is not None else None,
    }
    if check.unit == "usd":
        amounts: Json = {f"{name}_usd": usd_text(figure) for name, figure in figures.items()}
    else:
        amounts = {"unit": check.unit} | {
            name: None if figure is None else shown_amount(figure, check.unit)
            for name, figure in figures.items()
        }
    ends = reset_time(check)
    return {
        "period": check.period,
        **amounts,
        "would_refuse": status.rejects,
        "resets_at": ends.isoformat() if ends else None,
        "zone": check.zone,
        "exhausted_at": _exhausted_at(status),
    }


def _exhausted_at(status: LimitStatus) -> str | None:
    """Extrapolates when a budget is used up; None if not within its period."""
    check, ends, now = status.check, reset_time(status.check), datetime.now(UTC)
    if not status.used or ends is None or check.period_start is None:
        return None
    if status.used >= check.limit:
        return now.astimezone(ends.tzinfo).isoformat(timespec="seconds")
    share_of_period = (now - check.period_start) / (ends - check.period_start)
    if share_of_period * check.limit >= status.used:
        return None
    at = check.period_start + (now - check.period_start) * (check.limit / status.used)
    return at.astimezone(ends.tzinfo).isoformat(timespec="seconds")


class KeyStatus:
    """Limits and policies of a virtual key, for operators."""

    def __init__(
        self, admission: AdmissionController, keys: KeyRepository | None, policies: PolicyRepository | None
    ) -> None:
        self._admission = admission
        self._keys = keys
        self._policies = policies

    def key_dependency(self, admin: Callable[[Request], Awaitable[Admin]]) -> KeyLookupDependency:
        """Returns the dependency that finds the key an admin names, within the admin's tenant."""

        async def of_key(request: Request, name: str) -> LimitSubject:
            who = await admin(request)
            keys = require_repository(self._keys)
            caller, ended = await keys.caller_of(await keys.get(name, tenant=who.tenant))
            return LimitSubject(caller, who.tenant is None, Unauthorized(ended) if ended else None)

        return of_key

    async def document(self, record: KeyRecord, *, shows_shared: bool) -> Json:
        """Returns limits and policies of a key; limits are null while the store is unavailable.

        `shows_shared` adds figures and policies that several tenants share.
        """
        policies = await self._policies.list_policies() if self._policies is not None else []
        rules = [
            policy_document(policy)
            for policy in policies
            if (shows_shared or policy.scope not in SHARED_SCOPES)
            and (policy_applies_to(policy, record.key_id, record.spec) or policy.key_id in record.ancestors)
        ]
        try:
            caller, _ = await require_repository(self._keys).caller_of(record)
            found = await current_limits(self._admission, caller)
        except StoreUnavailable:
            return {"limits": None, "rules": rules}
        rows = [limit_status_row(one, shows_shared=shows_shared) for one in found.limit_statuses]
        return {"limits": rows, "rules": rules}
