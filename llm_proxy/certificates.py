"""When the TLS certificates of servers expire: of a Postgres, a Redis or Valkey, an HTTPS server.

Invariants: a certificate is read without verification, so that an expired one is read, too; nothing but
the handshake is sent, no name and no password. Sources: RFC 5280, and the SSLRequest of
https://www.postgresql.org/docs/18/protocol-flow.html.
"""

import asyncio
import re
import ssl
from datetime import datetime
from urllib.parse import unquote, urlsplit

from llm_proxy.redis_urls import redis_address

CERTIFICATE_TIMEOUT_S = 5.0
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
_POSTGRES_TLS = re.compile(r"[?&]sslmode=(?:require|verify-ca|verify-full)\b")
_HOST = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<name>[^:]+))(?::(?P<port>\d+))?")
_POSTGRES_PORT, _HTTPS_PORT = 5432, 443


async def not_after(url: str, *, timeout_s: float = CERTIFICATE_TIMEOUT_S) -> datetime | None:
    """Returns when the first certificate of an address's servers ends; None where it is not spoken to by TLS.

    Args:
        url: A normalized address of a store, a sidecar or a page; of several hosts those that answer count.
        timeout_s: For all of them.

    Raises:
        OSError: No host answers, or none speaks TLS; `TimeoutError` is one.
    """
    places = _tls_places(url)
    if not places:
        return None
    is_postgres = url.startswith("postgres")
    async with asyncio.timeout(timeout_s):
        reads = (_read(host, port, is_postgres=is_postgres) for host, port in places)
        found = await asyncio.gather(*reads, return_exceptions=True)
    ends = [one for one in found if isinstance(one, datetime)]
    for fault in found:
        if not ends and isinstance(fault, BaseException):
            raise fault
    return min(ends)


def _tls_places(url: str) -> list[tuple[str, int]]:
    """Returns host and port of each server that the address names and TLS is spoken to."""
    scheme, _, rest = url.partition("://")
    if scheme.startswith("rediss"):
        return list(redis_address(url).hosts)
    if scheme == "https":
        usual = _HTTPS_PORT
    elif scheme.startswith("postgres") and _POSTGRES_TLS.search(url):
        usual = _POSTGRES_PORT
    else:
        return []
    location = urlsplit(f"//{rest}").netloc.rpartition("@")[2]
    hosts = (_HOST.fullmatch(unquote(one)) for one in location.split(","))
    return [
        (match["six"] or match["name"], int(match["port"] or usual))
        for match in hosts
        if match is not None and not (match["name"] or "").startswith("/")
    ]


async def _read(host: str, port: int, *, is_postgres: bool) -> datetime:
    from cryptography.x509 import load_der_x509_certificate  # noqa: PLC0415 -- 8 MB, only where there is TLS

    reader, writer = await asyncio.open_connection(host, port)
    try:
        if is_postgres:
            writer.write(_SSL_REQUEST)
            if await reader.read(1) != b"S":
                raise ssl.SSLError("the server does not speak TLS")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        await writer.start_tls(context, server_hostname=host)
        peer: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = peer.getpeercert(binary_form=True)
    finally:
        writer.close()
    if certificate is None:
        raise ssl.SSLError("the server has no certificate")
    return load_der_x509_certificate(certificate).not_valid_after_utc
