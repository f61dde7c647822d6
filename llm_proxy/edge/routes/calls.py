"""`/admin/calls`, `/v1/calls`: lists the running calls of all processes, and stops one.

Invariants: a key sees and stops its own calls and its child keys', a tenant's admin its tenant's, another's
is unknown; a stop is in the audit log before it is made; what is not known (no store, a silent
process) is in a note.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from llm_proxy.call_board import CallBoard, CallList
from llm_proxy.edge.auth import ActorDependency
from llm_proxy.edge.routes.audit import Text
from llm_proxy.edge.routes.stored_data import AuditedChange, log_change
from llm_proxy.errors import NotFound
from llm_proxy.identity import Actor, Caller
from llm_proxy.json_access import Json
from llm_proxy.ledger.key_families import is_in_family

KeyNames = Callable[[Iterable[str]], Awaitable[Mapping[str, str]]]
_INSIDES = frozenset({"sidecar", "deployment", "worker"})
CallerDependency = Callable[[Request], Awaitable[Caller]]
CallFilters = list[tuple[tuple[str, ...], str]]
_NOT_RUNNING = "No running call has this id; it may have ended."
_NOTES = {
    "none": "Without a limits store, the list has only the calls of the process that answered.",
    "away": "The limits store is unavailable: the list has only the calls of the process that answered.",
}


def call_filters(
    tenant: Text = None,
    key: Annotated[Text, Query(description="A key's name, id or prefix.")] = None,
    agent: Text = None,
    user: Text = None,
    session: Text = None,
    run: Text = None,
    model: Text = None,
) -> CallFilters:
    """Returns the filters of a request: the fields of which one must have the value, and that value."""
    filters = (
        (("tenant",), tenant), (("agent",), agent), (("user",), user), (("session",), session),
        (("run",), run), (("model", "model_group"), model), (("key_name", "key_id", "key_prefix"), key),
    )  # fmt: skip
    return [(names, value) for names, value in filters if value is not None]


def router(
    board: CallBoard,
    key_names: KeyNames,
    *,
    record: AuditedChange | None,
    require_actor: ActorDependency,
) -> APIRouter:
    """Returns the routes.

    Args:
        board: The running calls of the deployment.
        key_names: Returns the names of keys by their ids, without those it does not know.
        record: Puts a stop into the audit log; None without a database: it is only logged.
        require_actor: Dependency that returns the admin, or raises.
    """
    routes = APIRouter(
        prefix="/admin/calls",
        tags=["admin"],
        responses={401: {"description": "No admin key."}, 403: {"description": "This role may not."}},
    )

    @routes.get(
        "", summary="The calls that run now, the oldest first: whose, at which model, how much so far."
    )
    async def running(
        who: Annotated[Actor, Depends(require_actor)],
        filters: Annotated[CallFilters, Depends(call_filters)],
        limit: Annotated[int, Query(ge=1, le=5000)] = 200,
    ) -> Json:
        listed = await board.list_calls(who.tenant)
        key_name_of = await key_names({one["key_id"] for one in listed.calls if one["key_id"]})
        calls = [_shown(one, key_name_of, who) for one in listed.calls]
        found = [
            one for one in calls if all(value in {one[name] for name in names} for names, value in filters)
        ]
        return {"data": found[:limit], "has_more": len(found) > limit, **_completeness(listed)}

    @routes.delete(
        "/{request_id}",
        summary="Stop a running call, wherever it runs.",
        responses={404: {"description": "No such call runs (any more), or it is another tenant's."}},
    )
    async def stop(request_id: UUID, who: Annotated[Actor, Depends(require_actor)]) -> Json:
        stopped = await _stop(board, request_id, who, record or log_change, is_own=None)
        names = await key_names([stopped["key_id"]] if stopped["key_id"] else [])
        return {"stopped": True, "call": _shown(stopped, names, who)}

    return routes


def callers_router(
    board: CallBoard,
    key_names: KeyNames,
    require_caller: CallerDependency,
    *,
    record: AuditedChange | None,
) -> APIRouter:
    """Returns the routes by which callers see and stop their own running calls; arguments as of `router`."""
    routes = APIRouter(prefix="/v1/calls", tags=["usage"], responses={401: {"description": "No credential."}})

    @routes.get("", summary="The calls of the key and its child keys that run now, the oldest first.")
    async def own(
        caller: Annotated[Caller, Depends(require_caller)],
        limit: Annotated[int, Query(ge=1, le=5000)] = 200,
    ) -> Json:
        listed = await board.list_calls()
        found = [one for one in listed.calls if _is_of(caller, one)]
        names = await key_names({one["key_id"] for one in found[:limit]})
        calls = [_without_insides(one | {"key_name": names.get(one["key_id"])}) for one in found[:limit]]
        return {"data": calls, "has_more": len(found) > limit, **_completeness(listed)}

    @routes.delete(
        "/{request_id}",
        summary="Stop a running call of the key or of a child key, wherever it runs.",
        responses={404: {"description": "No such call runs (any more), or it is another key's."}},
    )
    async def stop(request_id: UUID, caller: Annotated[Caller, Depends(require_caller)]) -> Json:
        who = Actor.of_caller(caller)
        stopped = await _stop(board, request_id, who, record or log_change, partial(_is_of, caller))
        names = await key_names([stopped["key_id"]])
        return {
            "stopped": True,
            "call": _without_insides(stopped | {"key_name": names.get(stopped["key_id"])}),
        }

    return routes


def _is_of(caller: Caller, call: Json) -> bool:
    """Whether a call is one of the key or of a key below it."""
    return is_in_family(caller.key_id, call["key_id"], call.get("key_ancestors"))


_AUDITED = (
    "key_id", "key_prefix", "tenant", "agent", "model", "model_group", "endpoint", "state", "age_s",
    "estimated_completion_tokens",
)  # fmt: skip


async def _stop(
    board: CallBoard,
    request_id: UUID,
    who: Actor,
    record: AuditedChange,
    is_own: Callable[[Json], bool] | None,
) -> Json:
    """Stops a call, on record; returns it as it ran; raises `NotFound`.

    Args:
        board: The running calls.
        request_id: The call.
        who: Who stops it.
        record: Puts it into the audit log.
        is_own: Whether a listed call may be stopped; None: any of the actor's tenant, listed or not.
    """
    listed = await board.list_calls(who.tenant)
    known = any(
        one["request_id"] == str(request_id) and (is_own is None or is_own(one)) for one in listed.calls
    )
    if not known and (is_own is not None or listed.is_complete):
        raise NotFound(_not_stopped(listed), code="call_not_running")
    async with record(who, "calls.stop", str(request_id)) as detail:
        stopped = await board.stop_call(request_id, who.tenant)
        if stopped is None:
            raise NotFound(_not_stopped(listed), code="call_not_running")
        detail |= {name: stopped[name] for name in _AUDITED if stopped[name] is not None}
    return stopped


def _not_stopped(listed: CallList) -> str:
    if listed.store != "up":
        return f"{_NOT_RUNNING} {_NOTES[listed.store]}"
    if listed.silent:
        return f"{_NOT_RUNNING} {listed.silent} of {listed.workers} processes did not answer."
    return _NOT_RUNNING


def _shown(call: Json, names: Mapping[str, str], who: Actor) -> Json:
    """Returns a call as an admin may see it: a tenant's sees none of the deployment's processes."""
    shown = call | {"key_name": names.get(call["key_id"] or "")}
    return shown if who.tenant is None else _without_insides(shown)


def _without_insides(call: Json) -> Json:
    """Returns a call without the deployment's processes."""
    return {name: value for name, value in call.items() if name not in _INSIDES}


def _completeness(listed: CallList) -> dict[str, Any]:
    notes = [_NOTES[listed.store]] if listed.store in _NOTES else []
    if listed.silent:
        notes.append(f"{listed.silent} of {listed.workers} processes did not answer in time.")
    if listed.unlisted:
        notes.append(f"{listed.unlisted} younger calls are not listed.")
    return {
        "complete": listed.is_complete,
        "store": listed.store,
        "workers": listed.workers,
        "silent_workers": listed.silent,
        "note": " ".join(notes) or None,
    }
