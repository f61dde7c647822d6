"""Which recorded rows a caller or an admin may read, and what of them.

Invariants: a key sees its own, a tenant's admin its tenant's, other admins all; what is of the deployment or
of other tenants is left out for the first two.
"""

from llm_proxy.errors import Forbidden
from llm_proxy.identity import Admin, Caller
from llm_proxy.json_access import Json
from llm_proxy.ledger.request_detail import redact_for_key
from llm_proxy.upstream.error_kinds import FORWARDED_STATUSES


def own_key(who: Caller | Admin) -> str | None:
    """Returns the id of the only key whose rows may be read; None for any."""
    return who.key_id if isinstance(who, Caller) else None


def own_tenant(who: Caller | Admin, wanted: str | None) -> str | None:
    """Returns the only tenant whose rows an admin may read; None for any; raises as `require_own_tenant`."""
    tenant = who.tenant if isinstance(who, Admin) else None
    require_own_tenant(tenant, wanted)
    return tenant


def require_own_tenant(tenant: str | None, wanted: str | None) -> None:
    """Raises `Forbidden` if a tenant's admin (None: another admin) wants the rows of another tenant."""
    if tenant is not None and wanted not in {None, tenant}:
        raise Forbidden("This admin key sees its own tenant only.", param="tenant")


def visible_request(request: Json, who: Caller | Admin) -> Json:
    """Returns a request as its reader may see it."""
    is_bound = isinstance(who, Caller) or who.tenant is not None
    return redact_for_key(request, FORWARDED_STATUSES) if is_bound else request
