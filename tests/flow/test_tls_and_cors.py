"""TLS to everything behind the gateway, and CORS headers."""

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
from self_signed import self_signed
from sidecars import deployment, run_provider, run_sidecar
from two_sidecars import GatewayOverSidecars, TwoSidecars, run_gateway
from webhook_receiver import run_receiver

from llm_proxy.admission.redis.backend import publish_epochs
from llm_proxy.admission.redis.connection import RedisConnection
from llm_proxy.edge.routes.notifications import webhook_delivery
from llm_proxy.notify import DeliveryFailed, StoredNotification, Webhook, WebhookSender
from llm_proxy.redis_urls import parse_redis_url
from llm_proxy.settings import Settings
from llm_proxy.stack import probe
from llm_proxy.stack.probe import is_port_free

RELAY = Path(__file__).parents[1] / "tls_relay.py"
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for `localhost`, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@contextmanager
def tls_relay(to: int, certificate: tuple[Path, Path], *kind: str) -> Generator[int]:
    """Runs a relay that ends TLS before a plain port; returns its port."""
    port = probe.free_port()
    words = [str(port), str(to), *map(str, certificate), *kind]
    with subprocess.Popen([sys.executable, str(RELAY), *words], env=dict(os.environ)) as relay:
        try:
            end = time.monotonic() + 10
            while is_port_free(port):
                assert time.monotonic() < end
                time.sleep(0.05)
            yield port
        finally:
            relay.kill()


def port_of(url: str) -> int:
    """Returns the port of a store's URL."""
    return int(url.rpartition(":")[2].partition("/")[0])


async def test_sidecar_redis_and_postgres_are_reached_by_tls_with_a_private_ca(
    tmp_path: Path,
    two_sidecars: TwoSidecars,
    certificate: tuple[Path, Path],
    limits_redis_url: str,
    database_url: str,
) -> None:
    """A call is served, both stores are up, and commands reach them by the same setting."""
    redis, postgres = port_of(limits_redis_url), port_of(database_url)
    with (
        tls_relay(two_sidecars.ports[0], certificate) as sidecar_port,
        tls_relay(redis, certificate) as redis_port,
        tls_relay(postgres, certificate, "postgres") as postgres_port,
    ):
        names = {
            "LLM_PROXY__CA_FILE": str(certificate[0]),
            "LLM_PROXY__LITELLM_PROXY_URL": f"https://localhost:{sidecar_port}",
            "LIMITS_REDIS_URL": limits_redis_url.replace("redis://", "rediss://").replace(
                f"127.0.0.1:{redis}", f"localhost:{redis_port}"
            ),
            "DATABASE_URL": database_url.replace(f"127.0.0.1:{postgres}", f"localhost:{postgres_port}")
            + "?sslmode=verify-full",
            "LLM_PROXY__STORE_TIMEOUT_MS": "500",
        }
        with run_gateway(tmp_path, two_sidecars, names, sidecars=0) as made:
            async with httpx.AsyncClient(timeout=20) as client:
                assert (await made.chat(client)).status_code == 200
                shown = await client.get(f"{made.url}/health", headers=made.auth)
            parts = {part["part"]: part for part in shown.json().get("parts", [])}
            assert {name: parts[name]["state"] for name in ("sidecars", "limits", "database")} == {
                "sidecars": "ok",
                "limits": "ok",
                "database": "ok",
            }
        for line in ("migrate", "keys create --name far", "keys revoke far --yes", "usage"):
            assert run_command(tmp_path, names, *line.split()) == (0, "")


async def test_a_sidecar_reaches_cache_and_call_log_by_tls_with_a_private_ca(
    tmp_path: Path, certificate: tuple[Path, Path], cache_redis_url: str, database_url: str
) -> None:
    """The same setting as the gateway's, beside the system's authorities."""
    redis, postgres = port_of(cache_redis_url), port_of(database_url)
    with (
        tls_relay(redis, certificate) as redis_port,
        tls_relay(postgres, certificate, "postgres") as postgres_port,
        run_provider(tmp_path) as provider,
    ):
        secured = cache_redis_url.replace("redis://", "rediss://")
        names = {
            "LLM_PROXY__CA_FILE": str(certificate[0]),
            "CACHE_REDIS_URL": secured.replace(f"127.0.0.1:{redis}", f"localhost:{redis_port}"),
            "LLM_CALLS_DATABASE_URL": database_url.replace(
                f"127.0.0.1:{postgres}", f"localhost:{postgres_port}"
            )
            + "?sslmode=verify-full",
        }
        config = {"model_list": [deployment("a", "openai/a", provider)]}
        with run_sidecar(config, provider, tmp_path, **names) as sidecar:
            prompt = str(uuid4())
            for _ in range(2):
                assert (await sidecar.chat("a", prompt)).status == 200
            assert len(await provider.calls(prompt)) == 1
        connection = await asyncpg.connect(database_url)  # the sidecar's end wrote what was queued
        assert await connection.fetchval("SELECT count(*) FROM llm_calls") >= 1
        await connection.close()


def run_command(folder: Path, names: dict[str, str], *words: str) -> tuple[int, str]:
    """Returns a command's exit code and its errors with these settings."""
    env = {"PATH": os.environ["PATH"], "LLM_PROXY__ENVIRONMENT": "development"} | names
    argv = [sys.executable, "-m", "llm_proxy", *words]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.replace("llm-proxy: this is the only time the key is shown\n", "")


async def test_stores_are_reached_with_the_words_of_other_clients(
    tmp_path: Path, certificate: tuple[Path, Path], limits_redis_url: str, database_url: str
) -> None:
    """Channel binding asks for a verified certificate; Redis's `ssl_` parameters are obeyed."""
    redis, postgres = port_of(limits_redis_url), port_of(database_url)
    with (
        tls_relay(redis, certificate) as redis_port,
        tls_relay(postgres, certificate, "postgres") as postgres_port,
    ):
        location = database_url.replace(f"127.0.0.1:{postgres}", f"localhost:{postgres_port}")
        neon = (
            f"{location.replace('postgresql', 'postgresql+asyncpg')}?sslmode=require&channel_binding=require"
        )
        names = {"DATABASE_URL": f"{neon}&connection_limit=5&pool_timeout=10&schema=public"}
        code, told = run_command(tmp_path, names, "migrate")
        assert (code, "its certificate is not trusted" in told) == (3, True)
        assert run_command(tmp_path, names | {"LLM_PROXY__CA_FILE": str(certificate[0])}, "migrate") == (
            0,
            "",
        )
        url = limits_redis_url.replace("redis://", "valkeys://").replace(
            f"127.0.0.1:{redis}", f"localhost:{redis_port}"
        )
        for query, arrives in (
            ("", False),
            (f"?ssl_ca_certs={certificate[0]}", True),
            ("?ssl_cert_reqs=none", True),
        ):
            assert await publish_epochs(parse_redis_url(url + query), {"keys": 1}) is arrives


async def test_a_schema_and_split_variables_are_obeyed(tmp_path: Path, database_url: str) -> None:
    """The tables are made in the schema that Prisma's parameter names, in LiteLLM's variables."""
    url = urlsplit(database_url)
    names = {
        "DATABASE_HOST": str(url.hostname),
        "DATABASE_PORT": str(url.port),
        "DATABASE_USERNAME": str(url.username),
        "DATABASE_PASSWORD": str(url.password),
        "DATABASE_NAME": url.path[1:],
        "DATABASE_SCHEMA": "Lite-LLM",
    }
    code, told = run_command(tmp_path, names, "migrate")
    assert (code, "it has no such schema" in told) == (3, True)
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute('CREATE SCHEMA "Lite-LLM"')
        assert run_command(tmp_path, names, "migrate") == (0, "")
        assert await connection.fetchval("SELECT to_regclass('\"Lite-LLM\".requests') IS NOT NULL")
    finally:
        await connection.close()


async def test_a_wrong_redis_password_is_said(
    limits_redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log of the start, without the password."""
    url = f"redis://:S3cretPart@127.0.0.1:{port_of(limits_redis_url)}"
    connection = RedisConnection(url, timeout_s=0.5, load_commands=list)
    await connection.start()
    await connection.stop()
    told = [str(vars(record).get("why")) for record in caplog.records]
    assert "it refuses this user or password" in told
    assert "S3cretPart" not in " ".join(told)


async def test_a_sidecar_with_an_untrusted_certificate_gets_no_call(
    tmp_path: Path, two_sidecars: TwoSidecars, certificate: tuple[Path, Path]
) -> None:
    """Without the CA the gateway is not ready."""
    with tls_relay(two_sidecars.ports[0], certificate) as port:
        names = {"LLM_PROXY__LITELLM_PROXY_URL": f"https://localhost:{port}"}
        with run_gateway(tmp_path, two_sidecars, names, sidecars=0, ready=False) as made:
            async with httpx.AsyncClient(timeout=20) as client:
                assert (await made.chat(client)).status_code == 502
                assert (await client.get(f"{made.url}/health/ready")).status_code == 503
            assert not await made.seen()


async def request_from_page(made: GatewayOverSidecars, method: str, path: str, origin: str) -> httpx.Headers:
    """Returns the response headers of a request with that origin."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang,x-goog-api-client",
    }
    async with httpx.AsyncClient(timeout=20) as client:
        headers = asked if method == "OPTIONS" else made.auth | {"Origin": origin}
        body = made.body() if method == "POST" else None
        return (await client.request(method, made.url + path, headers=headers, json=body)).headers


async def test_only_pages_of_configured_origins_may_call(tmp_path: Path, two_sidecars: TwoSidecars) -> None:
    """On inference and management routes, for the preflight and the response."""
    with run_gateway(tmp_path, two_sidecars, {"LLM_PROXY__CORS_ORIGINS": ORIGIN}, sidecars=1) as made:
        for method, path in (
            ("OPTIONS", "/v1/chat/completions"),
            ("POST", "/v1/chat/completions"),
            ("OPTIONS", "/v1/models"),
            ("GET", "/v1/models"),
        ):
            ours = await request_from_page(made, method, path, ORIGIN)
            assert ours["access-control-allow-origin"] == ORIGIN
            others = await request_from_page(made, method, path, "https://evil.example")
            assert "access-control-allow-origin" not in others
            if method == "POST":
                assert "x-request-id" in ours["access-control-expose-headers"]


async def test_without_configured_origins_no_page_may_call(tmp_path: Path, two_sidecars: TwoSidecars) -> None:
    """No CORS header at all."""
    with run_gateway(tmp_path, two_sidecars, sidecars=1) as made:
        for method in ("OPTIONS", "POST"):
            headers = await request_from_page(made, method, "/v1/chat/completions", ORIGIN)
            assert not [name for name in headers if name.startswith("access-control")]


async def test_a_webhook_needs_a_trusted_certificate(
    certificate: tuple[Path, Path],
) -> None:
    """As for every other address; otherwise nothing is sent."""
    message = StoredNotification(uuid4(), "test", datetime.now(UTC), {})
    with run_receiver() as receiver, tls_relay(receiver.port, certificate) as port:
        webhook = Webhook("json", f"https://localhost:{port}/hook")
        trusting = Settings.model_validate({"ca_file": certificate[0], "notify_allow_private": True})
        assert await webhook_delivery(trusting).send(webhook, message) == 204
        with pytest.raises(DeliveryFailed, match="TLS failed"):
            await WebhookSender((), None, ssl.create_default_context()).send(webhook, message)
        assert [one.headers["host"] for one in receiver.received] == [f"localhost:{port}"]
