"""Keeps the calls of one name together: at the sidecar, and there at the deployment, that served it before.

Invariants: a name leaves the gateway as a digest of tenant, key and name; another key's equal name is another
one; memory is bounded. The previous sidecar is preferred while it is live and hardly busier than the others
(`SLACK_CALLS`). Of one name at most `MAX_AT_ONCE` calls at once are kept together; further ones are spread.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_proxy.dialects import Call
from llm_proxy.identity import Caller
from llm_proxy.identity.run_names import digest_of_names
from llm_proxy.upstream.catalog import Catalog
from llm_proxy.upstream.pool import Sidecar

if TYPE_CHECKING:
    from llm_proxy.call_guard import CallGuard

AFFINITY_HEADER = "x-llmp-affinity"
"""Our sidecar sends calls of one value to one deployment while it is healthy."""
MAX_NAMES = 20_000
MAX_AT_ONCE = 8
SLACK_CALLS, SLACK_SHARE = 4, 1.25
"""How many calls more than the least busy sidecar the preferred one may have."""


class Affinity:
    """The names whose calls stay together."""

    def __init__(self, sources: Sequence[str]) -> None:
        """`sources`, in order: `run`, `prompt_cache_key`, `user`; anything else names nothing."""
        self._sources = tuple(sources)
        self._sidecars: dict[str, Sidecar] = {}
        self._running = Counter[str]()
        self._names: dict[CallGuard, str] = {}

    def name_of(self, call: Call, caller: Caller) -> str | None:
        """Returns the digest of the name whose calls a call belongs to; None for a call on its own."""
        if caller.run_id is None and caller.user is None and "prompt_cache_key" not in call.body:
            return None  # no source names one
        if call.response is not None or call.operation is not None:
            return None
        for source in self._sources:
            name = _name(source, call, caller)
            if name:
                digest = digest_of_names(caller.tenant or "", caller.root_key_id, source, name)
                return digest if self._running[digest] < MAX_AT_ONCE else None
        return None

    def passed_over(self, name: str, sidecars: Sequence[Sidecar]) -> list[Sidecar] | None:
        """Returns the sidecars except the previous one; None where no sidecar is to be preferred."""
        before = self._sidecars.get(name)
        if before is None or before not in sidecars or not before.is_live or len(sidecars) == 1:
            return None
        least = min(one.in_flight for one in sidecars if one.is_live)
        if before.in_flight > least * SLACK_SHARE + SLACK_CALLS:
            return None
        return [one for one in sidecars if one is not before]

    def began(self, name: str, guard: "CallGuard", sidecar: Sidecar) -> None:
        """Notes that a call of a name runs at a sidecar."""
        self._names[guard] = name
        self._running[name] += 1
        self._sidecars.pop(name, None)
        self._sidecars[name] = sidecar
        if len(self._sidecars) > MAX_NAMES:
            del self._sidecars[next(iter(self._sidecars))]

    def ended(self, guard: "CallGuard") -> None:
        """Notes that a call has ended; one of no name is not known."""
        name = self._names.pop(guard, None)
        if name is not None:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]


def header_of(name: str, call: Call, catalog: Catalog | None) -> str:
    """Returns the header line for our sidecar; none where a call's group has one deployment."""
    if catalog is None or not catalog.is_ours:
        return ""
    group = catalog.groups.get(call.group)
    return f"{AFFINITY_HEADER}: {name}\r\n" if group is None or len(group.deployments) > 1 else ""


def _name(source: str, call: Call, caller: Caller) -> str | None:
    if source == "run":
        return caller.run_id
    if source == "user":
        return caller.user
    value = call.body.get(source)
    return value if isinstance(value, str) else None
