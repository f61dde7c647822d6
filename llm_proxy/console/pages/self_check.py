"""The self-check: what of the chain works, from the gateway to an answer and its record, and what to do.

Invariants: nothing is called to draw the page; the check makes one small call, whose cost the gateway bounds,
with the viewer's own rights. It is the start page while no real provider serves a model.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import GLOBAL, OPERATORS, GlobalReader, Operator, Viewer
from llm_proxy.console.console import Console
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.json_access import Json, as_object
from llm_proxy.path_names import api_segment
from llm_proxy.settings import TEST_PROVIDER

_CALLED_FIRST = ("chat", "completion", "responses", None)
_RECORD_TRIES, _RECORD_PAUSE_S = 25, 0.2
_START_S = 1.0
"""The start page waits so long for the gateway."""
_ADVICE = {
    "sidecars": "Look into the sidecar's log (.local/logs/, or `docker compose logs litellm`).",
    "limits": "Start the limits store, or check LIMITS_REDIS_URL.",
    "database": "Start Postgres, or check DATABASE_URL; records wait on the disk meanwhile.",
    "spool": "Make room on the disk of LLM_PROXY__SPOOL_DIR.",
}


@dataclass(frozen=True, slots=True)
class ChainPart:
    """A link of the chain.

    Attributes:
        is_ok: None where it was not tried.
        advice: What to do where it does not work.
    """

    name: str
    is_ok: bool | None
    detail: str = ""
    advice: str = ""
    href: str = ""


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()

    async def page(request: Request, viewer: Viewer, tested: list[ChainPart]) -> Response:
        parts, groups = await asyncio.gather(_parts(viewer), _groups(viewer))
        served = _serving(groups)
        model = _model_to_test(groups)
        return console.render(
            request,
            viewer,
            "self_check.html",
            steps=[*parts, served, *tested],
            asks_for_key=groups is not None and not has_real_provider(groups),
            has_models=bool(groups),
            model=model if viewer.may(*OPERATORS) else None,
        )

    @routes.get("/self-check")
    async def show(request: Request, viewer: GlobalReader) -> Response:
        return await page(request, viewer, [])

    @routes.post("/self-check")
    async def check(request: Request, viewer: Operator) -> Response:
        model = _model_to_test(await _groups(viewer))
        return await page(request, viewer, await _call(viewer, model) if model else [])

    return routes


def has_real_provider(groups: Iterable[Json]) -> bool:
    """Whether any model is served by more than the shipped test model."""
    return any(set(group["providers"]) - {TEST_PROVIDER} for group in groups)


async def needs_first_steps(viewer: Viewer) -> bool:
    """Whether the self-check is the viewer's start page; False while the gateway does not answer."""
    if not viewer.may(*GLOBAL):
        return False
    try:
        async with asyncio.timeout(_START_S):
            groups = await _groups(viewer)
    except TimeoutError:
        return False
    return groups is not None and not has_real_provider(groups)


async def _groups(viewer: Viewer) -> list[Json] | None:
    """Returns the served groups; None while the gateway does not say."""
    try:
        found: list[Json] = (await viewer.api.get("/admin/models"))["data"]
    except GatewayRejected:
        return None
    return found


async def _parts(viewer: Viewer) -> list[ChainPart]:
    """The parts of the gateway in its health report."""
    try:
        health = await viewer.api.health()
    except GatewayRejected:
        advice = "Start the gateway (`make run`), or check LLM_PROXY__CONSOLE_GATEWAY_URL."
        return [ChainPart("Gateway", is_ok=False, detail="It does not answer.", advice=advice)]
    steps = [ChainPart("Gateway", is_ok=True, detail=f"Version {health.get('version', 'unknown')}.")]
    for part in (one for one in health.get("parts", []) if one["part"] != "gateway"):
        is_ok = part["state"] == "ok"
        advice = "" if is_ok else _ADVICE.get(part["part"], "See docs/operations.md.")
        name = f"{part['part']}".replace("_", " ").capitalize()
        steps.append(
            ChainPart(
                name, is_ok=is_ok, detail=f"{part['state']}; {part['detail']}".strip("; "), advice=advice
            )
        )
    return steps


def _serving(groups: list[Json] | None) -> ChainPart:
    if groups is None:
        return ChainPart("Models", is_ok=None, detail="Not known: the gateway does not say.")
    if not groups:
        return ChainPart(
            "Models",
            is_ok=False,
            detail="None is served.",
            advice="See Configuration.",
            href="/configuration",
        )
    providers = sorted({one for group in groups for one in group["providers"]})
    detail = f"{len(groups)} groups of {', '.join(providers)}."
    return ChainPart("Models", is_ok=True, detail=detail, href="/models")


def _model_to_test(groups: list[Json] | None) -> str | None:
    """A chat model with a name of its own, a real provider's first."""
    usable = [one for one in groups or () if not one["wildcard"] and one["mode"] in _CALLED_FIRST]
    usable.sort(key=lambda one: (set(one["providers"]) <= {TEST_PROVIDER}, str(one["id"])))
    return str(usable[0]["id"]) if usable else None


async def _call(viewer: Viewer, model: str) -> list[ChainPart]:
    """One small call to a model, and its record."""
    try:
        result = await viewer.api.send("POST", f"/admin/models/{api_segment(model)}/test")
    except GatewayRejected as error:
        return [ChainPart(f"A call to {model}", is_ok=False, detail=error.message)]
    if not result["ok"]:
        failure = as_object(result["error"])
        detail = str(failure.get("cause") or failure.get("message") or "")
        return [ChainPart(f"A call to {model}", is_ok=result["ok"], detail=detail, href="/configuration")]
    detail = f"Answered in {result['latency_ms']:.0f} ms by {result['provider']} ({result['model']})."
    call = ChainPart(f"A call to {model}", is_ok=True, detail=detail)
    for _ in range(_RECORD_TRIES):
        try:
            await viewer.api.get(f"/v1/requests/{result['request_id']}")
        except GatewayRejected:
            await asyncio.sleep(_RECORD_PAUSE_S)  # a record takes a moment
        else:
            return [call, ChainPart("Its record", is_ok=True, href=f"/requests/{result['request_id']}")]
    return [call, ChainPart("Its record", is_ok=False, detail="Not there yet.", advice=_ADVICE["database"])]
