"""`/health`, `/health/live`, `/health/ready` and `/metrics`.

Invariants: no model call and no store call (states are what the components already know); `down` means that
no request can be served, `degraded` that requests are served; details of `/health` are shown with a key only;
no address and no secret is shown; any worker serves the metrics of all.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse, Response

from llm_proxy import background
from llm_proxy.admission import AdmissionController
from llm_proxy.edge.auth import AuthDependencies
from llm_proxy.identity.restore_gate import RestoreGate
from llm_proxy.json_access import Json
from llm_proxy.ledger import Ledger
from llm_proxy.ledger.restore_watch import ACKNOWLEDGE
from llm_proxy.running_calls import RunningCalls
from llm_proxy.telemetry import Metrics
from llm_proxy.telemetry.metrics import CONTENT_TYPE
from llm_proxy.upstream import SidecarClient


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """The state of one component.

    Attributes:
        name: `sidecars`, `limits`, `database`, ...
        state: `ok`, `degraded` (requests are served all the same) or `down` (they are not).
        detail: A few words, without addresses and secrets.
    """

    name: str
    state: str
    detail: str = ""


ReadHealth = Callable[[], list[ComponentHealth]]


class HealthReport:
    """The bodies of the health routes; remembers since when each component has been in its state."""

    def __init__(self, read_health: ReadHealth, version: str, mode: str) -> None:
        self._read_health = read_health
        self._version = version
        self._mode = mode
        self._states: dict[str, tuple[str, float]] = {}

    def observe(self) -> None:
        """Notes the state of each component; called once a second, so that `since_s` is exact to a second."""
        components = self._read_health()
        for component in components:
            self._since_s(component)
        present = {one.name for one in components}
        self._states = {name: state for name, state in self._states.items() if name in present}

    def report(self) -> tuple[bool, Json]:
        """Returns whether requests can be served, and the body of `/health/ready`."""
        components = self._read_health()
        down = any(component.state == "down" for component in components)
        degraded = [component for component in components if component.state != "ok"]
        status = "not_ready" if down else "degraded" if degraded else "ready"
        return not down, {"status": status, "parts": [self._document(one) for one in degraded]}

    def components(self) -> list[Json]:
        """Returns the state of every component."""
        return [self._document(one) for one in self._read_health()]

    def _document(self, component: ComponentHealth) -> Json:
        return {
            "part": component.name,
            "state": component.state,
            "detail": component.detail,
            "since_s": self._since_s(component),
        }

    def _since_s(self, component: ComponentHealth) -> float:
        now = time.monotonic()
        state, since = self._states.get(component.name, ("", now))
        if state != component.state:
            since = now
            self._states[component.name] = (component.state, now)
        return round(now - since, 1)

    def summary(self, *, known: bool) -> tuple[bool, Json]:
        """Returns whether requests can be served, and the body of `/health`; `known` adds the details."""
        serving, body = self.report()
        words = {"ready": "healthy", "degraded": "degraded", "not_ready": "unhealthy"}
        shown: Json = {"status": words[body["status"]]}
        if known:
            shown |= {"version": self._version, "mode": self._mode, "parts": self.components()}
        return serving, shown


def router(health: HealthReport, auth: AuthDependencies) -> APIRouter:
    """Returns the health routes, and LiteLLM's names of them."""
    routes = APIRouter()

    @routes.get("/health/live", summary="The process runs.", tags=["health"])
    @routes.get("/health/liveness", include_in_schema=False)
    @routes.get("/health/liveliness", include_in_schema=False)
    async def live() -> Response:
        return Response(b'{"status":"alive"}', media_type="application/json")

    @routes.get("/api/hello", include_in_schema=False)  # Claude Code asks, before its first call
    async def hello() -> Response:
        return Response(b"{}", media_type="application/json")

    @routes.get(
        "/health/ready",
        summary="Requests can be served.",
        tags=["health"],
        responses={503: {"description": "They cannot."}},
    )
    @routes.get("/health/readiness", include_in_schema=False)
    async def ready() -> Response:
        serving, body = health.report()
        return Response(orjson.dumps(body), 200 if serving else 503, media_type="application/json")

    @routes.get(
        "/health",
        summary="The same for people; detail with a key.",
        tags=["health"],
        responses={503: {"description": "Unhealthy."}},
    )
    async def overview(request: Request) -> Response:
        serving, body = health.summary(known=await auth.is_operator(request))
        return Response(orjson.dumps(body), 200 if serving else 503, media_type="application/json")

    return routes


class HealthChecks:
    """Reads the health of every component from what the components already know."""

    def __init__(
        self,
        client: SidecarClient | None,
        admission: AdmissionController,
        ledger: Ledger,
        calls: RunningCalls,
        *,
        spools: bool,
        gate: RestoreGate | None = None,
    ) -> None:
        """`client` is None in mock mode; `spools` is False when records wait in memory.

        While `gate` is closed nothing is served.
        """
        self._gate = gate or RestoreGate()
        self._client = client
        self._admission = admission
        self._ledger = ledger
        self._spools = spools
        self._calls = calls

    def __call__(self) -> list[ComponentHealth]:
        """Returns the health of every component."""
        draining = self._calls.draining
        found = [ComponentHealth("gateway", "down" if draining else "ok", "draining" if draining else "")]
        if self._gate.reason is not None:
            found.append(ComponentHealth("restored", "down", f"{ACKNOWLEDGE}: {self._gate.reason}"))
        if self._client is not None:
            found.append(self._sidecars(self._client))
        limits, ledger = self._admission.state(), self._ledger.state()
        without_store = "down" if limits.denies_all else "degraded"
        state = without_store if limits.store == "away" else "ok"
        why = f"{limits.store}: {limits.fault}" if limits.fault else limits.store
        found.append(ComponentHealth("limits", state, why))
        database = {"up": "ok", "off": "ok", "outdated": "down"}.get(ledger.postgres, "degraded")
        detail = f"{ledger.postgres}: {ledger.why}" if ledger.why else ledger.postgres
        detail += f"; {ledger.work}" if ledger.work else ""
        found.append(ComponentHealth("database", database, detail))
        if failing := background.failing_loops():
            found.append(ComponentHealth("background", "degraded", f"failing: {', '.join(failing)}"))
        if not self._spools:
            found.append(ComponentHealth("spool", "degraded", "records wait in memory"))
        return found

    @staticmethod
    def _sidecars(client: SidecarClient) -> ComponentHealth:
        """No sidecar counts as live before one has sent its catalog."""
        sidecars = client.pool.sidecars
        live = sum(one.is_live and one.successes > 0 for one in sidecars) if client.catalog_settled else 0
        state = "down" if live == 0 else "degraded" if live < len(sidecars) else "ok"
        return ComponentHealth("sidecars", state, f"{live} of {len(sidecars)} live")


def metrics_router(counted: Metrics, auth: AuthDependencies) -> APIRouter:
    """Returns `/metrics`, for admins; `counted` holds this worker's metrics."""
    routes = APIRouter(tags=["operation"], responses={401: {"description": "No admin key."}})

    @routes.get(
        "/metrics", summary="Metrics of all workers, for Prometheus.", response_class=PlainTextResponse
    )
    async def metrics(_: Annotated[object, Depends(auth.require_admin)]) -> Response:
        counted.collect()
        return Response(await asyncio.to_thread(counted.render), headers={"content-type": CONTENT_TYPE})

    return routes
