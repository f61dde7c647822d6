"""Who may use a door that is not hot: callers, and the operator's two admin roles.

Invariants: an admin key is never a caller's key and the reverse; both are compared as digests in constant
time; without an admin key configured the admin doors refuse everybody.
"""

import hmac
from collections.abc import Awaitable, Callable

from fastapi.dependencies.models import Dependant
from starlette.requests import Request

from llm_proxy.edge.request import read_headers
from llm_proxy.errors import BadRequest, Forbidden, Unauthorized
from llm_proxy.identity import Caller, Identity, named_by_headers, on_behalf_of
from llm_proxy.identity.caller import NOBODY
from llm_proxy.identity.credentials import credential, digest, incorrect

Role = Callable[[Request], Awaitable[str]]
Callers = Callable[[Request], Awaitable[Caller]]


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
    """Dependencies for FastAPI's routes: `caller`, `reader`, `writer`."""

    def __init__(
        self,
        identity: Identity,
        *,
        write_keys: tuple[str, ...],
        read_keys: tuple[str, ...],
        max_header_bytes: int,
    ) -> None:
        self._identity = identity
        self._write = tuple(digest(key.encode()) for key in write_keys)
        self._read = tuple(digest(key.encode()) for key in read_keys)
        self._max_header_bytes = max_header_bytes

    async def caller(self, request: Request) -> Caller:
        """The caller, as the headers name it."""
        headers = read_headers(request.scope, max_bytes=self._max_header_bytes)
        caller = await self._identity.identify(headers)
        return on_behalf_of(caller, named_by_headers(headers), NOBODY)

    async def reader(self, request: Request) -> str:
        """An admin who may read; returns the role."""
        role = self._role(request)
        if role is None:
            raise incorrect()
        if request.scope["path"].startswith("/admin"):
            reject_unknown_parameters(request)
        return role

    async def writer(self, request: Request) -> str:
        """An admin who may change things."""
        role = await self.reader(request)
        if role != "write":
            raise Forbidden("This key may only read.")
        return role

    async def anybody(self, request: Request) -> Caller | str:
        """A caller, or an admin's role."""
        role = self._role(request)
        return role if role is not None else await self.caller(request)

    def known(self, request: Request) -> bool:
        """Whether the request carries an admin or an internal credential; never raises."""
        try:
            return self._role(request) is not None or self._identity.is_internal(
                read_headers(request.scope, max_bytes=self._max_header_bytes)
            )
        except Unauthorized:
            return False

    def _role(self, request: Request) -> str | None:
        kept = digest(credential(read_headers(request.scope, max_bytes=self._max_header_bytes)))
        may_write = [hmac.compare_digest(kept, key) for key in self._write]
        may_read = [hmac.compare_digest(kept, key) for key in self._read]
        return "write" if any(may_write) else "read" if any(may_read) else None
