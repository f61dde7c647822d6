"""An ASGI request's head and body, read safely: headers, the bounded body, the client's address.

Invariants: only the headers in `READ_HEADERS` and those that name a run are looked at; a header that must be
single and comes twice with different values is rejected; a body is read after authentication, within
`max_bytes`, compressed or not; `X-Forwarded-For` counts from trusted peers only, right to left. Source:
RFC 9110, 5.3 and 8.4; RFC 7239, 6; ASGI HTTP 2.3.
"""

import ipaddress
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from itertools import chain
from typing import Any, TypeVar

from llm_proxy.edge.request_cycle import BoundedRequestCycle
from llm_proxy.errors import (
    BadRequest,
    BodyTooLarge,
    ExpectationFailed,
    HeadersTooLarge,
    UnsupportedMediaType,
    UnsupportedTransferEncoding,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Made = TypeVar("Made")


class Headers(dict[bytes, bytes]):
    """Headers that are read, each once, by lower-case name.

    Attributes:
        made: What was made of them, by what made it: one for all requests with the same head.
    """

    __slots__ = ("made",)
    made: dict[Callable[["Headers"], Any], Any]

    def derived(self, make: Callable[["Headers"], Made]) -> Made:
        """Returns what `make` makes of the headers, once for each head; it never reads the body's length."""
        found: Made | None = self.made.get(make)
        if found is None:
            found = self.made[make] = make(self)
        return found


def new_headers(pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Returns headers of which nothing was made yet."""
    found = Headers(pairs)
    found.made = {}
    return found


READ_HEADERS = frozenset(
    {
        b"host", b"upgrade", b"expect",
        b"authorization", b"x-internal-secret", b"x-internal-auth", b"x-api-key", b"api-key",
        b"x-goog-api-key", b"x-litellm-api-key", b"anthropic-version", b"anthropic-beta",
        b"content-type", b"content-encoding", b"content-length", b"transfer-encoding", b"cache-control",
        b"x-request-id", b"x-request-timeout", b"x-priority", b"x-provider", b"traceparent", b"tracestate",
        b"x-agent-id", b"x-tenant-id", b"x-session-id", b"x-run-id", b"x-tags", b"x-user-id",
        b"x-forwarded-for", b"idempotency-key",
    }
)  # fmt: skip

LIST_HEADERS = frozenset(
    {
        b"cache-control",
        b"content-encoding",
        b"tracestate",
        b"x-forwarded-for",
        b"x-tags",
        b"anthropic-beta",
    }
)
"""Of those, the headers whose lines form one list (RFC 9110, 5.3)."""

SAME_HEAD = "llm_proxy.same_head"
"""In the scope of a request whose head is an earlier one's: what was read of that, and this body's length."""

_LENGTH = b"content-length"
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_VERSIONS = frozenset({"1.0", "1.1"})


_CLOSED = (("connection", "close"),)
_JSON = b"application/json"
_FORM = b"application/x-www-form-urlencoded"


class ClientDisconnected(Exception):  # noqa: N818 -- named for the state
    """The client disconnected before its body was complete."""


def validate_head(scope: Scope) -> None:
    """Rejects a head that a proxy on the way may read differently.

    The gateway never uses `Host`, but a proxy that does could be misled (RFC 9112, 3.2; CVE-2026-48710). The
    parser drops the body of an upgrade request and would take its bytes for the next request.

    Raises:
        BadRequest: Not HTTP/1.x; a missing, repeated or invalid `Host`; chunks in HTTP/1.0; an `Upgrade`.
        ExpectationFailed: An `Expect` other than one `100-continue` (RFC 9110, 10.1.1).
        UnsupportedTransferEncoding: A transfer coding other than `chunked` (RFC 9112, 6.1).
    """
    version = scope["http_version"]
    if version not in _VERSIONS:
        raise _bad_head("This server speaks HTTP/1.1.", "unsupported_http_version")
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"upgrade":
            raise _bad_head("This server speaks HTTP/1.1 alone; do not ask for an upgrade.", "no_upgrade")
        if name == b"transfer-encoding":
            _validate_transfer_encoding(value, version)
    _validate_host([value for name, value in headers if name == b"host"], version)
    expected = [value.lower() for name, value in headers if name == b"expect"]
    if version == "1.1" and expected not in ([], [b"100-continue"]):
        why = "A request's `Expect` may be `100-continue` and nothing else."
        raise ExpectationFailed(why, headers=_CLOSED)


def _validate_host(hosts: list[bytes], version: str) -> None:
    if len(hosts) > 1:
        raise _bad_head("The request names several hosts.", "invalid_host")
    if not hosts and version == "1.1":
        raise _bad_head("The request has no `Host` header.", "invalid_host")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        raise _bad_head("The `Host` header is not a host.", "invalid_host")


def _validate_transfer_encoding(value: bytes, version: str) -> None:
    if version == "1.0":
        raise _bad_head("HTTP/1.0 has no `Transfer-Encoding`.", "invalid_framing")
    if value.strip().lower() != b"chunked":
        why = "A request's `Transfer-Encoding` may be `chunked` and nothing else."
        raise UnsupportedTransferEncoding(why, headers=_CLOSED)


def _bad_head(message: str, code: str) -> BadRequest:
    return BadRequest(message, code=code, headers=_CLOSED)


def read_headers(scope: Scope, *, max_bytes: int, names: frozenset[bytes] = READ_HEADERS) -> Headers:
    """Returns the headers of `names`, by lower-case name.

    Raises:
        HeadersTooLarge: All headers together have more than `max_bytes`.
        BadRequest: Two different values of a header that is no list; what `validate_head` raises.
    """
    same: tuple[dict[frozenset[bytes], Headers], bytes] = scope.get(SAME_HEAD, ({}, b""))
    kept, length = same
    if (known := kept.get(names)) is not None and len(known[_LENGTH]) == len(length):
        found = Headers(known)
        found[_LENGTH], found.made = length, known.made
        return found
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    pairs = [pair for pair in headers if pair[0] in names]
    found = new_headers(pairs)
    if sum(map(len, chain.from_iterable(headers))) > max_bytes:
        raise HeadersTooLarge("The request's headers are too large.")
    host = found.get(b"host")
    odd = host is None or b"upgrade" in found or scope["http_version"] != "1.1" or not _HOST.fullmatch(host)
    odd = odd or found.get(b"transfer-encoding", b"chunked") != b"chunked" or b"expect" in found
    if odd or len(found) < len(pairs):
        validate_head(scope)
        found = _merge_repeated(pairs)
    if length:
        kept[names] = found
    return found


def _merge_repeated(pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Returns each header once; raises `BadRequest` for two values of one that is no list."""
    found = new_headers(())
    for name, value in pairs:
        if name in LIST_HEADERS and name in found:
            found[name] += b", " + value
        elif found.setdefault(name, value) != value:
            shown = name.decode()
            why = f"The header `{shown}` appears twice with different values."
            raise BadRequest(why, param=shown, code="duplicate_header")
    return found


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], *, max_bytes: int) -> bytes:
    """Returns the complete body, decompressed; `CallGuard` bounds the time it may take.

    Raises:
        BodyTooLarge: More than `max_bytes`, as sent or decompressed.
        UnsupportedMediaType: Not JSON, or another `Content-Encoding` than gzip or deflate.
        ClientDisconnected: The client disconnected before the body was complete.
    """
    kind = headers.get(b"content-type", _JSON)
    if kind != _JSON:
        _validate_content_type(kind)
    cycle = getattr(receive, "__self__", None)
    body = cycle.read_whole() if isinstance(cycle, BoundedRequestCycle) else None
    if body is None:
        length = headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        body = await _receive_body(receive, max_bytes)
    elif len(body) > max_bytes:
        raise _too_large(max_bytes)
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else _decompress(body, encoding.strip().lower(), max_bytes)


async def _receive_body(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        part = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _validate_content_type(kind: bytes) -> None:
    kind = kind.partition(b";")[0].strip().lower()
    if kind != _JSON and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        hint = " With curl: -H 'Content-Type: application/json'." if kind == _FORM else ""
        raise UnsupportedMediaType(f"The request's `Content-Type` must be `application/json`.{hint}")


def _decompress(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnsupportedMediaType("The request's `Content-Encoding` must be gzip, deflate or identity.")
    decompressor = zlib.decompressobj(wbits=47 if encoding != b"deflate" else 15)
    try:
        plain = decompressor.decompress(body, max_bytes + 1)
    except zlib.error:
        raise BadRequest("The request's body is not what its `Content-Encoding` says.") from None
    if len(plain) > max_bytes or decompressor.unconsumed_tail:
        raise _too_large(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise BadRequest("The request's compressed body is not one complete stream.")
    return plain


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request's body is larger than {max_bytes} bytes.")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")


class ClientAddress:
    """Finds the client's address behind trusted proxies."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted: list[Network] = [ipaddress.ip_network(one, strict=False) for one in trusted]

    def __call__(self, scope: Scope) -> str | None:
        """Returns the client's address as text; None when the connection has none."""
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
    value = b",".join(line for name, line in scope["headers"] if name == b"x-forwarded-for")
    return [hop.strip() for hop in value.decode("latin-1").split(",") if hop.strip()]


def _address(hop: str) -> Address | None:
    """Returns a hop's address without port, brackets or quotes, None if it has none; mapped IPv4 as IPv4."""
    hop = hop.strip('"')
    if (found := _WITH_PORT.fullmatch(hop)) is not None:
        hop = found[1] or found[2]
    try:
        address = ipaddress.ip_address(hop)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
