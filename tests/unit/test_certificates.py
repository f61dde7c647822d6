"""When certificates end: read from servers of every kind, also after their end, without their names."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llm_proxy.certificates import not_after

NOW = datetime.now(UTC).replace(microsecond=0)
SSL_REQUEST_BYTES = 8


def certificate(folder: Path, ends_at: datetime) -> ssl.SSLContext:
    """Returns what a server needs to show a self-signed certificate that ends then."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "elsewhere.example")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(ends_at - timedelta(days=90))
        .not_valid_after(ends_at)
        .sign(key, hashes.SHA256())
    )
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{ends_at.timestamp()}.pem"
    file.write_bytes(text + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@asynccontextmanager
async def server(context: ssl.SSLContext, *, is_postgres: bool = False) -> AsyncGenerator[int]:
    """Runs a server that speaks TLS, as Postgres does or at once; returns its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_postgres:
            assert await reader.readexactly(SSL_REQUEST_BYTES) == b"\0\0\0\x08\x04\xd2\x16/"
            writer.write(b"S")
            await writer.start_tls(context)
        assert await reader.read(1) == b""  # nothing but the handshake
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if is_postgres else context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


@pytest.mark.parametrize("days", [-3, 1, 300])
async def test_the_end_is_read_before_and_after_it(tmp_path: Path, days: int) -> None:
    """Of every kind of server, whatever the name in its certificate."""
    ends_at = NOW + timedelta(days=days)
    context = certificate(tmp_path, ends_at)
    async with server(context) as port, server(context, is_postgres=True) as postgres:
        for url in (
            f"https://127.0.0.1:{port}/path",
            f"rediss://user:p%40ss@127.0.0.1:{port}/0",
            f"rediss+cluster://:secret@127.0.0.1:{port}",
            f"postgresql://u:p@127.0.0.1:{postgres}/db?application_name=x&sslmode=require",
            f"postgresql://u:p@127.0.0.1:{postgres}/db?sslmode=verify-full&sslrootcert=/there",
        ):
            assert await not_after(url) == ends_at, url


async def test_of_several_hosts_the_first_end_counts(tmp_path: Path, free_port: int) -> None:
    """One that is away hides none."""
    early, late = NOW + timedelta(days=5), NOW + timedelta(days=50)
    async with server(certificate(tmp_path, late)) as one, server(certificate(tmp_path, early)) as other:
        hosts = f"127.0.0.1:{one},127.0.0.1:{free_port},127.0.0.1:{other}"
        assert await not_after(f"rediss+sentinel://u:p@{hosts}/service?db=0") == early


async def test_without_tls_there_is_none(free_port: int) -> None:
    """Nobody is connected to."""
    for url in (
        f"http://127.0.0.1:{free_port}",
        f"redis://127.0.0.1:{free_port}/0",
        f"postgresql://u:p@127.0.0.1:{free_port}/db",
        f"postgresql://u:p@127.0.0.1:{free_port}/db?sslmode=prefer",
        "postgresql:///db?host=/run/postgresql&sslmode=disable",
        "unix:///run/valkey.sock?db=0",
    ):
        assert await not_after(url) is None, url


async def test_a_server_that_is_away_or_silent_is_an_error(free_port: int) -> None:
    """Within the time that is given."""
    with pytest.raises(OSError, match="Connect"):
        await not_after(f"rediss://127.0.0.1:{free_port}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TimeoutError):
            await not_after(f"https://127.0.0.1:{port}", timeout_s=0.2)
