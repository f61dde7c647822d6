"""The response cache behind Sentinels, on a cluster, and named in several variables."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sidecars import Json, Provider, Sidecar, deployment, run_sidecar
from stages.admission.valkey_cluster import PASSWORD as CLUSTER_PASSWORD
from stages.admission.valkey_cluster import Cluster
from stages.admission.valkey_sentinel import Sentinels


def config(provider: Provider) -> Json:
    """One group, of chats and of embeddings."""
    return {"model_list": [deployment("a", "openai/a", provider), deployment("e", "openai/embed", provider)]}


async def cached_within(sidecar: Sidecar, timeout_s: float = 0) -> None:
    """Waits until two equal calls, and two equal embeddings, reach the provider once."""
    async with asyncio.timeout(timeout_s or 15):
        while not await _is_cached(sidecar):  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.2)


async def _is_cached(sidecar: Sidecar) -> bool:
    chat, text = str(uuid4()), str(uuid4())
    for _ in range(2):
        assert (await sidecar.chat("a", chat)).status == 200
        assert (await sidecar.post("/v1/embeddings", {"model": "e", "input": text})).status == 200
        await asyncio.sleep(0.1)
    return [len(await sidecar.provider.calls(one)) for one in (chat, text)] == [1, 1]


@pytest.fixture
async def sentinels(tmp_path: Path) -> AsyncIterator[Sentinels]:
    """A service of this test's own."""
    made = Sentinels(tmp_path)
    await made.settle()
    yield made
    made.end()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster of this test's own."""
    made = Cluster(tmp_path)
    await made.form()
    yield made
    made.end()


async def test_a_cache_behind_sentinels_is_followed(
    sentinels: Sentinels, provider: Provider, tmp_path: Path
) -> None:
    """With a user and a database of the server's, which the Sentinels do not know."""
    for port in sentinels.ports:
        await sentinels.ask(port, "ACL", "SETUSER", "cache", "on", ">word", "~*", "&*", "+@all")
    url = sentinels.url().replace("//:only-for-this-test@", "//cache:word@").replace("db=0", "db=2")
    with run_sidecar(config(provider), provider, tmp_path, CACHE_REDIS_URL=url) as sidecar:
        await cached_within(sidecar)
        sentinels.kill(first := await sentinels.primary())
        await cached_within(sidecar, 30)
        assert await sentinels.primary() != first


async def test_a_cache_on_a_cluster(cluster: Cluster, provider: Provider, tmp_path: Path) -> None:
    """Named by a list of hosts of which the first is dead; purged on every node."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in (1, *cluster.ports))
    url = f"redis+cluster://:{CLUSTER_PASSWORD}@{hosts}"
    with run_sidecar(config(provider), provider, tmp_path, CACHE_REDIS_URL=url) as sidecar:
        await cached_within(sidecar)
        for _ in range(5):
            await sidecar.chat("a", str(uuid4()))
        kept = [await cluster.ask(port, "DBSIZE") for port in cluster.ports]
        assert sum(one > 0 for one in kept) > 1
    with run_sidecar(config(provider), provider, tmp_path, CACHE_REDIS_URL=cluster.url) as sidecar:
        await _logs(sidecar, "it belongs to a cluster: write redis+cluster://")


async def test_a_wrong_password_is_logged(cache_redis_url: str, provider: Provider, tmp_path: Path) -> None:
    """Once in the log, and calls are answered."""
    url = cache_redis_url.replace("//:", "//:S3cretPart")
    with run_sidecar(config(provider), provider, tmp_path, CACHE_REDIS_URL=url) as sidecar:
        await _logs(sidecar, "it refuses this user or password")
        assert (await sidecar.chat("a", str(uuid4()))).status == 200
        assert "S3cretPart" not in sidecar.log.read_text()


async def _logs(sidecar: Sidecar, text: str) -> None:
    async with asyncio.timeout(15):
        while text not in sidecar.log.read_text():  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("form", ["REDIS_URL", "REDIS_HOST"])
async def test_a_standalone_sidecar_reads_litellm_s_variables(
    cache_redis_url: str, provider: Provider, tmp_path: Path, form: str
) -> None:
    """As LiteLLM itself does."""
    at = urlsplit(cache_redis_url)
    split = {"REDIS_HOST": str(at.hostname), "REDIS_PORT": str(at.port), "REDIS_PASSWORD": str(at.password)}
    names = {"REDIS_URL": cache_redis_url} if form == "REDIS_URL" else split
    with run_sidecar(config(provider), provider, tmp_path, **names) as sidecar:
        await cached_within(sidecar)
        assert await _is_cached(sidecar)
