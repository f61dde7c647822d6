"""Virtual keys: searched, filtered, and one key with its holder, its headroom and its rules.

Invariants: everything is the admin API's answer to the viewer's own credential; a key's text that is pasted
into the search goes no further than its public part, and into no address; a key's holder sees its own key.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import CHANGERS, GLOBAL, READERS, AnyViewer, Reader, Viewer, require_role
from llm_proxy.console.console import Console, PathName
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.console.headroom import headroom_of
from llm_proxy.identity.virtual_keys import KEY_TYPE_PREFIX, display_prefix, unchecked_lookup
from llm_proxy.json_access import Json, as_objects
from llm_proxy.path_names import api_segment

FILTERS = ("text", "tenant", "agent", "user", "state")
CHILDREN = 50
"""Shown on the page of the key above them."""
STATES = ("active", "expired", "revoked")
PAGE_ROWS = 50
NOT_FOUND = 404
_LOOKUP_CHARS = 12
_SHOWN_CHARS = len(KEY_TYPE_PREFIX) + _LOOKUP_CHARS
"""Of a key of ours."""


def router(console: Console) -> APIRouter:
    """Returns the pages' routes."""
    routes = APIRouter()
    _list(routes, console)
    _one(routes, console)
    return routes


def _list(routes: APIRouter, console: Console) -> None:
    @routes.get("/keys")
    async def page(request: Request, viewer: AnyViewer, after: str = "") -> Response:
        if viewer.role == "key":
            return await _own_key(console, request, viewer)
        chosen = _chosen(request)
        found: Json
        try:
            found = await viewer.api.get("/admin/keys", **chosen, after=after, limit=PAGE_ROWS)
        except GatewayRejected as error:
            if error.status != NOT_FOUND:  # no key is of this tenant
                raise
            found = {"data": [], "has_more": False}
        rows = as_objects(found["data"])
        following = {**chosen, "after": str(rows[-1]["name"])} if found["has_more"] and rows else None
        return console.render(
            request,
            viewer,
            "keys.html",
            rows=[(one, state_of_key(one)) for one in rows],
            chosen={name: chosen.get(name) or "" for name in FILTERS},
            states=STATES,
            next_page=f"/keys?{urlencode(_given(following))}" if following else "",
            may_change=viewer.may(*CHANGERS),
        )

    @routes.post("/keys/find", dependencies=[Depends(require_role(*READERS))])
    async def find(request: Request) -> Response:
        form = await request.form()
        chosen = {name: str(form.get(name) or "").strip() for name in FILTERS}
        chosen["text"] = public_text(chosen["text"])
        return console.redirect(f"/keys?{urlencode(_given(chosen))}")


def _one(routes: APIRouter, console: Console) -> None:
    @routes.get("/keys/{key}")
    async def show(key: PathName, request: Request, viewer: Reader) -> Response:
        found = await viewer.api.get(key_path(key))
        return console.render(
            request,
            viewer,
            "key.html",
            key=found,
            state=state_of_key(found),
            made_by=await _author(viewer, found),
            headroom=headroom_of(found.get("limits")),
            limits_known=found.get("limits") is not None,
            rules=found.get("rules") or [],
            most_children=CHILDREN,
            children=[(one, state_of_key(one)) for one in await _children(viewer, found)],
            may_change=viewer.may(*CHANGERS),
            is_global=viewer.may(*GLOBAL),
        )


def key_path(key: str, action: str = "") -> str:
    """Returns the admin API's path of a key."""
    return f"/admin/keys/{api_segment(key)}{action}"


def public_text(text: str) -> str:
    """Returns a text to search for; of a complete key only the part that is public."""
    if text.startswith(KEY_TYPE_PREFIX):
        return text[:_SHOWN_CHARS]
    if text.startswith("sk-") and len(text) > _LOOKUP_CHARS:  # one that LiteLLM made, or no key of ours
        raw = text.encode()
        return display_prefix(unchecked_lookup(raw, hashlib.sha256(raw).digest()))
    return text


def state_of_key(key: Json) -> str:
    """Returns `revoked`, `expired` or `active`, as the list of keys filters by."""
    if key["revoked_at"]:
        return "revoked"
    ends = key["expires_at"]
    return "expired" if ends and datetime.fromisoformat(ends) <= datetime.now(UTC) else "active"


def _chosen(request: Request) -> dict[str, str | None]:
    return {name: request.query_params.get(name) or None for name in FILTERS}


def _given(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


async def _own_key(console: Console, request: Request, viewer: Viewer) -> Response:
    found = await viewer.api.get("/v1/limits")
    return console.render(
        request, viewer, "own_key.html", caller=found["caller"], headroom=headroom_of(found["limits"])
    )


async def _children(viewer: Viewer, key: Json) -> list[Json]:
    """Returns the first keys below a key, by name."""
    return as_objects((await viewer.api.get("/admin/keys", above=key["id"], limit=CHILDREN))["data"])


async def _author(viewer: Viewer, key: Json) -> Json | None:
    """Returns the entry of the audit log that made a key, for those who may read it; None without one."""
    if not viewer.may(*GLOBAL):
        return None
    try:
        found = await viewer.api.get("/admin/audit", action="keys.create*", subject=key["id"], limit=1)
    except GatewayRejected as error:
        if error.status != NOT_FOUND:
            raise
        return None
    entries = found["data"]
    return entries[0] if entries else None
