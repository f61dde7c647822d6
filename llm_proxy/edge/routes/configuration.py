"""`/admin/config`, `/admin/reload` and `/admin/settings`: the sidecars' file, a reload, the settings.

Invariants: who may do what is in `edge.auth`; a reload is requested from the launcher (`llm-proxy up`), which
checks the file first; where no launcher runs, the response says so and how sidecars are replaced there.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends

from llm_proxy.edge.auth import ActorDependency
from llm_proxy.edge.routes.admin_bodies import ADMIN_ERRORS
from llm_proxy.edge.routes.stored_data import AuditedChange, log_change
from llm_proxy.errors import NotFound
from llm_proxy.identity import Actor
from llm_proxy.json_access import Json
from llm_proxy.settings import Settings
from llm_proxy.shown_settings import shown_settings
from llm_proxy.telemetry.privacy import redact

ELSEWHERE = (
    "This gateway was not started by `llm-proxy up`. With compose, deploy/reload.sh checks the file and "
    "restarts the sidecars one after the other; on Kubernetes, roll out the sidecars."
)
ReadConfig = Callable[[], Awaitable[Json]]


class StatusOfReload(Protocol):
    """How a reload goes, or how it ended."""

    @property
    def began_ns(self) -> int:
        """When the configuration was read, on the machine's monotonic clock."""
        ...

    @property
    def done(self) -> bool | None:
        """Whether the new configuration serves; None while that is undecided."""
        ...

    @property
    def lines(self) -> tuple[str, ...]:
        """What the launcher printed so far."""
        ...


class ReloadControl(Protocol):
    """The launcher of the stack that this gateway belongs to."""

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        ...

    def request_reload(self) -> int | None:
        """Requests a reload; returns its earliest `began_ns`, or None when no launcher takes the request."""
        ...

    def reload_status(self) -> StatusOfReload | None:
        """Returns how the last reload goes or ended; None before the first."""
        ...


def router(
    read_config: ReadConfig,
    launcher: ReloadControl | None,
    settings: Settings,
    *,
    record: AuditedChange | None,
    require_actor: ActorDependency,
) -> APIRouter:
    """Returns the routes; `launcher` is None where the stack was started by other means."""
    routes = APIRouter(prefix="/admin", tags=["admin"], responses=ADMIN_ERRORS)

    @routes.get(
        "/config",
        summary="What `config check` finds in the sidecars' file, and whether they have loaded it as it is.",
        dependencies=[Depends(require_actor)],
    )
    async def config() -> Json:
        found = await read_config()
        findings = [one | {"message": redact(one["message"])} for one in found["findings"]]
        return found | {"findings": findings}

    @routes.get(
        "/settings",
        summary="The settings of this gateway's process; of secrets only whether they are set.",
        dependencies=[Depends(require_actor)],
    )
    async def settings_of_this_process() -> Json:
        return {"data": [asdict(one) for one in shown_settings(settings)]}

    @routes.get("/reload", summary="How the last reload went.", dependencies=[Depends(require_actor)])
    async def status() -> Json:
        return _status_document(launcher)

    @routes.post("/reload", status_code=202, summary="Apply a changed configuration without losing a call.")
    async def reload(who: Annotated[Actor, Depends(require_actor)]) -> Json:
        if launcher is None or not launcher.runs:
            raise NotFound(ELSEWHERE, code="no_launcher")
        async with (record or log_change)(who, "stack.reload", "sidecars") as detail:
            requested_ns = launcher.request_reload()
            detail["requested"] = requested_ns is not None
        if requested_ns is None:
            raise NotFound(ELSEWHERE, code="no_launcher")
        return {"requested_ns": requested_ns}

    return routes


def _status_document(launcher: ReloadControl | None) -> Json:
    available = launcher is not None and launcher.runs
    found = launcher.reload_status() if launcher is not None else None
    return {
        "available": available,
        "instructions": None if available else ELSEWHERE,
        "last": None
        if found is None
        else {
            "began_ns": found.began_ns,
            "done": found.done,
            "lines": [redact(line) for line in found.lines],
        },
    }
