"""Who may use a management route: callers and admins by role; rejected credentials are recorded.

Invariants: no admin key is accepted as a caller's key, and no caller's key as an admin key; secrets are
compared as digests in constant time; an admin route that is not in `ROUTE_ACCESS` rejects every admin key; a
`tenant` admin sees its tenant alone; of a credential's text only the public part is recorded.
"""

import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from fastapi.dependencies.models import Dependant
from starlette.requests import Request

from llm_proxy.edge.request import READ_HEADERS, ClientAddress, Scope, read_headers
from llm_proxy.errors import APIError, BadRequest, Forbidden, Unauthorized
from llm_proxy.identity import (
    Actor,
    Admin,
    AdminKeyRepository,
    Authenticator,
    AuthFailureLog,
    Caller,
    RunSources,
    attribution_from_headers,
    on_behalf_of,
)
from llm_proxy.identity.admin_keys import Role
from llm_proxy.identity.authenticator import (
    CREDENTIAL_HEADERS,
    extract_credential,
    invalid_key_error,
    read_credential,
)
from llm_proxy.identity.caller import NO_ATTRIBUTION
from llm_proxy.identity.virtual_keys import key_digest

_MAX_CREDENTIAL_BYTES = 512


class AuthFailureReporter:
    """Passes rejected credentials on to the log that counts them."""

    def __init__(self, failures: AuthFailureLog | None, client_address: ClientAddress) -> None:
        self._failures = failures
        self._client_address = client_address

    def report(self, scope: Scope, error: APIError) -> None:
        """Records a request that was rejected for its credential; ignores every other error."""
        if self._failures is None or not isinstance(error, Unauthorized):
            return
        credential = next((value for name, value in scope["headers"] if name in CREDENTIAL_HEADERS), b"")
        self._failures.record(
            client_ip=self._client_address(scope),
            path=scope["path"],
            credential=credential[:_MAX_CREDENTIAL_BYTES].removeprefix(b"Bearer ").strip(),
        )


_OWNER: frozenset[Role] = frozenset({"owner"})
_CHANGE: frozenset[Role] = frozenset({"owner", "operator"})
_READ: frozenset[Role] = frozenset({"owner", "operator", "viewer"})
_TENANT: frozenset[Role] = frozenset({"tenant"})


@dataclass(frozen=True, slots=True)
class RouteAccess:
    """Who may use a route.

    Attributes:
        roles: The roles that may use it.
        action: Its name in the audit log; None for a route that changes nothing and reads nothing private.
    """

    roles: frozenset[Role]
    action: str | None = None

    def with_tenant_admins(self) -> "RouteAccess":
        """Returns the same access, extended to `tenant` admins, who see their tenant's rows alone."""
        return RouteAccess(self.roles | _TENANT, self.action)


_READ_ACCESS = RouteAccess(_READ)
_KILL_SWITCHES = ("/admin/kill-switches", "/admin/kills")
ROUTE_ACCESS: dict[tuple[str, str], RouteAccess] = {
    ("GET", "/admin/keys"): _READ_ACCESS.with_tenant_admins(),
    ("POST", "/admin/keys"): RouteAccess(_CHANGE, "keys.create").with_tenant_admins(),
    ("GET", "/admin/keys/{key}"): _READ_ACCESS.with_tenant_admins(),
    ("PATCH", "/admin/keys/{key}"): RouteAccess(_CHANGE, "keys.change").with_tenant_admins(),
    ("PUT", "/admin/keys/{key}/raise"): RouteAccess(_CHANGE, "keys.raise").with_tenant_admins(),
    ("DELETE", "/admin/keys/{key}/raise"): RouteAccess(_CHANGE, "keys.raise_ended").with_tenant_admins(),
    ("POST", "/admin/keys/{key}/rotate"): RouteAccess(_CHANGE, "keys.rotate").with_tenant_admins(),
    ("DELETE", "/admin/keys/{key}"): RouteAccess(_CHANGE, "keys.revoke").with_tenant_admins(),
    ("POST", "/admin/keys/{key}/revoke"): RouteAccess(_CHANGE, "keys.revoke").with_tenant_admins(),
    ("GET", "/admin/tenants"): _READ_ACCESS.with_tenant_admins(),
    ("GET", "/admin/limits"): _READ_ACCESS,
    ("GET", "/admin/budgets"): _READ_ACCESS.with_tenant_admins(),
    ("PUT", "/admin/limits"): RouteAccess(_CHANGE, "limits.set"),
    ("DELETE", "/admin/limits"): RouteAccess(_CHANGE, "limits.drop"),
    ("POST", "/admin/simulate"): RouteAccess(_READ, "limits.simulate"),
    **{("GET", path): _READ_ACCESS for path in _KILL_SWITCHES},
    **{("PUT", path): RouteAccess(_CHANGE, "kills.throw") for path in _KILL_SWITCHES},
    **{("DELETE", path): RouteAccess(_CHANGE, "kills.lift") for path in _KILL_SWITCHES},
    ("GET", "/admin/admin-keys"): _READ_ACCESS,
    ("POST", "/admin/admin-keys"): RouteAccess(_OWNER, "admin_keys.create"),
    ("DELETE", "/admin/admin-keys/{key}"): RouteAccess(_OWNER, "admin_keys.revoke"),
    ("POST", "/admin/admin-keys/{key}/revoke"): RouteAccess(_OWNER, "admin_keys.revoke"),
    ("GET", "/admin/audit"): _READ_ACCESS,
    ("GET", "/admin/refused-credentials"): _READ_ACCESS,
    ("GET", "/admin/notifications"): _READ_ACCESS,
    ("GET", "/admin/calls"): _READ_ACCESS.with_tenant_admins(),
    ("DELETE", "/admin/calls/{request_id}"): RouteAccess(_CHANGE, "calls.stop").with_tenant_admins(),
    ("GET", "/admin/runs/quarantined"): _READ_ACCESS.with_tenant_admins(),
    ("POST", "/admin/runs/release"): RouteAccess(_CHANGE, "runs.release").with_tenant_admins(),
    ("GET", "/admin/models"): _READ_ACCESS,
    ("GET", "/admin/config"): _READ_ACCESS,
    ("GET", "/admin/settings"): _READ_ACCESS,
    ("GET", "/admin/reload"): _READ_ACCESS,
    ("POST", "/admin/reload"): RouteAccess(_CHANGE, "stack.reload"),
    ("POST", "/admin/models/{model:path}/test"): RouteAccess(_CHANGE, "models.test"),
    ("DELETE", "/admin/cache"): RouteAccess(_CHANGE, "cache.purge"),
    ("GET", "/admin/payloads/{request_id}"): RouteAccess(_READ, "payloads.read"),
    ("DELETE", "/admin/payloads"): RouteAccess(_CHANGE, "payloads.erase"),
    ("POST", "/admin/erasures"): RouteAccess(_CHANGE, "people.erase"),
    ("POST", "/admin/erasures/replay"): RouteAccess(_CHANGE, "people.erase"),
    ("GET", "/admin/erasures/{erasure_id}"): _READ_ACCESS,
    ("GET", "/metrics"): _READ_ACCESS,
    ("GET", "/openapi.json"): _READ_ACCESS.with_tenant_admins(),
    ("GET", "/v1/limits"): _READ_ACCESS.with_tenant_admins(),
    ("POST", "/v1/explain"): _READ_ACCESS.with_tenant_admins(),
    ("GET", "/v1/usage"): _READ_ACCESS.with_tenant_admins(),
    ("GET", "/v1/requests"): _READ_ACCESS.with_tenant_admins(),
    ("GET", "/v1/requests/{request_id}"): _READ_ACCESS.with_tenant_admins(),
    ("GET", "/v1/runs"): _READ_ACCESS.with_tenant_admins(),
    ("GET", "/v1/runs/{run:path}"): _READ_ACCESS.with_tenant_admins(),
}


def route_access(request: Request) -> RouteAccess | None:
    """Returns who may use the request's route; None for a route that is not in `ROUTE_ACCESS`."""
    route = request.scope.get("route")
    method = "GET" if request.method == "HEAD" else request.method
    return ROUTE_ACCESS.get((method, getattr(route, "path", "")))


def require_role(admin: Admin, request: Request) -> None:
    """Raises Forbidden unless the admin's role may use the request's route."""
    access = route_access(request)
    if access is None or admin.role not in access.roles:
        allowed = ", ".join(sorted(access.roles)) if access is not None else "none"
        raise Forbidden(
            f"An admin key of the role '{admin.role}' may not do this; the roles that may: {allowed}."
        )


ActorDependency = Callable[[Request], Awaitable[Actor]]


def reject_unknown_parameters(request: Request) -> None:
    """Raises BadRequest for a query parameter that the route does not declare.

    If it were ignored, a mistyped filter would let a deletion take everything.
    """
    unknown = request.query_params.keys() - declared_query_parameters(request.scope["route"].dependant)
    if unknown:
        name = min(unknown)[:40]
        raise BadRequest(f"Unknown query parameter: '{name}'.", param=name)


def declared_query_parameters(dependant: Dependant) -> frozenset[str]:
    """Returns the names of the query parameters that a route and its dependencies declare."""
    own = {one.alias for one in dependant.query_params}
    return frozenset(own).union(*(declared_query_parameters(one) for one in dependant.dependencies))


class SettingsAdmins:
    """The admin keys of the settings; several of a kind are valid during a rotation."""

    def __init__(
        self,
        write_keys: Iterable[str],
        read_keys: Iterable[str],
        old: Mapping[str, str] | None = None,
        on_old_use: Callable[[str], None] = lambda _setting: None,
    ) -> None:
        """`old` has the setting of each key that another one stands in front of; `on_old_use` gets it."""
        kinds = ((write_keys, Admin("admin_key", "owner")), (read_keys, Admin("admin_read_key", "viewer")))
        self._known = [
            (key_digest(key.encode()), admin, (old or {}).get(key)) for keys, admin in kinds for key in keys
        ]
        self._on_old_use = on_old_use

    def match(self, digest: bytes) -> Admin | None:
        """Returns the admin whose key has this digest; compares all keys, whichever matches."""
        found = [one for one in self._known if hmac.compare_digest(digest, one[0])]
        if not found:
            return None
        _, admin, setting = found[0]
        if setting is not None:
            self._on_old_use(setting)
        return admin


class AuthDependencies:
    """Dependencies of FastAPI's routes: each returns who sent the request, or raises."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        settings_admins: SettingsAdmins,
        max_header_bytes: int,
        run_sources: RunSources,
        admin_keys: AdminKeyRepository | None = None,
        client_ip: ClientAddress | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._settings_admins = settings_admins
        self._max_header_bytes = max_header_bytes
        self._run_sources = run_sources
        self._header_names = READ_HEADERS | run_sources.headers
        self._admin_keys = admin_keys
        self._client_ip = client_ip

    async def require_caller(self, request: Request) -> Caller:
        """Returns the caller, with the attribution of the headers; raises `Unauthorized` or `Forbidden`."""
        headers = read_headers(request.scope, max_bytes=self._max_header_bytes, names=self._header_names)
        caller = await self._authenticator.authenticate(read_credential(headers))
        run_id = self._run_sources.run_of(headers, NO_ATTRIBUTION)
        return on_behalf_of(caller, attribution_from_headers(headers), NO_ATTRIBUTION, run_id)

    async def require_admin(self, request: Request) -> Admin:
        """Returns the admin; raises `Unauthorized`, `Forbidden`, `BadRequest` (unknown query parameter)."""
        admin = await self.find_admin(request)
        if admin is None:
            raise invalid_key_error()
        require_role(admin, request)
        if request.scope["path"].startswith("/admin"):
            reject_unknown_parameters(request)
        return admin

    async def require_actor(self, request: Request) -> Actor:
        """Returns the admin as an actor of the audit log; raises what `require_admin` raises."""
        return self.actor_of(await self.require_admin(request), request)

    async def caller_or_admin(self, request: Request) -> Caller | Admin:
        """Returns a caller or an admin; raises `Forbidden` for an admin whose role may not use the route."""
        admin = await self.find_admin(request)
        if admin is None:
            return await self.require_caller(request)
        require_role(admin, request)
        return admin

    async def is_operator(self, request: Request) -> bool:
        """Returns whether the credential is an admin key for all tenants or an internal key; never raises."""
        try:
            admin = await self.find_admin(request)
            headers = read_headers(request.scope, max_bytes=self._max_header_bytes)
            return admin.tenant is None if admin is not None else self._authenticator.is_internal(headers)
        except APIError:
            return False

    def actor_of(self, admin: Admin, request: Request) -> Actor:
        """Returns the admin as an actor of the audit log, with the client's address."""
        return admin.as_actor(self._client_ip(request.scope) if self._client_ip is not None else None)

    async def find_admin(self, request: Request) -> Admin | None:
        """Returns the admin whose key the request carries, whatever its role; None for another credential.

        Raises:
            Unauthorized: There is no credential, or the admin key was revoked or has expired.
            StoreUnavailable: An issued key cannot be looked up.
        """
        key = extract_credential(read_headers(request.scope, max_bytes=self._max_header_bytes))
        digest = key_digest(key)
        admin = self._settings_admins.match(digest)
        if admin is not None or self._admin_keys is None:
            return admin
        admin = await self._admin_keys.find_admin(key)
        if admin is not None:  # it may have been revoked since the backup
            self._authenticator.gate.require_open()
        return admin
