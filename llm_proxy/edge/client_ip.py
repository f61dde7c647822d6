"""The address a request came from, through proxies the operator trusts.

Pure. Invariants: `X-Forwarded-For` is believed only from a trusted peer; all its lines are one list, read
from the right, up to the first address that is not trusted itself, so that no line of a caller's own counts.
Source: RFC 9110, 5.3 (lists); RFC 7239, 6 (ports and brackets).
"""

import ipaddress
import re
from collections.abc import Iterable

from llm_proxy.edge.request import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")


class ClientIp:
    """Tells a request's address."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted: list[Network] = [ipaddress.ip_network(one, strict=False) for one in trusted]

    def __call__(self, scope: Scope) -> str | None:
        """The caller's address, as text; None when the connection has none."""
        client: tuple[str, int] | None = scope.get("client")
        peer = client[0] if client else None
        if peer is None or not self._trusted:
            return peer
        found = _address(peer)
        for hop in reversed(_hops(scope)):
            nearer = _address(hop)
            if found is None or nearer is None or not self._trusts(found):
                break
            found = nearer
        return peer if found is None else str(found)

    def _trusts(self, address: Address) -> bool:
        return any(address in one for one in self._trusted)


def _hops(scope: Scope) -> list[str]:
    said = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    return [hop.strip() for hop in said.decode("latin-1").split(",") if hop.strip()]


def _address(hop: str) -> Address | None:
    """The address a hop is, without port, brackets or quotes; IPv4 where it is that within IPv6."""
    hop = hop.strip('"')
    if (found := _WITH_PORT.fullmatch(hop)) is not None:
        hop = found[1] or found[2]
    try:
        address = ipaddress.ip_address(hop)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
