"""Rejects URLs in a request that would be fetched from a private network: images, files, tool servers.

Pure. Invariants: a URL is read as the most lenient client would read it; one that names this machine or a
private network is rejected. Public names are not resolved: the sidecar's network must forbid private ones
behind them. Source: WHATWG URL (tabs, line ends, backslashes); UTS 46 (host names); RFC 6890, 6761 (special
addresses, names); RFC 4291, 6052, 3056, 5214 (IPv4 within IPv6); inet_aton(3) for old spellings.
"""

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Iterator
from typing import cast
from urllib.parse import unquote, urlsplit

from idna import IDNAError, uts46_remap

from llm_proxy.errors import BadRequest
from llm_proxy.json_access import CONTAINERS, Json, as_list, as_object, as_objects, is_object

_SKIPPED = r"[\s\x00-\x20\x7f-\xa0\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*"
_SCHEME = re.compile(_SKIPPED + r"([A-Za-z](?:[\t\r\n]*[A-Za-z0-9+.-]){0,63})[\t\r\n]*:")
_UNFINISHED = re.compile(_SKIPPED + r"(?:[A-Za-z](?:[\t\r\n]*[A-Za-z0-9+.-]){0,63})?[\t\r\n]*")
_HEAD_CHARS, _MAX_URL_CHARS = 4096, 16_384
"""Characters within which a scheme must end; of the longest URL that is fetched."""
_NO_SCHEME = re.compile(_SKIPPED + r"[/\\][\t\r\n]*[/\\]")
_FETCHED = frozenset({"http", "https"})
_NOT_FETCHED = frozenset({"data", "gs", "s3"})
"""Inline, or an object store the provider reads with its own credentials."""

_FORBIDDEN = re.compile(r"[\\\x00-\x1f\x7f]")
_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*")
_OLD_ADDRESS = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)(?:\.(?:0[xX][0-9A-Fa-f]*|[0-9]+))*", re.ASCII)
_LOCAL_NAMES = frozenset(
    {
        "localhost", "localdomain", "local", "internal", "intranet", "intra", "intern", "private", "priv",
        "lan",
        "home", "corp", "domain", "workgroup", "router", "arpa", "test", "invalid", "onion", "alt", "i2p",
        "svc", "pod", "cluster", "default", "kube-system", "consul", "nomad", "docker", "mesh", "node",
        "service",
    }
)  # fmt: skip
"""Last labels of names that only private networks have; `arpa` for `home.arpa`, `default` for a namespace."""
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PRIVATE_IPV4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/3", "168.63.129.16/32",
        ),
    )
)  # fmt: skip
_PRIVATE_IPV6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
"""Within `_PUBLIC_IPV6`. Written out, because Python's own lists differ between releases; the last of IPv4 is
reachable from Azure's machines alone."""
_NEVER_FETCHED = frozenset(
    {
        "messages", "tools", "functions", "prompt", "suffix", "stop", "metadata", "user", "model",
        "prediction",
        "response_format", "tool_choice", "reasoning", "input", "documents", "query",
    }
)  # fmt: skip
"""Top-level fields that are checked elsewhere, or whose strings are never fetched."""
_TEXT_PART_STRINGS = frozenset({"text"})
_FUNCTION_STRINGS = frozenset({"function", "name", "description", "parameters", "input_schema"})
_FUNCTION_FIELDS = _FUNCTION_STRINGS | {"type"}
_MEDIA_FIELDS = frozenset(
    {"audio", "images", "image_url", "video_url", "audio_url", "files", "file", "videos"}
)
"""Fields of a message beside its content."""
_OF_PARTS = frozenset({"tools", "input", "documents", "query"})
_RANKED_IMAGES = frozenset({"image", "image_url"})
"""Fields of a document, and of a query, that a multimodal reranker fetches."""

INVALID_URL = "invalid_url"
"""The code of its errors."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def reject_private_urls(body: Json) -> None:
    """Raises `BadRequest`, naming the field, for a URL into a private network or an invalid one."""
    for path, text in fetched_strings(body):
        error = url_error(text)
        if error is not None:
            raise BadRequest(f"Invalid '{path}': {error}.", param=path, code=INVALID_URL)


def fetched_strings(body: Json) -> Iterator[tuple[str, str]]:
    """Yields every string that may be fetched, with the path of its field."""
    for number, message in enumerate(as_objects(body.get("messages"))):
        if not (isinstance(message.get("content"), str) and _MEDIA_FIELDS.isdisjoint(message)):
            yield from _of_message(message, f"messages[{number}]")
    if not _OF_PARTS.isdisjoint(body):
        yield from _of_parts(body)
    for name, value in body.items():
        if name in _NEVER_FETCHED:
            continue
        if type(value) in CONTAINERS or (isinstance(value, str) and name.endswith(("url", "uri"))):
            yield from strings_below(value, name)


def _of_message(message: Json, path: str) -> Iterator[tuple[str, str]]:
    for at, part in enumerate(as_objects(message.get("content"))):
        yield from strings_below(_without(part, "text", _TEXT_PART_STRINGS), f"{path}.content[{at}]")
    for name in _MEDIA_FIELDS & message.keys():
        yield from strings_below(message[name], f"{path}.{name}")


def _of_parts(body: Json) -> Iterator[tuple[str, str]]:
    """Yields what is fetched of `_OF_PARTS`."""
    for number, tool in enumerate(as_objects(body.get("tools"))):
        if tool.get("type") != "function" or not tool.keys() <= _FUNCTION_FIELDS:
            yield from strings_below(_without(tool, "function", _FUNCTION_STRINGS), f"tools[{number}]")
    for at, one in enumerate(as_objects(body.get("input"))):
        yield from strings_below(_without(one, "text", _TEXT_PART_STRINGS), f"input[{at}]")
    if "documents" in body or "query" in body:
        yield from _ranked_images(body)


def _ranked_images(body: Json) -> Iterator[tuple[str, str]]:
    """Yields the images among what is ranked, and of the query; a document's other fields are only read."""
    documents = enumerate(as_list(body.get("documents")))
    ranked = [(f"documents[{at}]", one) for at, one in documents if is_object(one)]
    for path, one in (*ranked, ("query", as_object(body.get("query")))):
        for name in _RANKED_IMAGES & one.keys():
            yield from strings_below(one[name], f"{path}.{name}")


def _without(part: Json, kind: str, names: frozenset[str]) -> Json:
    """Returns the part, without `names` if it is of `kind`: their strings are never fetched."""
    if part.get("type", kind) != kind:
        return part
    return {name: value for name, value in part.items() if name not in names}


def strings_below(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Yields every string of a value, each with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in cast("Json", value).items():
            yield from strings_below(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for at, inner in enumerate(cast("list[object]", value)):
            yield from strings_below(inner, f"{path}[{at}]")


def url_error(text: str) -> str | None:
    """Returns what is wrong with a string as a URL; None for a valid URL and for a string that is none."""
    head = text[:_HEAD_CHARS] if text.isascii() else unicodedata.normalize("NFKC", text[:_HEAD_CHARS])
    found = _SCHEME.match(head)
    if found is None:
        unfinished = len(text) > _HEAD_CHARS and _UNFINISHED.fullmatch(head)
        return "not a complete URL" if unfinished or _NO_SCHEME.match(head) else None
    scheme = re.sub(r"[\t\r\n]", "", found[1]).lower()
    if scheme in _NOT_FETCHED:
        return None
    if scheme not in _FETCHED:
        return "only `https`, `http` and `data` URLs are read" if "://" in head or scheme == "file" else None
    if len(text) > _MAX_URL_CHARS or found.start(1) != len(head) - len(head.lstrip()):
        return "not a plain URL"
    return _host_error((head + text[_HEAD_CHARS:]).strip())


def _host_error(url: str) -> str | None:
    """Returns what is wrong with a URL that is fetched; None for a valid one."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        host = _uts46(parts.hostname or "")
    except ValueError:
        return "not a URL"
    if _FORBIDDEN.search(url) or "@" in parts.netloc or ("[" in parts.netloc) != (":" in host):
        return "not a plain URL"
    return "it leads into a private network" if is_private_host(host) else None


def _uts46(host: str) -> str:
    """Maps a host as browsers and HTTP clients do; raises `ValueError` for what none of them accepts."""
    host = unquote(host)
    if ":" in host and "%" not in host:
        return host
    if not host.isascii():
        try:
            host = uts46_remap(host, std3_rules=False, transitional=False)
        except IDNAError as none:
            raise ValueError("no host name") from none
        host = "".join(str(unicodedata.decimal(sign, sign)) for sign in host)
    host = host.rstrip(".").lower()
    if _NAME.fullmatch(host) is None:
        raise ValueError("no host name")
    return host


def is_private_host(host: str) -> bool:
    """Returns whether a host mapped by UTS 46 is this machine or in a private network, by address or name."""
    address = _address(host)
    if address is None:
        return "." not in host or host.rpartition(".")[2] in _LOCAL_NAMES
    inner = _embedded_ipv4(address)
    if inner is not None and any(inner in one for one in _PRIVATE_IPV4):
        return True
    if isinstance(address, ipaddress.IPv6Address) and address not in _NAT64:
        return address not in _PUBLIC_IPV6 or any(address in one for one in _PRIVATE_IPV6)
    return False


def _embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """Returns the IPv4 address in an address: itself, mapped, compatible, NAT64, 6to4, ISATAP."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.sixtofour is not None:
        return address.sixtofour
    upper = int(address) >> 32
    embeds = upper in {0, 0xFFFF, 0xFFFF0000} or address in _NAT64 or upper & 0xFDFFFFFF == 0x5EFE
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if embeds else None


def _address(host: str) -> Address | None:
    """Returns the address of a host in any spelling that a resolver accepts; None for a name.

    An invalid address is read as 0.0.0.0: a host that ends in a number is no name (WHATWG URL).
    """
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host)
        except ValueError:
            return ipaddress.IPv4Address(0)
    if _OLD_ADDRESS.fullmatch(host.rpartition(".")[2]) is None:
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return ipaddress.IPv4Address(0)
