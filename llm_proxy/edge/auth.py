"""Who may use a management route: callers and admins by role; rejected credentials are recorded.

Invariants: an admin key is never a caller's key and the reverse; secrets are compared as digests in constant
time; an admin route that is not in `ROUTES` rejects every admin key; a `tenant` admin sees its tenant alone;
a credential's text is recorded no further than its public part.
"""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi.dependencies.models import Dependant
from starlette.requests import Request

from llm_proxy.edge.request import ClientIp, Scope, read_headers
from llm_proxy.errors import BadRequest, Forbidden, Refused, Unauthorized
from llm_proxy.identity import (
    Actor,
    Admin,
    AdminKeys,
    Caller,
    Identity,
    RefusedCredentials,
    named_by_headers,
    on_behalf_of,
)
from llm_proxy.identity.admin_keys import Role
from llm_proxy.identity.authenticator import HEADERS, credential, digest, incorrect
from llm_proxy.identity.caller import NOBODY

_LONGEST = 512


class Suspects:
    """Notes refused credentials."""

    def __init__(self, record: RefusedCredentials | None, client_ip: ClientIp) -> None:
        self._record = record
        self._client_ip = client_ip

    def note(self, scope: Scope, refused: Refused) -> None:
        """A request was refused; only a refused credential is of interest."""
        if self._record is None or not isinstance(refused, Unauthorized):
            return
        tried = next((value for name, value in scope["headers"] if name in HEADERS), b"")
        self._record.note(
            client_ip=self._client_ip(scope),
            path=scope["path"],
            credential=tried[:_LONGEST].removeprefix(b"Bearer ").strip(),
        )


_OWNER: frozenset[Role] = frozenset({"owner"})
_CHANGE: frozenset[Role] = frozenset({"owner", "operator"})
_READ: frozenset[Role] = frozenset({"owner", "operator", "viewer"})
_TENANT: frozenset[Role] = frozenset({"tenant"})


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a route.

    Attributes:
        roles: The roles that may.
        action: The audit log's name for it; None where nothing is changed and nothing private is read.
    """

    roles: frozenset[Role]
    action: str | None = None

    def and_tenant(self) -> "Access":
        """The same, and keys of one tenant for what is that tenant's."""
        return Access(self.roles | _TENANT, self.action)


_reads = Access(_READ)
ROUTES: dict[tuple[str, str], Access] = {
    ("GET", "/admin/keys"): _reads.and_tenant(),
    ("POST", "/admin/keys"): Access(_CHANGE, "keys.create").and_tenant(),
    ("GET", "/admin/keys/{key}"): _reads.and_tenant(),
    ("PATCH", "/admin/keys/{key}"): Access(_CHANGE, "keys.change").and_tenant(),
    ("PUT", "/admin/keys/{key}/raise"): Access(_CHANGE, "keys.raise").and_tenant(),
    ("DELETE", "/admin/keys/{key}/raise"): Access(_CHANGE, "keys.raise_ended").and_tenant(),
    ("POST", "/admin/keys/{key}/rotate"): Access(_CHANGE, "keys.rotate").and_tenant(),
    ("DELETE", "/admin/keys/{key}"): Access(_CHANGE, "keys.revoke").and_tenant(),
    ("POST", "/admin/keys/{key}/revoke"): Access(_CHANGE, "keys.revoke").and_tenant(),
    ("GET", "/admin/limits"): _reads,
    ("PUT", "/admin/limits"): Access(_CHANGE, "limits.set"),
    ("DELETE", "/admin/limits"): Access(_CHANGE, "limits.drop"),
    ("POST", "/admin/simulate"): Access(_READ, "limits.simulate"),
    ("GET", "/admin/kills"): _reads,
    ("PUT", "/admin/kills"): Access(_CHANGE, "kills.throw"),
    ("DELETE", "/admin/kills"): Access(_CHANGE, "kills.lift"),
    ("GET", "/admin/admin-keys"): _reads,
    ("POST", "/admin/admin-keys"): Access(_OWNER, "admin_keys.create"),
    ("DELETE", "/admin/admin-keys/{key}"): Access(_OWNER, "admin_keys.revoke"),
    ("POST", "/admin/admin-keys/{key}/revoke"): Access(_OWNER, "admin_keys.revoke"),
    ("GET", "/admin/audit"): _reads,
    ("GET", "/admin/refused-credentials"): _reads,
    ("GET", "/admin/notifications"): _reads,
    ("GET", "/admin/models"): _reads,
    ("POST", "/admin/models/{model:path}/test"): Access(_CHANGE, "models.test"),
    ("DELETE", "/admin/cache"): Access(_CHANGE, "cache.purge"),
    ("GET", "/admin/payloads/{request_id}"): Access(_READ, "payloads.read"),
    ("DELETE", "/admin/payloads"): Access(_CHANGE, "payloads.erase"),
    ("POST", "/admin/erasures"): Access(_CHANGE, "people.erase"),
    ("POST", "/admin/erasures/replay"): Access(_CHANGE, "people.erase"),
    ("GET", "/admin/erasures/{erasure_id}"): _reads,
    ("GET", "/metrics"): _reads,
    ("GET", "/openapi.json"): _reads.and_tenant(),
    ("GET", "/v1/limits"): _reads.and_tenant(),
    ("POST", "/v1/explain"): _reads.and_tenant(),
    ("GET", "/v1/usage"): _reads.and_tenant(),
    ("GET", "/v1/requests/{request_id}"): _reads.and_tenant(),
}


def access_to(request: Request) -> Access | None:
    """Who may use the request's route; None when the route is not in the table."""
    route = request.scope.get("route")
    method = "GET" if request.method == "HEAD" else request.method
    return ROUTES.get((method, getattr(route, "path", "")))


def require_role(admin: Admin, request: Request) -> None:
    """Raises Forbidden unless the admin's role may use the request's route."""
    access = access_to(request)
    if access is None or admin.role not in access.roles:
        raise Forbidden(f"An admin key of the role '{admin.role}' may not do this.")


By = Callable[[Request], Awaitable[Actor]]


def reject_unknown_parameters(request: Request) -> None:
    """Raises BadRequest for a query parameter that the route does not declare.

    Ignored, a mistyped filter would let a deletion take everything.
    """
    unknown = request.query_params.keys() - query_parameters(request.scope["route"].dependant)
    if unknown:
        name = min(unknown)[:40]
        raise BadRequest(f"There is no query parameter '{name}' here.", param=name)


def query_parameters(dependant: Dependant) -> frozenset[str]:
    """The names of the query parameters that a route and what it depends on declare."""
    own = {one.alias for one in dependant.query_params}
    return frozenset(own).union(*(query_parameters(one) for one in dependant.dependencies))


class Doorkeeper:
    """Dependencies for FastAPI's routes: `caller`, `admin`, `actor`, `anybody`."""

    def __init__(
        self,
        identity: Identity,
        *,
        write_keys: tuple[str, ...],
        read_keys: tuple[str, ...],
        max_header_bytes: int,
        admin_keys: AdminKeys | None = None,
        client_ip: ClientIp | None = None,
    ) -> None:
        self._identity = identity
        self._settings_keys = (
            *((digest(key.encode()), Admin("admin_key", "owner")) for key in write_keys),
            *((digest(key.encode()), Admin("admin_read_key", "viewer")) for key in read_keys),
        )
        self._max_header_bytes = max_header_bytes
        self._admin_keys = admin_keys
        self._client_ip = client_ip

    async def caller(self, request: Request) -> Caller:
        """The caller, as the headers name it."""
        headers = read_headers(request.scope, max_bytes=self._max_header_bytes)
        caller = await self._identity.identify(headers)
        return on_behalf_of(caller, named_by_headers(headers), NOBODY)

    async def admin(self, request: Request) -> Admin:
        """The admin; raises Unauthorized, Forbidden, or BadRequest for an unknown query parameter."""
        admin = await self.identified(request)
        if admin is None:
            raise incorrect()
        require_role(admin, request)
        if request.scope["path"].startswith("/admin"):
            reject_unknown_parameters(request)
        return admin

    async def actor(self, request: Request) -> Actor:
        """The admin as an actor of the audit log; raises what `admin` raises."""
        return self.acting(await self.admin(request), request)

    async def anybody(self, request: Request) -> Caller | Admin:
        """A caller or an admin; raises Forbidden for an admin whose role may not use the route."""
        admin = await self.identified(request)
        if admin is None:
            return await self.caller(request)
        require_role(admin, request)
        return admin

    async def known(self, request: Request) -> bool:
        """Whether the request carries an admin key for all tenants or an internal secret; never raises."""
        try:
            admin = await self.identified(request)
            headers = read_headers(request.scope, max_bytes=self._max_header_bytes)
            return admin.tenant is None if admin is not None else self._identity.is_internal(headers)
        except Refused:
            return False

    def acting(self, admin: Admin, request: Request) -> Actor:
        """An admin as an actor, from the request's address."""
        return admin.acting_from(self._client_ip(request.scope) if self._client_ip is not None else None)

    async def identified(self, request: Request) -> Admin | None:
        """Whose admin key the request carries, whatever the role may do; None for another credential.

        Raises:
            Unauthorized: There is no credential, or the admin key was revoked or has expired.
            StoreUnavailable: An issued key cannot be looked up.
        """
        key = credential(read_headers(request.scope, max_bytes=self._max_header_bytes))
        kept = digest(key)
        found = [admin for known, admin in self._settings_keys if hmac.compare_digest(kept, known)]
        if found or self._admin_keys is None:
            return found[0] if found else None
        return await self._admin_keys.find(key)
