"""Signing in with a key, with a link that works once or by an identity provider, and signing out.

Invariants: every sign-in opens a new session and ends the one the browser had; a link does nothing until its
button is pressed, so that no preview of it uses it up; after it, the browser goes to a page of the console.
"""

import secrets
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from llm_proxy.console.access import AnyViewer, Identity, require_same_site
from llm_proxy.console.console import Console
from llm_proxy.console.oidc import CALLBACK, Flow, OpenIdProvider
from llm_proxy.errors import Forbidden, NotFound, Unauthorized
from llm_proxy.identity.console_sessions import SessionHolder, SignInMethod, new_session_id

_PATH = "/sign-in"
_FLOW_S = 600
_SPENT_LINK = "This link was used already, or has expired. Sign in with a key, or make another link."

_BURST = "Too many sign-ins failed from this address. Try again in {} seconds, or with a link."


def router(console: Console) -> APIRouter:
    """Returns the routes."""
    routes = APIRouter()

    @routes.get("/sign-in")
    async def show(request: Request, next: str = "/") -> Response:  # noqa: A002 -- the name in the address
        if await console.access.viewer_of(request) is not None:
            return RedirectResponse(local_path(next), 303)
        return console.render(request, None, "sign_in.html", next=local_path(next), error="")

    @routes.post("/sign-in")
    async def with_key(request: Request) -> Response:
        require_same_site(request)
        form = await request.form()
        target, key = local_path(str(form.get("next", "/"))), str(form.get("key", "")).strip()
        try:
            who = await _identify(console, request, key)
        except Unauthorized as error:
            return console.render(request, None, "sign_in.html", status=401, next=target, error=error.message)
        if isinstance(who, int):
            page = console.render(
                request, None, "sign_in.html", status=429, next=target, error=_BURST.format(who)
            )
            page.headers["retry-after"] = str(who)
            return page
        return await open_session(console, request, who, key, "key", target)

    @routes.get("/sign-in/link/{secret}")
    async def ask(request: Request, secret: str) -> Response:
        return console.render(request, None, "sign_in_link.html", secret=secret)

    @routes.post("/sign-in/link/{secret}")
    async def with_link(request: Request, secret: str) -> Response:
        require_same_site(request)
        credential = await console.data.sessions.use_link(secret)
        if credential is None:
            console.attempts.failed(console.access.client_ip(request), "/sign-in/link")
            return console.render(request, None, "sign_in.html", status=401, next="/", error=_SPENT_LINK)
        who = await console.access.identify(credential)
        return await open_session(console, request, who, credential, "link", "/")

    @routes.post("/sign-out")
    async def sign_out(viewer: AnyViewer) -> Response:
        await console.data.sessions.end(viewer.session_id, viewer.actor, action="console.sign_out")
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(console.access.cookie, secure=console.access.is_secure, httponly=True)
        answer.headers["clear-site-data"] = '"cache", "storage"'
        return answer

    return routes


def oidc_router(console: Console) -> APIRouter:
    """Returns the routes of a sign-in by the identity provider; 404 without one."""
    routes = APIRouter()
    cookie = "__Host-llmp_oidc" if console.access.is_secure else "llmp_oidc"

    @routes.get("/sign-in/oidc")
    async def begin(next: str = "/") -> Response:  # noqa: A002 -- the name in the address
        secret = secrets.token_urlsafe(32)
        answer = RedirectResponse(await _provider(console).authorization_url(Flow(secret)), 303)
        answer.set_cookie(
            cookie,
            f"{secret}.{quote(local_path(next), safe='')}",
            max_age=_FLOW_S,
            path="/",
            secure=console.access.is_secure,
            httponly=True,
            samesite="lax",
        )
        return answer

    @routes.get(CALLBACK)
    async def finish(request: Request) -> Response:
        secret, _, target = request.cookies.get(cookie, "").partition(".")
        provider = _provider(console)
        if not secret:
            raise Forbidden("This sign-in was begun in another browser, or too long ago. Try again.")
        try:
            spec = await provider.person(Flow(secret), dict(request.query_params))
        except Forbidden:
            console.attempts.failed(console.access.client_ip(request), CALLBACK)
            raise
        lifetime = timedelta(seconds=console.data.sessions.lifetime_s)
        session_id = new_session_id()
        who = Identity(spec.name, spec.role, spec.tenant)
        actor = SessionHolder(*(who.name, who.role, who.tenant), "oidc", console.access.client_ip(request))
        spec = replace(spec, expires_at=datetime.now(UTC) + lifetime)
        _, key = await console.data.admin_keys.create(spec, actor.as_actor(), session_id)
        answer = await open_session(
            console, request, who, key.text, "oidc", local_path(unquote(target)), session_id
        )
        answer.delete_cookie(cookie, secure=console.access.is_secure, httponly=True)
        return answer

    return routes


async def _identify(console: Console, request: Request, key: str) -> Identity | int:
    """Returns whose a key is, or the seconds to wait after a burst of wrong ones; raises as `identify`.

    An empty field is no attempt.
    """
    address, attempts = console.access.client_ip(request), console.attempts
    if not key:
        return await console.access.identify(key)
    wait_s = attempts.begin(address)
    if wait_s:
        attempts.failed(address, _PATH, key)
        return wait_s
    try:
        who = await console.access.identify(key)
    except Unauthorized:
        attempts.failed(address, _PATH, key)
        raise
    except BaseException:
        attempts.did_not_fail(address)
        raise
    attempts.did_not_fail(address)
    return who


def _provider(console: Console) -> OpenIdProvider:
    if console.oidc is None:
        raise NotFound("This console has no identity provider.")
    return console.oidc


async def open_session(
    console: Console,
    request: Request,
    who: Identity,
    credential: str,
    method: SignInMethod,
    target: str,
    session_id: str | None = None,
) -> Response:
    """Opens a session, ends the one that the browser had, and returns the redirect with the cookie."""
    sessions, access = console.data.sessions, console.access
    agent = request.headers.get("user-agent", "")
    named = (who.name, who.role, who.tenant)
    holder = SessionHolder(*named, method, access.client_ip(request), agent, who.user)
    old = await sessions.find(request.cookies.get(access.cookie, ""))
    secret = await sessions.open(credential, holder, session_id)
    if old is not None:
        with suppress(NotFound):  # it ended meanwhile
            await sessions.end(old.record.session_id, old.record.holder.as_actor(), action="console.sign_out")
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        access.cookie,
        secret,
        max_age=sessions.lifetime_s,
        path="/",
        secure=access.is_secure,
        httponly=True,
        samesite="lax",
    )
    return answer


def local_path(target: str) -> str:
    """Returns a path of the console itself; the start page for any other address."""
    is_local = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_local and "\\" not in target else "/"
