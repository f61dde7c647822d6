"""What lies on a key, for an operator: where it stands at its limits, and the rules that cover it.

Invariant: a store that is away leaves figures out and nothing else; whoever asks was let in before.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from starlette.requests import Request

from llm_proxy.admission import Admission, standing_of
from llm_proxy.edge.limits import Looked, OfKey, standing_row
from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import Admin, KeyRecord, Registry, Rulings
from llm_proxy.identity.caller import OF_ALL
from llm_proxy.identity.keys import acting_as, ended
from llm_proxy.identity.rules import lies_on
from llm_proxy.identity.spoken import rule_document
from llm_proxy.json_access import Json
from llm_proxy.upstream import Catalog


class KeyStanding:
    """Tells of keys.

    Attributes:
        catalog: What the sidecar serves; None while nobody knows.
    """

    def __init__(
        self,
        admission: Admission,
        registry: Registry | None,
        rulings: Rulings | None,
        catalog: Callable[[], Catalog | None],
    ) -> None:
        self.catalog = catalog
        self._admission = admission
        self._registry = registry
        self._rulings = rulings

    async def _record(self, name: str, tenant: str | None) -> KeyRecord:
        """A key by its id, name or prefix; with `tenant`, only one of that tenant's. Raises `NotFound`."""
        if self._registry is None:
            raise StoreUnavailable("Virtual keys need a database (DATABASE_URL).")
        return await self._registry.show(name, tenant=tenant)

    def asked_by(self, admin: Callable[[Request], Awaitable[Admin]]) -> OfKey:
        """How a request asks about a key: as an admin, of one tenant's keys or of all."""

        async def of_key(request: Request, name: str) -> Looked:
            who = await admin(request)
            record = await self._record(name, who.tenant)
            return Looked(acting_as(record), who.tenant is None, ended(record, datetime.now(UTC)))

        return of_key

    async def of(self, record: KeyRecord, *, of_all: bool) -> Json:
        """Limits and rules of a key; limits are null while nobody can tell.

        `of_all` is off for who may not know what several tenants use together.
        """
        rules = await self._rulings.rules() if self._rulings is not None else []
        told = (rule for rule in rules if of_all or rule.scope not in OF_ALL)
        on_it = [rule_document(rule) for rule in told if lies_on(rule, record.key_id, record.spec)]
        try:
            found = await standing_of(self._admission, acting_as(record))
        except StoreUnavailable:
            return {"limits": None, "rules": on_it}
        return {"limits": [standing_row(one, of_all=of_all) for one in found.standings], "rules": on_it}
