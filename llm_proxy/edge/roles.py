"""Which admin role may use which route, and what the audit log calls it: one table, asserted by a test.

Invariants: a route that takes an admin key and is not in the table is refused to everybody. `tenant` keys see
their tenant's keys and usage alone. A route that changes something has an action.
"""

from dataclasses import dataclass

from starlette.requests import Request

from llm_proxy.errors import Forbidden
from llm_proxy.identity.admin_keys import Admin, Role

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
