"""A caller's share of the slots while calls wait for them: weights of its tenant and key, class of its calls.

Pure but for the watcher's snapshot. Invariants: no call is in a higher class than the rules of its tenant,
its key and the keys above allow; a rule in mode `shadow` or `off` changes no share; a rule that names a
tenant or key replaces the scope's default, field by field. Weights are relative to `DEFAULT_WEIGHT`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llm_proxy.identity.caller import ANY, Caller, Priority
from llm_proxy.identity.policies import LimitPolicy, PolicySnapshot, PolicyWatcher

DEFAULT_WEIGHT = 100
MAX_WEIGHT = 10_000
MAX_SHARES = 10_000


@dataclass(frozen=True, slots=True)
class QueueShare:
    """Whose a call is in the queue, and how it counts there.

    Attributes:
        tenant: Empty for calls without one, which share a place.
        key_id: The key; the root of a child key.
        is_batch: Interactive calls come first.
    """

    tenant: str = ""
    key_id: str = ""
    tenant_weight: int = DEFAULT_WEIGHT
    key_weight: int = DEFAULT_WEIGHT
    is_batch: bool = False


class QueueShares:
    """The shares of callers, by the limit policies of the scopes `tenant` and `key`."""

    def __init__(self, watcher: PolicyWatcher | None = None) -> None:
        self._watcher = watcher
        self._snapshot: PolicySnapshot | None = None
        self._known: dict[tuple[str, str | None], tuple[QueueShare, QueueShare]] = {}

    def share_of(self, caller: Caller, *, wants_batch: bool = False) -> QueueShare:
        """Returns the share of a caller's calls; of batch calls if it wants that, or may have no others."""
        snapshot = self._watcher.snapshot if self._watcher is not None else None
        if snapshot is not self._snapshot:
            self._known.clear()
            self._snapshot = snapshot
        key = caller.key_id, caller.tenant
        shares = self._known.get(key)
        if shares is None:
            if len(self._known) >= MAX_SHARES:
                self._known.clear()
            share = resolve_share(snapshot.policies if snapshot is not None else (), caller)
            shares = self._known[key] = share, replace(share, is_batch=True)
        return shares[wants_batch]


def resolve_share(policies: tuple[LimitPolicy, ...], caller: Caller) -> QueueShare:
    """Returns the share that these policies give a caller, in the highest class that they allow it."""
    tenant, chain = caller.tenant or "", (*(one.key_id for one in caller.above), caller.key_id)
    of_tenant = [*_matching(policies, "tenant", tenant, tenant)] if tenant else []
    of_keys = [[*_matching(policies, "key", tenant, key_id)] for key_id in chain]
    return QueueShare(
        tenant,
        caller.root_key_id,
        _last([one.weight for one in of_tenant], DEFAULT_WEIGHT),
        _last([one.weight for one in of_keys[0]], DEFAULT_WEIGHT),
        is_batch="batch" in {_highest_class(of_tenant), *map(_highest_class, of_keys)},
    )


def _matching(
    policies: tuple[LimitPolicy, ...], scope: str, tenant: str, subject: str
) -> Iterator[LimitPolicy]:
    """Yields the policies of a scope that hold for a subject: the defaults first, the most specific last."""
    for of_tenant, of_subject in ((ANY, ANY), (tenant, ANY), (ANY, subject), (tenant, subject)):
        for one in policies:
            is_named = (one.scope, one.tenant, one.subject) == (scope, of_tenant, of_subject)
            if is_named and one.mode not in {"shadow", "off"}:
                yield one


def _last(values: list[int | None], default: int) -> int:
    return next((value for value in reversed(values) if value is not None), default)


def _highest_class(policies: list[LimitPolicy]) -> Priority:
    highest: Priority = "interactive"
    for one in policies:
        highest = one.priority or highest
    return highest
