"""Links in a request that somebody behind us would fetch: images, files, videos, tool servers.

Pure. Invariants: a link is read as the strictest reader would; one that names this machine or a private
network, by address or by a name that only such networks have, is refused before anything is forwarded. What
a public name resolves to is not asked here: that is for the sidecar's network to forbid.
Source: RFC 3986; RFC 6890 and RFC 6761 (special addresses and names); inet_aton(3) for old spellings.
"""

import ipaddress
import re
import socket
from collections.abc import Iterator
from typing import cast
from urllib.parse import unquote, urlsplit

from llm_proxy.errors import BadRequest
from llm_proxy.upstream.shape import Json, as_objects

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):", re.ASCII)
_FETCHED = frozenset({"http", "https"})
_NOT_FETCHED = frozenset({"data", "gs", "s3"})
"""Inline, or an object store the provider reads with its own credentials."""

_STRANGE = re.compile(r"[\\\x00-\x1f\x7f]")
_OLD_ADDRESS = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)(?:\.(?:0[xX][0-9A-Fa-f]*|[0-9]+)){0,3}", re.ASCII)
_LOCAL_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "arpa", "test", "onion")
_DEPTH = 6


def refuse_private(body: Json) -> None:
    """Raises `BadRequest`, naming the field, for a link into a private network, or one that is unsound."""
    for where, link in _links(body):
        fault = _fault(link)
        if fault is not None:
            raise BadRequest(f"Invalid '{where}': {fault}.", param=where, code="invalid_url")


def _links(body: Json) -> Iterator[tuple[str, str]]:
    """Every text that may be a link, with the field it stands in."""
    for number, message in enumerate(as_objects(body.get("messages"))):
        content = message.get("content")
        if isinstance(content, str):
            continue
        for at, part in enumerate(as_objects(content)):
            if part.get("type") != "text":
                yield from _texts(part, f"messages[{number}].content[{at}]", _DEPTH)
    for number, tool in enumerate(as_objects(body.get("tools"))):
        if tool.get("type", "function") != "function":
            yield from _texts(tool, f"tools[{number}]", _DEPTH)


def _texts(value: object, where: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif depth and isinstance(value, dict):
        for name, inner in cast("Json", value).items():
            yield from _texts(inner, f"{where}.{name}", depth - 1)
    elif depth and isinstance(value, list):
        for at, inner in enumerate(cast("list[object]", value)):
            yield from _texts(inner, f"{where}[{at}]", depth - 1)


def _fault(text: str) -> str | None:
    """What is wrong with a text as a link; None for a good link and for what is none."""
    found = _SCHEME.match(text)
    if found is None:
        return "not a whole URL" if text.lstrip().startswith("//") else None
    scheme = found[1].lower()
    if scheme in _NOT_FETCHED:
        return None
    if scheme not in _FETCHED:
        return "only `https`, `http` and `data` URLs are read" if "://" in text or scheme == "file" else None
    try:
        parts = urlsplit(text.strip())
        host = unquote(parts.hostname or "").rstrip(".").lower()
        _ = parts.port
    except ValueError:
        return "not a URL"
    if _STRANGE.search(text) or _STRANGE.search(host) or "@" in parts.netloc or " " in host or not host:
        return "not a plain URL"
    return "it leads into a private network" if _is_private(host) else None


def _is_private(host: str) -> bool:
    address = _address(host)
    if address is not None:
        inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
        return not (address.is_global and inner.is_global) or address.is_multicast
    return "." not in host or host.rpartition(".")[2] in _LOCAL_NAMES


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address a host is, in any spelling a resolver takes; None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    if _OLD_ADDRESS.fullmatch(host) is None:
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return ipaddress.IPv4Address(0)
