"""The sessions of the console: who is signed in, since when, from where; each can be ended.

Invariants: admins for all tenants see all sessions, a tenant's admin the tenant's, a key's holder its own
alone; only those who may change something end another's.
"""

from datetime import datetime

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import CHANGERS, AnyViewer, Viewer
from llm_proxy.console.console import Console
from llm_proxy.errors import BadRequest, Forbidden
from llm_proxy.identity.console_sessions import SessionRecord

_PAGE_ROWS = 100
_NEWEST = "9999-01-01T00:00:00+00:00_"


def router(console: Console) -> APIRouter:
    """Returns the page's routes."""
    routes = APIRouter()
    sessions = console.data.sessions

    @routes.get("/sessions")
    async def show(
        request: Request,
        viewer: AnyViewer,
        before: str = _NEWEST,
    ) -> Response:
        name = viewer.name if viewer.role == "key" else None
        rows = await sessions.list_sessions(_position(before), _PAGE_ROWS, tenant=viewer.tenant, name=name)
        last = f"{rows[-1].created_at.isoformat()}_{rows[-1].session_id}" if len(rows) == _PAGE_ROWS else ""
        ending = {one.session_id for one in rows if _may_end(viewer, one)}
        return console.render(request, viewer, "sessions.html", rows=rows, last=last, ending=ending)

    @routes.post("/sessions/{session_id}/end")
    async def end(session_id: str, viewer: AnyViewer) -> Response:
        if session_id != viewer.session_id and not viewer.may(*CHANGERS):
            raise Forbidden("Your role ends its own session only.")
        await sessions.end(session_id, viewer.actor)
        return console.redirect("/sessions", notice="The session has ended.")

    return routes


def _may_end(viewer: Viewer, session: SessionRecord) -> bool:
    is_own = session.session_id == viewer.session_id
    return session.ended_at is None and (is_own or viewer.may(*CHANGERS))


def _position(before: str) -> tuple[datetime, str]:
    moment, _, session_id = before.partition("_")
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        raise BadRequest("'before' is not a position in the list.", param="before") from None
    if found.tzinfo is None:
        raise BadRequest("'before' is not a position in the list.", param="before")
    return found, session_id
