"""Virtual keys: created, changed, rotated, revoked, raised; a change is simulated before it is saved.

Invariants: the admin API decides, and its error stands at the field; a key's text is on one answer, which no
cache keeps, and comes again by no reload; a form that shows an outdated key saves nothing.
"""

from fastapi import APIRouter
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from llm_proxy.console.access import GLOBAL, Changer, Viewer
from llm_proxy.console.console import Console, PathName
from llm_proxy.console.forms import (
    BUDGET_PERIODS,
    BUDGET_UNITS,
    LIMITS,
    FormState,
    changed_fields,
    document_of,
    set_fields,
    state_of,
    state_of_sent,
)
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.console.pages.keys import key_path, state_of_key
from llm_proxy.console.simulation import RANGES, simulate
from llm_proxy.errors import APIError, BadRequest
from llm_proxy.json_access import Json, as_list

SPEC_FIELDS = (
    "name", "tenant", "agent", "user", "models", *LIMITS, "budgets", "max_tokens_cap", "cache", "expires_at",
    "tags",
)  # fmt: skip
RAISE_FIELDS = (*LIMITS, "budgets", "until")
OVERLAPS = ((0, "at once"), (3_600, "in an hour"), (86_400, "in a day"), (604_800, "in a week"))
SHOWN_AT_FIELDS = frozenset({400, 403, 404, 409, 422})
"""Statuses of the API that a form can mend."""


def router(console: Console) -> APIRouter:
    """Returns the pages' routes; they stand before those of `keys`, whose path takes any name."""
    routes = APIRouter()
    _creation(routes, console)
    _change(routes, console)
    _rotation(routes, console)
    _revocation(routes, console)
    _raise(routes, console)
    return routes


def rejected_by_form(error: APIError) -> APIError:
    """Returns an error that a form shows; raises any other."""
    if error.status not in SHOWN_AT_FIELDS:
        raise error
    return error


def _creation(routes: APIRouter, console: Console) -> None:
    def form_page(request: Request, viewer: Viewer, form: FormState, status: int = 200) -> Response:
        return _spec_page(console, request, viewer, "key_new.html", form, status=status)

    @routes.get("/keys/new")
    async def blank(request: Request, viewer: Changer) -> Response:
        given = {name: request.query_params.get(name, "") for name in ("tenant", "agent", "user")}
        return form_page(request, viewer, FormState({"cache": "on", **given}))

    @routes.post("/keys/new")
    async def create(request: Request, viewer: Changer) -> Response:
        form = await request.form()
        try:
            made = await viewer.api.send("POST", "/admin/keys", _new_key(form))
        except GatewayRejected as error:
            shown = state_of_sent(form, rejected_by_form(error))
            return form_page(request, viewer, shown, error.status)
        return _show_once(console, request, viewer, made)


def _new_key(form: FormData) -> Json:
    document = document_of(form, SPEC_FIELDS)
    return set_fields(document) | {"cache": document["cache"]}


def _show_once(console: Console, request: Request, viewer: Viewer, made: Json) -> Response:
    """Returns the one page that shows a key's text."""
    shown = console.render(request, viewer, "key_shown.html", key=made, text=made["key"])
    shown.headers["cache-control"] = "no-store"
    return shown


def _change(routes: APIRouter, console: Console) -> None:
    @routes.get("/keys/{key}/change")
    async def edit(key: PathName, request: Request, viewer: Changer) -> Response:
        found = await viewer.api.get(key_path(key))
        return _spec_page(console, request, viewer, "key_change.html", state_of(found), key=found)

    @routes.post("/keys/{key}/change")
    async def save(key: PathName, request: Request, viewer: Changer) -> Response:
        form, found = await request.form(), await viewer.api.get(key_path(key))
        shown, result = state_of_sent(form), None
        try:
            _require_current(form, found, "changed_at")
            changes = changed_fields(document_of(form, SPEC_FIELDS), found)
            if form.get("action") == "simulate":
                result = await simulate(viewer.api, str(form.get("range")), keys={found["id"]: changes})
            elif changes:
                await viewer.api.send("PATCH", key_path(key), changes)
                return console.redirect(f"/keys/{found['id']}", notice="The key was changed.")
            else:
                return console.redirect(f"/keys/{found['id']}", notice="Nothing was changed.")
        except (GatewayRejected, BadRequest) as error:
            shown = state_of_sent(form, rejected_by_form(error))
        status = 400 if shown.error else 200
        return _spec_page(
            console, request, viewer, "key_change.html", shown, key=found, result=result, status=status
        )


def _rotation(routes: APIRouter, console: Console) -> None:
    @routes.get("/keys/{key}/rotate")
    async def confirm(key: PathName, request: Request, viewer: Changer) -> Response:
        found = await viewer.api.get(key_path(key))
        return console.render(request, viewer, "key_rotate.html", key=found, overlaps=OVERLAPS, error="")

    @routes.post("/keys/{key}/rotate")
    async def rotate(key: PathName, request: Request, viewer: Changer) -> Response:
        form, found = await request.form(), await viewer.api.get(key_path(key))
        try:
            _require_current(form, found, "prefixes")
            overlap = document_of(form, ["overlap_s"])
            made = await viewer.api.send("POST", key_path(key, "/rotate"), overlap)
        except (GatewayRejected, BadRequest) as error:
            rejected_by_form(error)
            page = {"key": found, "overlaps": OVERLAPS, "error": error.message}
            return console.render(request, viewer, "key_rotate.html", status=error.status, **page)
        return _show_once(console, request, viewer, made)


def _revocation(routes: APIRouter, console: Console) -> None:
    @routes.get("/keys/{key}/revoke")
    async def confirm(key: PathName, request: Request, viewer: Changer) -> Response:
        found = await viewer.api.get(key_path(key))
        return console.render(request, viewer, "key_revoke.html", key=found, error="")

    @routes.post("/keys/{key}/revoke")
    async def revoke(key: PathName, request: Request, viewer: Changer) -> Response:
        form, found = await request.form(), await viewer.api.get(key_path(key))
        if str(form.get("name") or "").strip() != found["name"]:
            error = "Type the key's name to revoke it."
            return console.render(request, viewer, "key_revoke.html", status=400, key=found, error=error)
        await viewer.api.send("POST", key_path(key, "/revoke"))
        return console.redirect(f"/keys/{found['id']}", notice="The key was revoked.")


def _raise(routes: APIRouter, console: Console) -> None:
    def form_page(
        request: Request, viewer: Viewer, form: FormState, key: Json, status: int = 200
    ) -> Response:
        return _spec_page(console, request, viewer, "key_raise.html", form, key=key, status=status)

    @routes.get("/keys/{key}/raise")
    async def blank(key: PathName, request: Request, viewer: Changer) -> Response:
        found = await viewer.api.get(key_path(key))
        return form_page(request, viewer, state_of({"budgets": found["budgets"]}), found)

    @routes.post("/keys/{key}/raise")
    async def begin(key: PathName, request: Request, viewer: Changer) -> Response:
        form, found = await request.form(), await viewer.api.get(key_path(key))
        try:
            await viewer.api.send("PUT", key_path(key, "/raise"), set_fields(document_of(form, RAISE_FIELDS)))
        except GatewayRejected as error:
            shown = state_of_sent(form, rejected_by_form(error))
            return form_page(request, viewer, shown, found, error.status)
        return console.redirect(f"/keys/{found['id']}", notice="The key's limits are raised.")

    @routes.post("/keys/{key}/raise/end")
    async def end(key: PathName, viewer: Changer) -> Response:
        found = await viewer.api.send("DELETE", key_path(key, "/raise"))
        return console.redirect(f"/keys/{found['id']}", notice="The raise has ended.")


def _require_current(form: FormData, key: Json, name: str) -> None:
    """Raises `BadRequest` for a form that shows another state of a key than the present one."""
    shown = " ".join(as_list(key[name])) or str(key[name])
    if form.get(name) != shown:
        raise BadRequest("The key was changed meanwhile: open this page again.")


def _spec_page(  # noqa: PLR0913 -- what the three forms differ in
    console: Console,
    request: Request,
    viewer: Viewer,
    template: str,
    form: FormState,
    *,
    status: int = 200,
    key: Json | None = None,
    result: Json | None = None,
) -> Response:
    return console.render(
        request,
        viewer,
        template,
        status=status,
        form=form,
        key=key,
        state=state_of_key(key) if key else "",
        result=result,
        ranges=RANGES,
        units=BUDGET_UNITS,
        periods=BUDGET_PERIODS,
        may_simulate=viewer.may(*GLOBAL),
    )
