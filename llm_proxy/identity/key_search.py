"""Which keys a list shows, and the tenants that have keys or limits of their own.

Invariants: a search is literal, never a pattern; no condition reads a secret; tenants are ordered by name.
Raises: `StoreUnavailable`.
"""

from dataclasses import dataclass
from typing import Literal

from llm_proxy.identity.audit import admin_transaction
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.identity.virtual_keys import display_prefix

KeyState = Literal["active", "expired", "revoked"]
KEY_CONDITIONS = """
    ($1::text IS NULL OR k.tenant = $1) AND ($2::text IS NULL OR k.agent = $2)
    AND ($3::text IS NULL OR k.user_id = $3)
    AND ($4::text IS NULL OR $4 = CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked'
        WHEN k.expires_at <= now() THEN 'expired' ELSE 'active' END)
    AND ($5::text IS NULL OR k.key_id = $5
        OR strpos(lower(concat_ws(E'\\n', k.name, k.tenant, k.agent, k.user_id)), lower($5)) > 0
        OR EXISTS (SELECT FROM key_secrets s WHERE s.key_id = k.key_id
            AND starts_with(CASE WHEN starts_with(s.lookup, 'sha256:') THEN '' ELSE $6 END || s.lookup, $5)))
    AND ($7::text IS NULL OR k.ancestors @> ARRAY[$7])
"""
"""Of a key `k`; takes the arguments of `KeyFilter.arguments`."""
_TENANTS = """
SELECT t.tenant, count(k.key_id) AS keys,
    count(k.key_id) FILTER (WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()))
        AS active_keys,
    EXISTS (SELECT FROM kill_switches s WHERE s.kind = 'tenant' AND s.subject = t.tenant) AS switched_off
FROM (SELECT tenant FROM api_keys WHERE tenant IS NOT NULL
      UNION SELECT tenant FROM limit_rules WHERE tenant <> '*') t LEFT JOIN api_keys k USING (tenant)
WHERE t.tenant > $1 AND ($2::text IS NULL OR t.tenant = $2)
GROUP BY t.tenant ORDER BY t.tenant LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Selects keys; a field that is None selects all.

    Attributes:
        text: Part of a name, tenant, agent or user in any case, the beginning of a shown prefix, or an id.
        above: The id of a key, of which the keys below it are selected.
    """

    tenant: str | None = None
    agent: str | None = None
    user: str | None = None
    state: KeyState | None = None
    text: str | None = None
    above: str | None = None

    def arguments(self) -> tuple[str | None, ...]:
        """Returns the arguments of `KEY_CONDITIONS`."""
        return self.tenant, self.agent, self.user, self.state, self.text, display_prefix(""), self.above


@dataclass(frozen=True, slots=True)
class TenantSummary:
    """A tenant with keys or limits of its own.

    Attributes:
        keys: With those that were revoked or have expired.
        switched_off: Whether a kill switch rejects all its calls.
    """

    tenant: str
    keys: int
    active_keys: int
    switched_off: bool


async def list_tenants(
    pool: Pool, *, tenant: str | None = None, after: str = "", limit: int = 100
) -> list[TenantSummary]:
    """Returns tenants ordered by name; `tenant` selects one, `after` is the last name of the page before."""
    async with admin_transaction(pool) as connection:
        rows = await connection.fetch(_TENANTS, after, tenant, limit)
    return [TenantSummary(**dict(row)) for row in rows]
