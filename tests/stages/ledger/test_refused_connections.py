"""Why Postgres was not reached: one line for each way in which an address is wrong, without its secrets."""

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import run

from llm_proxy.ledger.usage_store import open_usage
from llm_proxy.postgres_urls import parse_postgres_url
from llm_proxy.schema import migrate
from llm_proxy.schema.connections import gateway_pools
from llm_proxy.schema.database import DatabaseUnavailable, db_deadline, write_rows

SECRET = "S3cretPart"


@pytest.fixture
def location(postgres_url: str) -> str:
    """Host and port of the server."""
    return postgres_url.rpartition("@")[2].partition("/")[0]


WRONG = {
    "wrong-password": ("u:S3cretPart@{at}/postgres", 'password authentication failed for user "u"'),
    "no-password": ("llm_proxy@{at}/postgres", "password"),
    "no-database": ("{owner}@{at}/nowhere", 'database "nowhere" does not exist'),
    "tls-refused": ("{owner}@{at}/postgres?sslmode=require", "it refuses TLS"),
    "tls-verified": ("{owner}@{at}/postgres?channel_binding=require", "it refuses TLS"),
    "direct-tls": ("{owner}@{at}/postgres?sslmode=require&sslnegotiation=direct", "closed the connection"),
    "unknown-option": ("{owner}@{at}/postgres?options=-c%20no_such_option%3D1", "no_such_option"),
    "cockroach-option": ("{owner}@{at}/postgres?options=--cluster%3Dfoo-123", "cluster"),
    "no-role": ("{owner}@{at}/postgres?role=nobody_knows", "nobody_knows"),
    "wrong-timezone": ("{owner}@{at}/postgres?timezone=Mars", "Mars"),
    "wrong-value": ("{owner}@{at}/postgres?work_mem=much", "work_mem"),
    "host-not-found": ("u:S3cretPart@no-such-host.invalid/d", "its host is not found"),
    "nothing-listens": ("u:S3cretPart@127.0.0.1:1/d", "nothing listens"),
    "no-socket": ("u:S3cretPart@/d?host=/nowhere", "does not exist"),
    "no-ca-file": ("{owner}@{at}/postgres?sslmode=verify-full&sslrootcert=/nowhere.pem", "does not exist"),
    "no-client-cert": ("{owner}@{at}/postgres?sslmode=require&sslcert=/nowhere.crt&sslkey=/k", "exist"),
    "primary-wanted": ("{owner}@{at}/postgres?target_session_attrs=standby", "target_session_attrs"),
    "wrong-attrs": ("{owner}@{at}/postgres?target_session_attrs=fastest", "not understood"),
    "two-hosts": ("{owner}@127.0.0.1:1,127.0.0.1:2/postgres", "nothing listens"),
    "wrong-tls-version": ("{owner}@{at}/postgres?sslmode=require&ssl_min_protocol_version=9", "understood"),
    "no-passfile": ("llm_proxy@{at}/postgres?passfile=/nowhere", "password"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("how", ["usage", "migrate", "gateway"])
async def test_a_refused_connection_is_explained(
    postgres_url: str, location: str, name: str, how: str
) -> None:
    """In the server's words where it answers."""
    form, reason = WRONG[name]
    owner = postgres_url.partition("://")[2].rpartition("@")[0]
    url = parse_postgres_url(f"postgresql://{form.format(at=location, owner=owner)}")
    with pytest.raises(DatabaseUnavailable) as refused:
        await _connect(url, how)
    assert reason in refused.value.reason
    assert SECRET not in refused.value.reason
    assert owner.partition(":")[2] not in refused.value.reason


async def _connect(url: str, how: str) -> None:
    verifies = "sslmode=verify" in url and "sslrootcert" not in url
    tls = ssl.create_default_context() if verifies else None
    if how == "usage":
        async with open_usage(url, tls):
            return
    async with db_deadline(20):
        if how == "migrate":
            await migrate(url, tls=tls)
        else:
            async with gateway_pools(url, tls, "auto")[0] as pool:
                await pool.fetchval("SELECT 1")


async def test_a_password_file_is_read(postgres_url: str, location: str, tmp_path: Path) -> None:
    """libpq's, named by `passfile`."""
    password = postgres_url.partition("://")[2].partition("@")[0].partition(":")[2]
    host, _, port = location.partition(":")
    file = tmp_path / "pgpass"
    file.write_text(f"{host}:{port}:*:llm_proxy:{password}\n")
    file.chmod(0o600)
    url = f"postgresql://llm_proxy@{location}/postgres?passfile={file}"
    async with open_usage(parse_postgres_url(url)) as usage:
        assert usage
    file.write_text(f"{host}:{port}:*:llm_proxy:{SECRET}\n")
    with pytest.raises(DatabaseUnavailable, match="password authentication failed") as refused:
        async with open_usage(parse_postgres_url(url)):
            pytest.fail("it connects")
    assert SECRET not in str(refused.value)


async def test_what_speaks_no_postgres_is_told() -> None:
    """As when the address is a web server's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.listen()
        url = f"postgresql://u:{SECRET}@127.0.0.1:{server.getsockname()[1]}/d?sslmode=disable&connect_timeout=0.2"
        with pytest.raises(DatabaseUnavailable) as refused:
            await _connect(parse_postgres_url(url), "gateway")
    assert refused.value.reason == "it did not answer in time"


async def test_rows_wait_while_the_address_is_rejected(postgres_url: str) -> None:
    """They are not thrown away as if their own values were at fault."""
    pool, _ = gateway_pools(parse_postgres_url(f"{postgres_url}?work_mem=much"), None, "auto")
    rows = ["first", "second"]

    async def write(_: Sequence[str]) -> None:
        async with db_deadline(5), pool.acquire():
            pytest.fail("it connects")

    async with pool:
        with pytest.raises(DatabaseUnavailable, match="rejects a value in its address"):
            await write_rows(rows, write)
    assert rows == ["first", "second"]


async def test_a_service_file_is_read(database_url: str, location: str, tmp_path: Path) -> None:
    """libpq's, named by `PGSERVICEFILE`."""
    user, _, password = database_url.partition("://")[2].partition("@")[0].partition(":")
    host, _, port = location.partition(":")
    name = database_url.rpartition("/")[2]
    known = {"host": host, "port": port, "dbname": name, "user": user, "password": password}
    file = tmp_path / "services"
    file.write_text("[prod]\n" + "".join(f"{field}={value}\n" for field, value in known.items()))
    await run("postgresql:///?service=prod", "migrate", PGSERVICEFILE=str(file))
    again = await run(database_url, "migrate")
    assert again == "nothing to do: the schema has this version\n"
