"""A change of keys, limits or prices, tried on recorded calls before it is saved."""

from collections.abc import Mapping, Sequence

from llm_proxy.console.gateway_api import GatewayAPI
from llm_proxy.json_access import Json

RANGES = (("24h", "the last day"), ("7d", "the last 7 days"), ("30d", "the last 30 days"))
_KNOWN = frozenset(name for name, _ in RANGES)


async def simulate(
    api: GatewayAPI,
    since: str,
    *,
    keys: Mapping[str, Json] | None = None,
    rules: Sequence[Json] = (),
) -> Json:
    """Returns what the admin API's simulation finds; raises `GatewayRejected`.

    Args:
        api: The gateway, with the viewer's credential.
        since: One of `RANGES`; anything else is a day.
        keys: By id the fields of a key that change.
        rules: Limit policies; each replaces the present one of the same scope and names.
    """
    body = {"since": since if since in _KNOWN else "24h", "keys": keys or {}, "rules": list(rules)}
    return await api.send("POST", "/admin/simulate", body)
