"""The address a request came from, through proxies the operator trusts.

Pure. Invariants: `X-Forwarded-For` is believed only from a trusted peer, read from the right, up to the
first address that is not trusted itself.
"""

import ipaddress
from collections.abc import Iterable

from llm_proxy.edge.request import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientIp:
    """Tells a request's address."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted: list[Network] = [ipaddress.ip_network(one, strict=False) for one in trusted]

    def __call__(self, scope: Scope) -> str | None:
        """The caller's address, as text; None when the connection has none."""
        client: tuple[str, int] | None = scope.get("client")
        peer = client[0] if client else None
        if peer is None or not self._trusted or not self._trusts(peer):
            return peer
        hops = _hops(scope)
        for hop in reversed(hops):
            if not self._trusts(hop):
                return hop if _is_address(hop) else peer
        return hops[0] if hops and _is_address(hops[0]) else peer

    def _trusts(self, address: str) -> bool:
        return _is_address(address) and any(ipaddress.ip_address(address) in one for one in self._trusted)


def _hops(scope: Scope) -> list[str]:
    said = next((value for name, value in scope["headers"] if name == b"x-forwarded-for"), b"")
    return [hop.strip() for hop in said.decode("latin-1").split(",") if hop.strip()]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
