"""Who is signed in, and what they may see: sessions, roles, and tokens against forged requests.

Invariants: a page without `require_role` shows no caller's data; the role is the credential's of
this moment, not of the sign-in, so that a revoked or expired key ends its sessions; each request that changes
something carries the session's token and comes from this site.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends
from starlette.requests import Request

from llm_proxy.console.data import ConsoleData, RowScope
from llm_proxy.console.gateway_api import GatewayAPI
from llm_proxy.console.watched_gateway import WatchedGateway
from llm_proxy.edge.auth import SettingsAdmins
from llm_proxy.edge.request import ClientAddress
from llm_proxy.errors import APIError, Forbidden, Unauthorized
from llm_proxy.identity import Actor, KeyCache
from llm_proxy.identity.console_sessions import OpenSession, SessionHolder, ViewerRole
from llm_proxy.identity.policies import EVERY_EPOCH
from llm_proxy.identity.virtual_keys import key_digest, lookup_from_key
from llm_proxy.settings import Settings

GLOBAL: tuple[ViewerRole, ...] = ("owner", "operator", "viewer")
"""Roles that see every tenant."""
READERS: tuple[ViewerRole, ...] = (*GLOBAL, "tenant")
CHANGERS: tuple[ViewerRole, ...] = ("owner", "operator", "tenant")
OPERATORS: tuple[ViewerRole, ...] = ("owner", "operator")
"""Roles that change what all tenants share."""
EVERYBODY: tuple[ViewerRole, ...] = (*READERS, "key")
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
_SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who is signed in.

    Attributes:
        name: The admin key's name, or the public part of a virtual key.
        tenant: The only tenant of a `tenant` admin; that of a virtual key.
        key_id: Of a virtual key; None for admins.
        api: The gateway's API with this viewer's credential.
        scope: The rows that the viewer may see: apply it in every read of a store.
        csrf: The token that forms carry.
    """

    name: str
    role: ViewerRole
    tenant: str | None
    key_id: str | None
    session_id: str
    client_ip: str | None
    csrf: str = field(repr=False)
    api: GatewayAPI = field(repr=False)

    @property
    def scope(self) -> RowScope:
        """What rows it may see."""
        return RowScope(None, self.key_id) if self.role == "key" else RowScope(self.tenant)

    @property
    def actor(self) -> Actor:
        """The author of its changes in the audit log."""
        return SessionHolder(self.name, self.role, self.tenant, "key", self.client_ip).as_actor()

    def may(self, *roles: ViewerRole) -> bool:
        """Whether its role is one of these."""
        return self.role in roles


@dataclass(frozen=True, slots=True)
class Identity:
    """The holder of a credential.

    Attributes:
        user: The user of a virtual key.
    """

    name: str
    role: ViewerRole
    tenant: str | None
    key_id: str | None = None
    user: str | None = None


class SignInNeeded(Exception):  # noqa: N818 -- named for the state
    """The request has no valid session; its page is opened again after the sign-in.

    Attributes:
        location: The page of the sign-in.
    """

    def __init__(self, request: Request) -> None:
        super().__init__()
        path = request.url.path if request.method in _SAFE_METHODS else "/"
        if request.headers.get("hx-request"):
            path = "/"
        query = f"?{request.url.query}" if request.url.query and path != "/" else ""
        target = path + query
        self.location = "/sign-in" if target == "/" else f"/sign-in?next={quote(target, safe='')}"


class ConsoleAccess:
    """Finds the viewer of a request."""

    def __init__(self, settings: Settings, data: ConsoleData, gateway: WatchedGateway) -> None:
        self._data = data
        self._gateway = gateway
        self._address = ClientAddress(settings.trusted_proxies)
        self.is_secure = (settings.console_url or "").startswith("https:")
        """Whether browsers come by https, so that cookies are sent on it alone."""
        self.cookie = "__Host-llmp_console" if self.is_secure else "llmp_console"
        self._settings_admins = SettingsAdmins(settings.admin_keys, settings.admin_read_keys)

    def client_ip(self, request: Request) -> str | None:
        """Returns the client's address."""
        return self._address(request.scope)

    async def identify(self, credential: str) -> Identity:
        """Returns the holder of a credential; raises `Unauthorized` or `StoreUnavailable`."""
        if not credential.isascii() or not credential.strip():
            raise Unauthorized("This key is not valid.")
        raw = credential.strip().encode()
        admin = self._settings_admins.match(key_digest(raw)) or await self._data.admin_keys.find_admin(raw)
        if admin is not None:
            return Identity(admin.name, admin.role, admin.tenant)
        cache = KeyCache(self._data.keys)  # of this request alone: nothing outdated
        if lookup_from_key(raw) is None:
            await cache.fetch_policies(EVERY_EPOCH)  # policies state whether keys were imported
        caller = await cache.find_caller(raw)
        return Identity(caller.key_prefix, "key", caller.tenant, caller.key_id, caller.user)

    async def viewer_of(self, request: Request) -> Viewer | None:
        """Returns who is signed in; None without a valid session. Raises `StoreUnavailable`."""
        secret = request.cookies.get(self.cookie, "")
        opened = await self._data.sessions.find(secret) if secret else None
        if opened is None:
            return None
        try:
            who = await self.identify(opened.credential)
        except Unauthorized:
            return None
        return self._viewer(request, secret, opened, who)

    def _viewer(self, request: Request, secret: str, opened: OpenSession, who: Identity) -> Viewer:
        address = self.client_ip(request)
        return Viewer(
            who.name,
            who.role,
            who.tenant,
            who.key_id,
            opened.record.session_id,
            address,
            csrf_token(secret),
            GatewayAPI(self._gateway, opened.credential, address),
        )


def csrf_token(secret: str) -> str:
    """Returns the token of a session's forms; the cookie cannot be found from it."""
    return hmac.new(secret.encode(), b"llm-proxy console csrf", hashlib.sha256).hexdigest()


def require_role(*roles: ViewerRole) -> Callable[[Request], Awaitable[Viewer]]:
    """Returns a dependency that gives the viewer of a page.

    It raises `SignInNeeded`, `Forbidden` for another role and for a forged request, `StoreUnavailable`.
    """

    async def viewer_with_role(request: Request) -> Viewer:
        access: ConsoleAccess = request.app.state.access
        viewer = await access.viewer_of(request)
        if viewer is None:
            raise SignInNeeded(request)
        request.state.viewer = viewer
        if viewer.role not in roles:
            raise Forbidden("Your role may not open this page.")
        if request.method not in _SAFE_METHODS:
            require_same_site(request)
            await _require_token(request, viewer)
        return viewer

    return viewer_with_role


def require_same_site(request: Request) -> None:
    """Raises `Forbidden` for a request that another site made a browser send.

    Browsers name the page that sends (`Sec-Fetch-Site`, `Origin`); what names neither is no browser.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise _forged()
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise _forged()


async def _require_token(request: Request, viewer: Viewer) -> None:
    token: object = request.headers.get(CSRF_HEADER)
    if token is None:
        token = (await request.form()).get(CSRF_FIELD)
    if not isinstance(token, str) or not hmac.compare_digest(token.encode(), viewer.csrf.encode()):
        raise _forged()


def _forged() -> APIError:
    return Forbidden("This form was not sent by this session of the console. Open the page again.")


AnyViewer = Annotated[Viewer, Depends(require_role(*EVERYBODY))]
Reader = Annotated[Viewer, Depends(require_role(*READERS))]
GlobalReader = Annotated[Viewer, Depends(require_role(*GLOBAL))]
Changer = Annotated[Viewer, Depends(require_role(*CHANGERS))]
Operator = Annotated[Viewer, Depends(require_role(*OPERATORS))]
