"""nginx and Caddy as in `deploy/` before real gateways: streams, 32 MB, upgrades under load."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from running_stack import KEY, say, script
from stack_processes import gateway_spec
from steady_calls import steady_calls
from waiting import until

from llm_proxy.stack import process
from llm_proxy.stack.probe import free_port, is_up

DEPLOY = Path(__file__).parents[2] / "deploy"
AS = {"x-api-key": KEY}
MIB = 2**20


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that others may write to: as root, nginx writes as somebody else."""
    with tempfile.TemporaryDirectory(prefix="llm-proxy-edge-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture(scope="module")
def gateways(stack_ports: dict[str, int], open_folder: Path) -> Iterator[list[process.ManagedProcess]]:
    """Two gateways before the stack's sidecar, which take bodies of 32 MB."""
    settings = {"LLM_PROXY__MAX_BODY_BYTES": str(32 * MIB), "LLM_PROXY__DRAIN_DELAY_S": "2"}
    sidecar = [f"http://127.0.0.1:{stack_ports['sidecar']}"]
    specs = [gateway_spec(free_port(), open_folder, sidecar, settings) for _ in range(2)]
    running = [process.start(spec, open_folder / "logs") for spec in specs]
    try:
        process.wait_until_ready(running)
        yield running
    finally:
        process.stop(running)


def address(gateway: process.ManagedProcess) -> str:
    """Where the gateway listens."""
    return f"127.0.0.1:{gateway.spec.argv[-1]}"


@dataclass(frozen=True, slots=True)
class Edge:
    """The nginx of `deploy/edge/`, run by its own script."""

    port: int
    environment: dict[str, str]

    def command(self, *words: str) -> None:
        """What `deploy/upgrade.sh` has the container do."""
        argv = ["sh", str(DEPLOY / "edge" / "start.sh"), *words]
        subprocess.run(argv, env=self.environment, check=True, timeout=30)


@pytest.fixture(scope="module")
def edge(gateways: Sequence[process.ManagedProcess], open_folder: Path) -> Iterator[Edge]:
    """Without the names' resolution, which containers need and this nginx is too old for."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    port = free_port()
    environment = {
        "PATH": f"{os.defpath}:/usr/sbin",
        "EDGE_RUN": str(open_folder),
        "EDGE_RESOLVE": "",
        "EDGE_LISTEN": f"127.0.0.1:{port}",
        "EDGE_GATEWAYS": " ".join(map(address, gateways)),
    }
    argv = ["sh", str(DEPLOY / "edge" / "start.sh")]
    with (open_folder / "nginx.log").open("wb") as log:
        nginx = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: is_up(port, "/health/live"))
        yield Edge(port, environment)
    finally:
        nginx.send_signal(signal.SIGTERM)
        nginx.wait(30)


@dataclass(slots=True)
class Load:
    """What callers got."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    streams: int = 0
    failed: list[str] = field(default_factory=list[str])


async def _call(url: str, load: Load, *, streamed: bool) -> None:
    """One caller with a connection of its own."""
    said = script(do="ok", frames=20, gap_ms=100) if streamed else "hello"
    body = {"model": "p/ok", "messages": say(said), "stream": streamed}
    try:
        async with httpx.AsyncClient(timeout=30, headers=AS) as client:
            response = await client.post(f"{url}/v1/chat/completions", json=body)
        load.statuses[response.status_code] += 1
        if streamed and not response.text.endswith("data: [DONE]\n\n"):
            load.failed.append(response.text[-300:])
        load.streams += streamed
    except httpx.HTTPError as fault:
        load.failed.append(repr(fault))


@contextlib.asynccontextmanager
async def steady_load(url: str) -> AsyncGenerator[Load]:
    """Twenty callers a second, every fourth with a stream of two seconds, until the block ends."""
    load = Load()
    async with steady_calls(0.05, lambda number: _call(url, load, streamed=number % 4 == 0)):
        yield load


async def test_gateways_are_replaced_one_after_the_other_under_load_and_no_call_is_lost(
    edge: Edge, gateways: list[process.ManagedProcess], open_folder: Path
) -> None:
    """The steps of `deploy/upgrade.sh`: out, drained and replaced, healthy, in; streams complete."""
    async with steady_load(f"http://127.0.0.1:{edge.port}") as load:
        await asyncio.sleep(1)
        for position, old in enumerate(list(gateways)):
            await asyncio.to_thread(edge.command, "out", address(old))
            old.popen.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(old.popen.wait, 40) == 0
            gateways[position] = new = process.start(old.spec, open_folder / "logs")
            await asyncio.to_thread(process.wait_until_ready, [new])
            await asyncio.to_thread(edge.command, "in")
        await asyncio.sleep(1)
    assert load.failed == []
    assert load.statuses.keys() == {200}
    assert load.streams > 5


async def test_a_gateway_that_ends_without_notice_loses_only_its_own_calls(
    edge: Edge, gateways: list[process.ManagedProcess], open_folder: Path
) -> None:
    """Calls that it never got go to the other one."""
    gateways[0].popen.kill()
    await asyncio.to_thread(gateways[0].popen.wait)
    load = Load()
    for _ in range(8):
        await _call(f"http://127.0.0.1:{edge.port}", load, streamed=False)
    assert (load.statuses, load.failed) == (Counter({200: 8}), [])
    gateways[0] = process.start(gateways[0].spec, open_folder / "logs")
    await asyncio.to_thread(process.wait_until_ready, [gateways[0]])


@contextmanager
def fronted(program: str, config: str, folder: Path, argv: Sequence[str], port: int) -> Generator[None]:
    """A proxy on a configuration made from `deploy/`; skips the test where it is not installed."""
    path = shutil.which(program, path=f"{os.defpath}:/usr/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed (Debian: apt-get install {program})")
    (folder / "proxy.conf").write_text(config, encoding="utf-8")
    env = {"PATH": os.defpath, "HOME": str(folder)}
    with (folder / f"{program}.log").open("wb") as log:
        running = subprocess.Popen([path, *argv], env=env, cwd=folder, stdout=log, stderr=log)
    try:
        until(lambda: is_up(port, "/health/live"))
        yield
    finally:
        running.terminate()
        running.wait(30)


def nginx_for(folder: Path, behind: str, port: int) -> str:
    """`deploy/nginx.conf` without TLS, on this port, before this gateway."""
    server = (DEPLOY / "nginx.conf").read_text(encoding="utf-8").replace("127.0.0.1:7007", behind)
    server = server.replace("listen 443 ssl http2;", f"listen 127.0.0.1:{port};")
    server = server.replace("llm-proxy-proxy.conf", str(DEPLOY / "edge" / "proxy.conf"))
    kept = "\n".join(line for line in server.splitlines() if "ssl_certificate" not in line)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    return f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ {temporary} {kept} }}"


def caddy_for(behind: str, port: int) -> str:
    """`deploy/Caddyfile` without TLS, on this port, before this gateway."""
    server = (DEPLOY / "Caddyfile").read_text(encoding="utf-8").replace("127.0.0.1:7007", behind)
    return "{\n\tadmin off\n}\n" + server.replace("llm.example.com", f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module", params=["edge", "nginx", "caddy"])
def front(
    request: pytest.FixtureRequest, gateways: list[process.ManagedProcess], open_folder: Path
) -> Iterator[str]:
    """The URL of each proxy before a gateway."""
    if request.param == "edge":
        yield f"http://127.0.0.1:{request.getfixturevalue('edge').port}"
        return
    folder, port, behind = open_folder / request.param, free_port(), address(gateways[0])
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    if request.param == "nginx":
        config, argv = nginx_for(folder, behind, port), ["-c", str(folder / "proxy.conf")]
    else:
        config, argv = caddy_for(behind, port), ["run", "--adapter", "caddyfile", "--config", "proxy.conf"]
    with fronted(request.param, config, folder, argv, port):
        yield f"http://127.0.0.1:{port}"


def test_a_stream_arrives_as_it_is_sent(front: str) -> None:
    """Each frame before the next one is sent."""
    said = say(script(do="ok", frames=6, gap_ms=200))
    own = int(front.rpartition(":")[2])  # an answer of the cache would come at once
    body = {"model": "p/ok", "messages": said, "stream": True, "seed": own}
    arrived: list[float] = []
    with httpx.stream("POST", f"{front}/v1/chat/completions", json=body, headers=AS, timeout=30) as response:
        arrived += [time.monotonic() for line in response.iter_lines() if line.startswith("data: {")]
    assert arrived[-1] - arrived[0] > 0.6


@pytest.mark.parametrize("front", ["nginx", "caddy"], indirect=True)
@pytest.mark.parametrize("path", ["/admin/keys", "/metrics", "/internal/llm/models"])
def test_what_only_operators_call_is_hidden(
    path: str, front: str, gateways: list[process.ManagedProcess]
) -> None:
    """The gateway asks for a key there; the proxies before it know no such path."""
    assert httpx.get(f"http://{address(gateways[0])}{path}").status_code in {401, 403}
    assert httpx.get(f"{front}{path}").status_code == 404


def test_a_body_of_nearly_32_mb_passes_and_a_larger_one_is_a_413(front: str) -> None:
    """The first fails for its model's name only, said by the gateway."""
    headers = {**AS, "content-type": "application/json"}

    def post(size: int) -> httpx.Response:
        raw = b'{"model": "no-such-model", "messages": [{"role": "user", "content": "%s"}]}' % (b"a" * size)
        return httpx.post(f"{front}/v1/chat/completions", content=raw, headers=headers, timeout=60)

    passed = post(32 * MIB - 1000)
    assert (passed.status_code, passed.json()["error"]["code"]) == (404, "model_not_found")
    with contextlib.suppress(httpx.WriteError):  # Caddy and nginx may close while the body is still sent
        assert post(33 * MIB).status_code == 413
