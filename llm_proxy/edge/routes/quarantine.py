"""`GET /admin/runs/quarantined`, `POST /admin/runs/release`: the runs that the loop guard has stopped.

Invariants: a tenant's admin sees and releases its tenant's runs alone, another's is unknown; a release is in
the audit log before it is made; while the limits store is unavailable both are 503.
"""

from typing import Annotated

from fastapi import APIRouter, Depends

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.run_guard import RunGuard
from llm_proxy.admission.turns import RunName
from llm_proxy.edge.auth import ActorDependency
from llm_proxy.edge.routes.admin_bodies import AdminBody, ExactRoute
from llm_proxy.edge.routes.calls import KeyNames
from llm_proxy.edge.routes.stored_data import AuditedChange, log_change
from llm_proxy.errors import BadRequest, NotFound, StoreUnavailable
from llm_proxy.identity import Actor
from llm_proxy.json_access import Json


class ReleaseRun(AdminBody):
    """A run to release: its name, and the key and tenant that named it where several runs have the name."""

    run: str
    key: str | None = None
    tenant: str | None = None


def router(
    guard: RunGuard, key_names: KeyNames, *, record: AuditedChange | None, require_actor: ActorDependency
) -> APIRouter:
    """Returns the routes.

    Args:
        guard: The loop guard.
        key_names: Returns the names of keys by their ids, without those it does not know.
        record: Puts a release into the audit log; None without a database: it is only logged.
        require_actor: Dependency that returns the admin, or raises.
    """
    routes = APIRouter(
        prefix="/admin/runs",
        tags=["admin"],
        route_class=ExactRoute,
        responses={401: {"description": "No admin key."}, 503: {"description": "No limits store."}},
    )

    async def listed(who: Actor) -> list[Json]:
        try:
            found = await guard.quarantined()
        except LimiterUnavailable:
            raise _away() from None
        found = [one for one in found if who.tenant is None or one["tenant"] == who.tenant]
        names = await key_names({one["key"] for one in found})
        return [one | {"key_name": names.get(one["key"])} for one in found]

    @routes.get(
        "/quarantined", summary="The runs that the loop guard has stopped, the latest first, and why."
    )
    async def quarantined(who: Annotated[Actor, Depends(require_actor)]) -> Json:
        return {"data": await listed(who)}

    @routes.post(
        "/release",
        summary="Let a stopped run go on.",
        responses={404: {"description": "No such run is stopped, or it is another tenant's."}},
    )
    async def release(body: ReleaseRun, who: Annotated[Actor, Depends(require_actor)]) -> Json:
        one = _chosen(await listed(who), body)
        async with (record or log_change)(who, "runs.release", f"run {one['run']}") as detail:
            try:
                await guard.release(RunName(one["tenant"], one["key"], one["run"]))
            except LimiterUnavailable:
                raise _away() from None
            detail |= {name: one[name] for name in ("key", "tenant", "signal", "times", "tool", "since")}
        return {"released": True, "run": one}

    return routes


def _chosen(found: list[Json], body: ReleaseRun) -> Json:
    """Returns the one run that a body names; raises `NotFound`, or `BadRequest` for more than one."""
    matching = [
        one
        for one in found
        if one["run"] == body.run
        and (body.key is None or body.key in {one["key"], one["key_name"]})
        and (body.tenant is None or body.tenant == one["tenant"])
    ]
    if not matching:
        raise NotFound(
            "No run of this name is in quarantine; it may have ended.",
            param="run",
            code="run_not_quarantined",
        )
    if len(matching) > 1:
        raise BadRequest("Several runs have this name: name the key, or the tenant.", param="key")
    return matching[0]


def _away() -> StoreUnavailable:
    return StoreUnavailable("The limits store does not answer; please try again.", retry_after_s=1)
