"""Processes that one parent forks: what they share, and what becomes of calls when one of them ends."""

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from loopback import NO_TLS
from processes import descendants, lives
from sidecars import KEY, Provider, deployment, forked_sidecars_spec

from llm_proxy.json_access import Json
from llm_proxy.stack import probe, process

DRAWS = """
import os, random, uuid
import fastuuid
from litellm.integrations.custom_logger import CustomLogger

class Draws(CustomLogger):
    def __init__(self):
        print("DRAWN", os.getpid(), random.random(), uuid.uuid4(), fastuuid.uuid4(), flush=True)

instance = Draws()
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at processes through /proc")


@dataclass(frozen=True, slots=True)
class Forked:
    """A parent and the ports of its workers."""

    parent: process.ManagedProcess
    ports: tuple[int, ...]
    log: Path

    def workers(self) -> set[int]:
        """The process ids of the workers that run."""
        return {pid for pid in descendants(self.parent.popen.pid) if lives(pid)}

    def worker_of(self, at: int) -> int:
        """The process that serves the port of that position, by its name; two have it during a handover."""
        name, until_s = f"sidecar {self.ports[at]}", time.monotonic() + 20
        while True:
            found = [pid for pid in self.workers() if Path(f"/proc/{pid}/comm").read_text().strip() == name]
            if len(found) == 1 or time.monotonic() > until_s:
                [pid] = found
                return pid
            time.sleep(0.05)

    async def until_logged(self, text: str) -> None:
        """Waits until a text is in the log."""
        async with asyncio.timeout(60):
            while text not in self.log.read_text():  # noqa: ASYNC110 -- another process writes it
                await asyncio.sleep(0.05)


async def ask(client: httpx.AsyncClient, port: int, *, frames: int = 0) -> int:
    """The status of one call; of a stream of so many frames if it arrives whole, else 0."""
    said = f'{{"do": "ok", "frames": {frames}, "gap_ms": 100}}' if frames else "hello"
    body = {"model": "a", "messages": [{"role": "user", "content": said}], "stream": frames > 0}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    answer = await client.post(url, json=body, headers={"authorization": f"Bearer {KEY}"})
    is_whole = not frames or "data: [DONE]" in answer.text
    return answer.status_code if is_whole else 0


def client() -> httpx.AsyncClient:
    """A client that keeps its connections, as a gateway does."""
    return httpx.AsyncClient(verify=NO_TLS, timeout=40)


@contextmanager
def run_forked(provider: Provider, folder: Path, count: int, **env: str) -> Generator[Forked]:
    """A parent with so many workers, until the block ends."""
    config: Json = {
        "model_list": [deployment("a", "openai/a", provider)],
        "router_settings": {"num_retries": 0},
    }
    config["litellm_settings"] = {"callbacks": ["draws.instance"]}
    (folder / "draws.py").write_text(DRAWS, encoding="utf-8")
    file = folder / "litellm.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    ports = tuple(probe.free_port() for _ in range(count))
    spec = forked_sidecars_spec(file, ports, env)
    started = process.start(spec, folder / "logs")
    try:
        process.wait_until_ready([started])
        yield Forked(started, ports, folder / "logs" / f"{spec.name}.log")
    finally:
        process.stop([started])


@pytest.fixture(scope="module")
def forked(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """A parent with two workers."""
    with run_forked(provider, tmp_path_factory.mktemp("forked"), 2) as made:
        yield made


def sockets_of(pid: int) -> set[str]:
    """The sockets that a process has open, by inode."""
    links = (str(path.readlink()) for path in Path(f"/proc/{pid}/fd").glob("[0-9]*") if path.is_symlink())
    return {link for link in links if link.startswith("socket:")}


def threads_of(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


async def test_two_workers_share_no_connection_and_draw_other_random_numbers(forked: Forked) -> None:
    """Of the ports each has its own alone; the parent has no thread."""
    async with client() as kept:
        for port in forked.ports * 2:
            assert await ask(kept, port) == 200
        first, second = (sockets_of(forked.worker_of(at)) for at in (0, 1))
    assert len(first) > 3
    assert len(second) > 3
    assert not first & second
    assert threads_of(forked.parent.popen.pid) == 1
    drawn = re.findall(r"DRAWN (\d+) (\S+) (\S+) (\S+)", forked.log.read_text())
    assert {int(one[0]) for one in drawn} == forked.workers()
    assert all(len(set(column)) == 2 for column in zip(*drawn, strict=True))


async def test_a_killed_worker_refuses_calls_until_another_serves_its_port(forked: Forked) -> None:
    """The other one goes on meanwhile; each line of the log names its port."""
    ended, other = forked.worker_of(0), forked.worker_of(1)
    refused = 0
    async with client() as fresh:
        os.kill(ended, signal.SIGKILL)
        async with asyncio.timeout(60):
            while True:
                assert await ask(fresh, forked.ports[1]) == 200
                try:
                    if await ask(fresh, forked.ports[0]) == 200:
                        break
                except httpx.TransportError:
                    refused += 1
    assert refused > 0
    assert forked.worker_of(0) != ended
    assert forked.worker_of(1) == other
    log = forked.log.read_text()
    assert f"sidecar: the worker of port {forked.ports[0]} ended with code -9; another one starts" in log
    assert log.count(f"sidecar {forked.ports[0]}: serving on port {forked.ports[0]}") == 2


async def test_when_the_parent_is_killed_its_workers_go_on(provider: Provider, tmp_path: Path) -> None:
    """Until a signal ends them, then after their calls; the ports are free again."""
    with run_forked(provider, tmp_path, 2) as made:
        workers, group = made.workers(), made.parent.popen.pid
        os.kill(group, signal.SIGKILL)
        await made.until_logged("the parent has died")
        async with client() as kept:
            assert [await ask(kept, port) for port in made.ports] == [200, 200]
            running = asyncio.create_task(ask(kept, made.ports[0], frames=20))
            await asyncio.sleep(0.3)
            os.killpg(group, signal.SIGUSR1)
            assert await running == 200
        async with asyncio.timeout(20):
            while any(lives(pid) for pid in workers):  # noqa: ASYNC110 -- other processes
                await asyncio.sleep(0.05)
        for port in made.ports:
            socket.create_server(("127.0.0.1", port)).close()


async def test_a_worker_over_its_limit_keeps_its_port_and_its_calls(
    provider: Provider, tmp_path: Path
) -> None:
    """Calls on kept and on new connections are all answered; SIGTERM then lets a running stream end.

    The stream takes longer than the time after which a worker without a beat counts as hung.
    """
    limits = {"LLM_PROXY_SIDECAR_MAX_CALLS": "5", "LLM_PROXY_SIDECAR_HUNG_AFTER_S": "10"}
    with run_forked(provider, tmp_path, 1, **limits) as made:
        before = made.worker_of(0)
        async with client() as kept:
            running = asyncio.create_task(ask(kept, made.ports[0], frames=150))
            statuses: list[int] = []
            async with asyncio.timeout(60):
                while "the replacement serves" not in made.log.read_text():
                    statuses += await asyncio.gather(*(ask(kept, made.ports[0]) for _ in range(3)))
                    async with client() as fresh:
                        statuses.append(await ask(fresh, made.ports[0]))
            for _ in range(10):
                statuses += await asyncio.gather(*(ask(kept, made.ports[0]) for _ in range(3)))
            assert set(statuses) == {200}
            assert await running == 200
        assert lives(before)  # its connections may be used for a while yet
        async with client() as kept:
            running = asyncio.create_task(ask(kept, made.ports[0], frames=20))
            await asyncio.sleep(0.3)
            made.parent.popen.send_signal(signal.SIGTERM)
            assert await running == 200
        assert await asyncio.to_thread(made.parent.popen.wait, 30) == 0
        assert not lives(before)
