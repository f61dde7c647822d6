"""How each part of the gateway is, from what the stages already know.

Invariants: asks nobody anything; `down` means that no request can be served, `degraded` that something is
missing all the same; no address and no secret is told.
"""

from collections.abc import Callable

from llm_proxy import background
from llm_proxy.admission import Admission
from llm_proxy.edge.health import Part
from llm_proxy.ledger import Ledger
from llm_proxy.upstream import Client


class Parts:
    """The parts of one gateway; call it for how they are."""

    def __init__(
        self,
        client: Client | None,
        admission: Admission,
        ledger: Ledger,
        *,
        spools: bool,
        draining: Callable[[], bool],
    ) -> None:
        """`client` is None in mock mode; `spools` is False when records wait in memory."""
        self._client = client
        self._admission = admission
        self._ledger = ledger
        self._spools = spools
        self._draining = draining

    def __call__(self) -> list[Part]:
        """Every part."""
        leaving = self._draining()
        parts = [Part("gateway", "down" if leaving else "ok", "draining" if leaving else "")]
        if self._client is not None:
            parts.append(self._sidecars(self._client))
        limits, kept = self._admission.state(), self._ledger.state()
        away = "down" if limits.denies_all else "degraded"
        parts.append(Part("limits", away if limits.store == "away" else "ok", limits.store))
        taken = kept.postgres in {"up", "off"}
        told = f"{kept.postgres}; {kept.work}" if kept.work else kept.postgres
        parts.append(Part("database", "ok" if taken else "degraded", told))
        if failing := background.failing():
            parts.append(Part("background", "degraded", f"failing: {', '.join(failing)}"))
        if not self._spools:
            parts.append(Part("spool", "degraded", "records wait in memory"))
        return parts

    @staticmethod
    def _sidecars(client: Client) -> Part:
        """None counts as live before one has said what it serves."""
        sidecars = client.pool.sidecars
        live = sum(one.live and one.served > 0 for one in sidecars) if client.introduced else 0
        state = "down" if live == 0 else "degraded" if live < len(sidecars) else "ok"
        return Part("sidecars", state, f"{live} of {len(sidecars)} live")
