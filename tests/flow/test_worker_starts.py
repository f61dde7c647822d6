"""A gateway of several workers that cannot start, that starts again, and that is stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from processes import children
from stack_processes import gateway_spec
from waiting import until

from llm_proxy.stack.probe import free_port, is_up
from llm_proxy.stack.process import ManagedProcess, start, stop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

NOWHERE = ("http://127.0.0.1:9",)


def settings(workers: int, store: str, environment: str = "production") -> dict[str, str]:
    """Settings of a gateway with this limits store."""
    return {
        "LLM_PROXY__ENVIRONMENT": environment,
        "LLM_PROXY__WORKERS": str(workers),
        "LLM_PROXY__LIMITS_REDIS_URL": store,
    }


@pytest.mark.parametrize("workers", [1, 3])
def test_a_gateway_that_cannot_start_is_given_up_with_the_reason(
    workers: int, tmp_path: Path, cache_redis_url: str
) -> None:
    """After five tries of all its workers; the reason is the last line, the exit code 3."""
    spec = gateway_spec(free_port(), tmp_path, NOWHERE, settings(workers, cache_redis_url))
    done = subprocess.run(
        spec.argv, env=dict(spec.env), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    tries = "" if workers == 1 else ", tried 5 times"
    reason = "LLM_PROXY__LIMITS_REDIS_URL: the store's maxmemory-policy is 'allkeys-lru';"
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"llm-proxy: the gateway cannot start{tries}: {reason}")
    assert "LIMITS_REDIS_URL." in last
    assert done.returncode == 3
    assert cache_redis_url not in done.stderr


def test_in_development_a_store_that_evicts_is_told(tmp_path: Path, cache_redis_url: str) -> None:
    """The gateway serves."""
    port = free_port()
    made = gateway_spec(port, tmp_path, NOWHERE, settings(1, cache_redis_url, "development"))
    gateway = start(made, tmp_path)
    try:
        until(lambda: is_up(port, "/health/live"))
    finally:
        stop([gateway])
    assert "the limits store may evict limits and budgets" in log_of(gateway)


@pytest.fixture
def gateway(tmp_path: Path, limits_redis_url: str) -> Iterator[tuple[int, ManagedProcess]]:
    """A gateway of two workers that both serve, and its port."""
    port = free_port()
    names = settings(2, limits_redis_url) | {"LLM_PROXY__DRAIN_DELAY_S": "30"}
    managed = start(gateway_spec(port, tmp_path, NOWHERE, names), tmp_path)
    try:
        until(lambda: log_of(managed).count("the gateway is up") == 2)
        until(lambda: is_up(port, "/health/live"))
        yield port, managed
    finally:
        managed.popen.kill()
        managed.popen.wait()


def log_of(gateway: ManagedProcess) -> str:
    """What it has written so far."""
    return gateway.log.read_text(encoding="utf-8") if gateway.log else ""


def workers(gateway: ManagedProcess) -> list[int]:
    """The process ids of the workers."""
    return children(gateway.popen.pid)


def test_while_one_worker_serves_another_is_tried_until_it_starts(
    gateway: tuple[int, ManagedProcess], limits_redis_url: str
) -> None:
    """More often than a gateway that does not serve at all; each failed try says why."""
    port, managed = gateway
    until(lambda: is_up(port, "/health/live"))
    store: Any = redis.Redis
    with store.from_url(limits_redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            os.kill(workers(managed)[0], signal.SIGKILL)
            until(lambda: log_of(managed).count("no worker: LLM_PROXY__LIMITS_REDIS_URL") >= 3)
            assert is_up(port, "/health/live")
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    until(lambda: log_of(managed).count("the gateway is up") == 3)
    assert len(workers(managed)) == 2


def test_a_worker_that_is_killed_while_it_stops_shows_in_the_exit_code(
    gateway: tuple[int, ManagedProcess],
) -> None:
    """Its records may be lost; a second signal ends the others at once."""
    managed = gateway[1]
    managed.popen.send_signal(signal.SIGTERM)
    until(lambda: log_of(managed).count('"draining"') == 2)
    killed = workers(managed)[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in workers(managed))
    managed.popen.send_signal(signal.SIGTERM)
    assert managed.popen.wait(30) == 1
    last = log_of(managed).splitlines()[-1]
    assert last == f"llm-proxy: worker {killed} ended with code -9 while it stopped"
