"""One request: how it went step by step, why it failed, who counted its tokens, its price, its text if kept.

Invariants: facts are the API's (`/v1/requests/{id}`), so a viewer sees what its credential may; what is not
known is called so. A text is shown in part, whole on demand, only to roles that may read it; each reading is
audited.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from llm_proxy.console.access import GLOBAL, AnyViewer, GlobalReader, Viewer
from llm_proxy.console.console import Console
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.console.pages.live import STOPPERS, known_running
from llm_proxy.console.rendering import KnownFields
from llm_proxy.errors import NotFound
from llm_proxy.json_access import Json
from llm_proxy.ledger.request_detail import cost_parts_of, status_text

SHOWN_CHARS = 20_000
_OK, _NOT_FOUND = 200, 404
_SOURCES = {
    "provider": "The provider stated them in its answer.",
    "sidecar": "The sidecar's log has them: the answer stated none.",
    "estimated": "Neither the provider nor the sidecar stated them: they are estimated, four bytes a token.",
    "unknown": "They are not known.",
}
_CACHE = {
    "hit": "The response cache answered: no provider was called.",
    "miss": "The response cache had no answer.",
    "off": "The response cache was not used.",
}
_OUTCOMES = {
    "ok": "Answered",
    "error": "Failed",
    "client_gone": "The caller disconnected before the end",
    "cut": "The stream broke off before its end",
    "lost": "Lost with its worker process: its end is not known",
    "refused": "Rejected before any model was called",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a request.

    Attributes:
        at_ms: When it began, since the request came; None where that is not known.
        took_ms: None for a moment, and where it is not known.
        state: `good`, `bad` or empty.
    """

    name: str
    at_ms: float | None
    took_ms: float | None = None
    detail: str = ""
    state: str = ""


def router(console: Console) -> APIRouter:
    """Returns the pages' routes."""
    routes = APIRouter()

    @routes.get("/requests/{request_id}")
    async def show(request: Request, request_id: str, viewer: AnyViewer) -> Response:
        number = _parsed(request_id)
        try:
            row = await viewer.api.get(f"/v1/requests/{number}")
        except GatewayRejected as fault:
            if fault.status != _NOT_FOUND:
                raise
            return await _without_record(console, request, viewer, number, fault.message)
        values: dict[str, Any] = {
            "row": KnownFields(row),
            "title": _OUTCOMES.get(row["outcome"], "Ended"),
            "steps": list(steps_of(row)),
            "total_ms": row.get("latency_ms"),
            "prices": list(cost_parts_of(row)),
            "source": _SOURCES.get(row.get("usage_source", ""), ""),
            "cache": _CACHE.get(row.get("cache", ""), ""),
            "why": why_failed(row),
            "run_since": _day_before(row.get("started_at")),
            "may_read": viewer.may(*GLOBAL),
        }
        return console.render(request, viewer, "request.html", **values)

    @routes.get("/requests/{request_id}/text")
    async def text(request: Request, request_id: str, viewer: GlobalReader) -> Response:
        number = _parsed(request_id)
        payload = await viewer.api.get(f"/admin/payloads/{number}")
        parts = [(name, payload.get(name) or "") for name in ("prompt", "answer")]
        return console.render(request, viewer, "request_text.html", id=number, parts=parts, most=SHOWN_CHARS)

    @routes.get("/requests/{request_id}/text/{part}")
    async def whole(request_id: str, part: str, viewer: GlobalReader) -> Response:
        payload = await viewer.api.get(f"/admin/payloads/{_parsed(request_id)}")
        if part not in payload:
            raise NotFound("The console has no such page.")
        headers = {"content-disposition": f'attachment; filename="{part}-{request_id}.txt"'}
        return PlainTextResponse(payload[part] or "", headers=headers)

    return routes


def _parsed(request_id: str) -> UUID:
    try:
        return UUID(request_id)
    except ValueError:
        raise NotFound("This is not the id of a request.") from None


async def _without_record(
    console: Console, request: Request, viewer: Viewer, number: UUID, message: str
) -> Response:
    """Returns the page of a request that runs, or that nothing is known of."""
    running = [one for one in await known_running(viewer) if one["request_id"] == str(number)]
    values: dict[str, Any] = {
        "id": number,
        "message": message,
        "call": running[0] if running else None,
        "may_stop": viewer.may(*STOPPERS),
    }
    status = _OK if running else _NOT_FOUND
    return console.render(request, viewer, "request_unrecorded.html", status=status, **values)


def why_failed(row: Json) -> str:
    """Returns one sentence that says why a request failed; empty for one that did not."""
    if row["outcome"] == "ok":
        return ""
    story: list[str] = row.get("story") or []
    if row["outcome"] == "refused":
        return story[-1] if story else ""
    failed = [one for one in row.get("attempt_details") or () if one["status"] != _OK and one["message"]]
    if failed:
        last = failed[-1]
        how = {None: "failed", 0: "did not answer"}.get(last["status"], f"answered {last['status']}")
        return f"{last['deployment']} {how}: {last['message']}"
    code = row.get("refusal_code")
    return _REASONS.get(code or "", f"The error's code is {code}." if code else "")


_REASONS = {
    "stopped_by_operator": "It was stopped while it ran; the audit log names who did it.",
    "overloaded": "No sidecar had a free slot in time, or the gateway was shutting down.",
    "upstream_timeout": "The model did not answer, or stopped sending, for longer than the timeouts allow.",
    "upstream_unreachable": "No sidecar could be reached, or its connection broke.",
    "provider_auth": "The provider rejects the gateway's own key: check it, then reload.",
    "model_cooling_down": "Every deployment of the model has failed lately and gets no calls for a moment.",
}


def steps_of(row: Json) -> Iterator[Step]:
    """Yields the steps of a request, in order."""
    began = _moment(row.get("started_at") or row.get("refused_at"))
    yield Step("Request received", 0.0)
    if row["outcome"] == "refused":
        yield Step("Rejected", None, detail=f"by the {row.get('refused_by') or 'gateway'}", state="bad")
        return
    if row.get("queue_ms"):
        yield Step("Waited for a slot at a sidecar", None, row["queue_ms"])
    if row.get("cache") == "hit":
        yield Step("The response cache answered", None, state="good")
    for number, one in enumerate(row.get("attempt_details") or (), 1):
        at = _moment(one["started_at"])
        at_ms = (at - began).total_seconds() * 1000 if at is not None and began is not None else None
        parts = [status_text(one["status"]), one["message"] or one["error_class"]]
        yield Step(
            f"Hop {number}: {one['model_group']} at {one['deployment']}",
            None if at_ms is None else max(0.0, at_ms),
            one["took_ms"],
            "; ".join(part for part in parts if part),
            "good" if one["status"] == _OK else "bad",
        )
    if row.get("ttft_ms") is not None:
        yield Step("First byte left to the caller", row["ttft_ms"])
    yield Step(
        _OUTCOMES.get(row["outcome"], "Ended"),
        row.get("latency_ms"),
        state="good" if row["outcome"] == "ok" else "bad",
    )


def _day_before(value: str | None) -> str:
    """Returns the time a day before a call, from which its run's page begins; empty without one."""
    moment = _moment(value)
    return "" if moment is None else (moment - timedelta(days=1)).isoformat(timespec="seconds")


def _moment(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None
