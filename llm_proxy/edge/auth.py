"""Who may use a route that is no inference route: callers, and admins by role.

Invariants: an admin key is never a caller's key and the reverse; secrets are compared as digests in constant
time; without an admin key in the settings and none issued, the admin routes refuse everybody. What a role may
do is the table in `roles`.
"""

import hmac
from collections.abc import Awaitable, Callable

from fastapi.dependencies.models import Dependant
from starlette.requests import Request

from llm_proxy.edge.client_ip import ClientIp
from llm_proxy.edge.request import read_headers
from llm_proxy.edge.roles import require_role
from llm_proxy.errors import BadRequest, Refused
from llm_proxy.identity import Actor, Admin, AdminKeys, Caller, Identity, named_by_headers, on_behalf_of
from llm_proxy.identity.caller import NOBODY
from llm_proxy.identity.credentials import credential, digest, incorrect

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
