"""Health: `/health/live` touches nothing, `/health/ready` says whether requests can be served.

Invariants: never a model call, never a store call (states are what the stages already know); `/health` is
for people, its detail only for who has a key.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from llm_proxy.edge.auth import Doorkeeper
from llm_proxy.json_access import Json


@dataclass(frozen=True, slots=True)
class Part:
    """How one part of the gateway is.

    Attributes:
        name: `sidecars`, `limits`, `database`, ...
        state: `ok`, `degraded` (requests are served all the same) or `down` (they are not).
        detail: One sentence, no address, no secret.
    """

    name: str
    state: str
    detail: str = ""


Parts = Callable[[], list[Part]]


class Health:
    """Remembers since when each part has been as it is."""

    def __init__(self, parts: Parts, version: str, mode: str) -> None:
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

    def detail(self) -> list[Json]:
        """Every part, for who has a key."""
        return [
            {"part": part.name, "state": part.state, "detail": part.detail, "since_s": self._age(part)}
            for part in self._parts()
        ]

    def _age(self, part: Part) -> float:
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
            shown |= {"version": self._version, "mode": self._mode, "parts": self.detail()}
        return serving, shown


def router(health: Health, keeper: Doorkeeper) -> APIRouter:
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
        serving, body = health.summary(known=await keeper.known(request))
        return Response(orjson.dumps(body), 200 if serving else 503, media_type="application/json")

    return doors
