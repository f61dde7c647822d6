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
from llm_proxy.json_access import Json
from llm_proxy.ledger import Ledger
from llm_proxy.telemetry import Metrics
from llm_proxy.telemetry.metrics import CONTENT_TYPE
from llm_proxy.upstream import SidecarClient


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """How one part of the gateway is.

    Attributes:
        name: `sidecars`, `limits`, `database`, ...
        state: `ok`, `degraded` (requests are served all the same) or `down` (they are not).
        detail: One sentence, no address, no secret.
    """

    name: str
    state: str
    detail: str = ""


ReadHealth = Callable[[], list[ComponentHealth]]


class HealthReport:
    """Remembers since when each part has been as it is."""

    def __init__(self, parts: ReadHealth, version: str, mode: str) -> None:
        self._parts = parts
        self._version = version
        self._mode = mode
        self._since: dict[str, tuple[str, float]] = {}

    def observe(self) -> None:
        """Note each part's state; called once a second, so that a change is known when it happens."""
        for part in self._parts():
            self._age(part)

    def report(self) -> tuple[bool, Json]:
        """Whether requests can be served, and the body that says so."""
        parts = self._parts()
        down = any(part.state == "down" for part in parts)
        degraded = [part for part in parts if part.state != "ok"]
        status = "not_ready" if down else "degraded" if degraded else "ready"
        shown = [
            {"part": part.name, "state": part.state, "detail": part.detail, "since_s": self._age(part)}
            for part in degraded
        ]
        return not down, {"status": status, "parts": shown}

    def components(self) -> list[Json]:
        """Every part, for who has a key."""
        return [
            {"part": part.name, "state": part.state, "detail": part.detail, "since_s": self._age(part)}
            for part in self._parts()
        ]

    def _age(self, part: ComponentHealth) -> float:
        now = time.monotonic()
        state, since = self._since.get(part.name, ("", now))
        if state != part.state:
            since = now
            self._since[part.name] = (part.state, now)
        return round(now - since, 1)

    def summary(self, *, known: bool) -> tuple[bool, Json]:
        """What a person reads."""
        serving, body = self.report()
        words = {"ready": "healthy", "degraded": "degraded", "not_ready": "unhealthy"}
        shown: Json = {"status": words[body["status"]]}
        if known:
            shown |= {"version": self._version, "mode": self._mode, "parts": self.components()}
        return serving, shown


def router(health: HealthReport, keeper: AuthDependencies) -> APIRouter:
    """The three health doors, and the names LiteLLM's probes have."""
    doors = APIRouter()

    @doors.get("/health/live", summary="The process runs.", tags=["health"])
    @doors.get("/health/liveness", include_in_schema=False)
    @doors.get("/health/liveliness", include_in_schema=False)
    async def live() -> Response:
        return Response(b'{"status":"alive"}', media_type="application/json")

    @doors.get(
        "/health/ready",
        summary="Requests can be served.",
        tags=["health"],
        responses={503: {"description": "They cannot."}},
    )
    @doors.get("/health/readiness", include_in_schema=False)
    async def ready() -> Response:
        serving, body = health.report()
        return Response(orjson.dumps(body), 200 if serving else 503, media_type="application/json")

    @doors.get(
        "/health",
        summary="The same for people; detail with a key.",
        tags=["health"],
        responses={503: {"description": "Unhealthy."}},
    )
    async def overview(request: Request) -> Response:
        serving, body = health.summary(known=await keeper.is_operator(request))
        return Response(orjson.dumps(body), 200 if serving else 503, media_type="application/json")

    return doors


class HealthChecks:
    """The parts of one gateway; call it for how they are."""

    def __init__(
        self,
        client: SidecarClient | None,
        admission: AdmissionController,
        ledger: Ledger,
        *,
        spools: bool,
        draining: Callable[[], bool],
    ) -> None:
        """`client` is None in mock mode; `spools` is False when records wait in memory."""
        self._client = client
        self._admission = admission
        self._ledger = ledger
        self._spools = spools
        self._draining = draining

    def __call__(self) -> list[ComponentHealth]:
        """Every part."""
        leaving = self._draining()
        parts = [ComponentHealth("gateway", "down" if leaving else "ok", "draining" if leaving else "")]
        if self._client is not None:
            parts.append(self._sidecars(self._client))
        limits, kept = self._admission.state(), self._ledger.state()
        away = "down" if limits.denies_all else "degraded"
        parts.append(ComponentHealth("limits", away if limits.store == "away" else "ok", limits.store))
        taken = kept.postgres in {"up", "off"}
        told = f"{kept.postgres}; {kept.work}" if kept.work else kept.postgres
        parts.append(ComponentHealth("database", "ok" if taken else "degraded", told))
        if failing := background.failing_loops():
            parts.append(ComponentHealth("background", "degraded", f"failing: {', '.join(failing)}"))
        if not self._spools:
            parts.append(ComponentHealth("spool", "degraded", "records wait in memory"))
        return parts

    @staticmethod
    def _sidecars(client: SidecarClient) -> ComponentHealth:
        """None counts as live before one has said what it serves."""
        sidecars = client.pool.sidecars
        live = sum(one.is_live and one.successes > 0 for one in sidecars) if client.catalog_settled else 0
        state = "down" if live == 0 else "degraded" if live < len(sidecars) else "ok"
        return ComponentHealth("sidecars", state, f"{live} of {len(sidecars)} live")


def metrics_router(counted: Metrics, keeper: AuthDependencies) -> APIRouter:
    """The door for Prometheus.

    Args:
        counted: This worker's metrics.
        keeper: Says who asks.
    """
    doors = APIRouter(tags=["operation"], responses={401: {"description": "No admin key."}})

    @doors.get(
        "/metrics", summary="Metrics of all workers, for Prometheus.", response_class=PlainTextResponse
    )
    async def metrics(_: Annotated[object, Depends(keeper.require_admin)]) -> Response:
        counted.collect()
        return Response(await asyncio.to_thread(counted.render), headers={"content-type": CONTENT_TYPE})

    return doors
