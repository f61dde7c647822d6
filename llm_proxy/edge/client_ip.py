"""The address a request came from, through proxies the operator trusts.

Pure. Invariants: `X-Forwarded-For` is believed only from a trusted peer, read from the right, up to the
first address that is not trusted itself.
"""

import ipaddress
from collections.abc import Iterable

from starlette.requests import Request

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientIp:
    """Tells a request's address."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted: list[Network] = [ipaddress.ip_network(one, strict=False) for one in trusted]

    def __call__(self, request: Request) -> str | None:
        """The caller's address, as text; None when the connection has none."""
        peer = request.client.host if request.client else None
        if peer is None or not self._trusted or not self._trusts(peer):
            return peer
        hops = [hop.strip() for hop in request.headers.get("x-forwarded-for", "").split(",") if hop.strip()]
        for hop in reversed(hops):
            if not self._trusts(hop):
                return hop if _is_address(hop) else peer
        return hops[0] if hops and _is_address(hops[0]) else peer

    def _trusts(self, address: str) -> bool:
        return _is_address(address) and any(ipaddress.ip_address(address) in one for one in self._trusted)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
