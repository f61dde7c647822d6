"""The gateway as a process: start, rejected start, health, drain, stop, several workers."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from processes import children
from prometheus_page import series, value
from running_stack import ADMIN_KEY, RunningStack, say, script
from waiting import until

from llm_proxy.stack import probe
from llm_proxy.stack.probe import is_up

KEY = "serve-key-0123456789abcdef"
MASTER_KEY = "sk-stack-master-0123456789abcdef"

Process = subprocess.Popen[bytes]


def environment(folder: Path, **names: str) -> dict[str, str]:
    """The environment of a gateway: of the machine's only `PATH`."""
    own = {
        "PATH": os.environ["PATH"],
        "LLM_PROXY__ENVIRONMENT": "development",
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__SPOOL_DIR": str(folder / "spool"),
        "LLM_PROXY__LITELLM_PROXY_URL": "http://127.0.0.1:9",
    }
    return own | names


@contextlib.contextmanager
def serving(folder: Path, *options: str, **names: str) -> Generator[tuple[str, Process]]:
    """Runs a gateway; yields its address and process."""
    port = probe.free_port()
    argv = [sys.executable, "-m", "llm_proxy", "serve", "--port", str(port), *options]
    with (folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(argv, env=environment(folder, **names), cwd=folder, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 15
        while not is_up(port, "/health/live"):
            assert process.poll() is None, (folder / "gateway.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def stack_settings(stack_ports: dict[str, int]) -> dict[str, str]:
    """Settings of a gateway in front of the stack's sidecar."""
    sidecar = f"http://127.0.0.1:{stack_ports['sidecar']}"
    return {"LITELLM_MASTER_KEY": MASTER_KEY, "LLM_PROXY__LITELLM_PROXY_URL": sidecar}


def refused_start(folder: Path, *arguments: str, **names: str) -> tuple[int, str]:
    """The exit code and the output of a gateway that must not start."""
    argv = [sys.executable, "-m", "llm_proxy", "serve", *arguments]
    done = subprocess.run(
        argv, env=environment(folder, **names), cwd=folder, capture_output=True, timeout=20, check=False
    )
    return done.returncode, done.stderr.decode()


def test_live_but_not_ready_without_a_sidecar(tmp_path: Path) -> None:
    """`/health/live` checks nothing; `/health/ready` names the component that is down; a call is a 502."""
    with serving(tmp_path) as (url, _):
        assert httpx.get(f"{url}/health/live").status_code == 200
        ready = httpx.get(f"{url}/health/ready")
        assert ready.status_code == 503
        parts = {part["part"]: part for part in ready.json()["parts"]}
        assert parts["sidecars"]["state"] == "down"
        assert "127.0.0.1" not in ready.text
        body = {"model": "any", "messages": say("hello")}
        refused = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": KEY})
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "upstream_unreachable")


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (
            {"LLM_PROXY__INTERNAL_API_KEY": "change-me-internal-key"},
            "INTERNAL_API_KEY is a publicly known",
        ),
        (
            {"LLM_PROXY__INTERNAL_API_KEY": "dev-secret-token"},
            "INTERNAL_API_KEY is a publicly known",
        ),
        ({"LLM_PROXY__INTERNAL_API_KEY": "short"}, "LLM_PROXY__INTERNAL_API_KEY is shorter"),
        ({"LLM_PROXY__ADMIN_KEY": "tiny"}, "LLM_PROXY__ADMIN_KEY is shorter"),
        ({"LITELLM_MASTER_KEY": "sk-1234"}, "LITELLM_MASTER_KEY is a publicly known"),
        ({"LLM_PROXY__HOST": "0.0.0.0"}, "LLM_PROXY__HOST is a public address"),  # noqa: S104 -- that is the point
    ],
)
def test_production_refuses_insecure_settings_by_name(
    tmp_path: Path, names: dict[str, str], named: str
) -> None:
    """Publicly known and short secrets, and a public address that is not allowed explicitly."""
    code, words = refused_start(tmp_path, "--port", "0", **({"LLM_PROXY__ENVIRONMENT": "production"} | names))
    assert code == 2
    assert named in words
    assert "Traceback" not in words


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """With the address and the reason."""
    with serving(tmp_path) as (url, _):
        port = url.rpartition(":")[2]
        code, words = refused_start(tmp_path, "--port", port)
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in words
    assert len(words.strip().splitlines()) == 1


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    """With the expected value, and without a traceback."""
    code, words = refused_start(tmp_path, LLM_PROXY__AGENT_RPM="many")
    assert code == 2
    assert "AGENT_RPM" in words.upper()
    assert "Traceback" not in words


async def test_sigterm_drains_and_streams_complete(
    stack: RunningStack, stack_ports: dict[str, int], tmp_path: Path
) -> None:
    """Readiness turns off at once, a running stream completes, the exit code is 0."""
    names = stack_settings(stack_ports)
    with serving(tmp_path, LLM_PROXY__DRAIN_DELAY_S="0.5", **names) as (url, process):
        body = {"model": "p/ok", "messages": say(script(do="slow", gap_ms=250, frames=8)), "stream": True}
        async with httpx.AsyncClient(timeout=20) as client:
            call = asyncio.create_task(
                client.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": KEY})
            )
            while not await stack.calls():  # noqa: ASYNC110 -- the provider has no event to wait for
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            assert (await client.get(f"{url}/health/ready")).status_code == 503
            response = await call
        assert response.text.endswith("data: [DONE]\n\n")
        assert await asyncio.to_thread(process.wait, 10) == 0


async def test_a_stream_longer_than_the_drain_ends_in_an_error_event(
    stack: RunningStack, stack_ports: dict[str, int], tmp_path: Path
) -> None:
    """The process ends soon after the drain timeout."""
    names = stack_settings(stack_ports)
    with serving(tmp_path, LLM_PROXY__DRAIN_DELAY_S="0", LLM_PROXY__DRAIN_TIMEOUT_S="1", **names) as (
        url,
        process,
    ):
        body = {"model": "p/ok", "messages": say(script(do="slow", gap_ms=400, frames=60)), "stream": True}
        async with httpx.AsyncClient(timeout=30) as client:
            call = asyncio.create_task(
                client.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": KEY})
            )
            while not await stack.calls():  # noqa: ASYNC110 -- the provider has no event to wait for
                await asyncio.sleep(0.05)
            await asyncio.sleep(1)
            process.send_signal(signal.SIGTERM)
            response = await call
        assert '"error"' in response.text.strip().split("\n\n")[-1]
        assert "[DONE]" not in response.text
        assert await asyncio.to_thread(process.wait, 10) == 0


def test_no_call_is_served_once_all_were_interrupted(tmp_path: Path) -> None:
    """The interrupted caller tries again at once, on a connection that is still open."""
    raw = json.dumps({**CHAT, "model": "mock-slow"})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\n"
    call = f"{head}Content-Length: {len(raw)}\r\n\r\n{raw}".encode()
    with (
        serving(tmp_path, LLM_PROXY__LLM_MODE="mock") as (url, process),
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as connection,
    ):
        connection.sendall(call)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
        with contextlib.suppress(ConnectionError):  # unless the listener was closed in between
            connection.sendall(call)
            assert connection.recv(65536)[:13] in {b"", b"HTTP/1.1 503 "}
        assert process.wait(10) == 0


def test_a_killed_worker_is_replaced_and_all_stop_together(tmp_path: Path) -> None:
    """The port answers all the time; SIGTERM ends both workers."""
    with serving(tmp_path, LLM_PROXY__WORKERS="2", LLM_PROXY__DRAIN_DELAY_S="0") as (url, process):
        before = children(process.pid)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        end = time.monotonic() + 10
        while set(children(process.pid)) == set(before) or len(children(process.pid)) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert all(httpx.get(f"{url}/health/live").status_code == 200 for _ in range(10))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_single_gateway_that_hangs_is_replaced(tmp_path: Path) -> None:
    """A new process answers on the port; a gateway that drains for longer is not taken for one that hangs."""
    names = {"LLM_PROXY__HUNG_AFTER_S": "5", "LLM_PROXY__DRAIN_DELAY_S": "6", "LLM_PROXY__LLM_MODE": "mock"}
    with serving(tmp_path, "--prefork", **names) as (url, process):
        (before,) = children(process.pid)
        os.kill(before, signal.SIGSTOP)
        until(lambda: is_up(int(url.rpartition(":")[2]), "/health/live"))
        assert children(process.pid) != [before]
        said = f"llm-proxy: worker {before} hangs, its event loop stood still for 5 s: killed; "
        assert said in (tmp_path / "gateway.log").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_without_a_database_model_health_is_null(tmp_path: Path, stack_ports: dict[str, int]) -> None:
    """The groups are listed; their health, which comes from the records, is unknown."""
    names = stack_settings(stack_ports) | {"LLM_PROXY__ADMIN_KEY": ADMIN_KEY}
    with serving(tmp_path, **names) as (url, _):
        end = time.monotonic() + 20
        admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
        while (answer := httpx.get(f"{url}/admin/models", headers=admin)).status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        [plain] = [one for one in answer.json()["data"] if one["id"] == "plain"]
        assert set(plain["health"].values()) == {None}
        assert set(plain["deployments"][0]["health"].values()) == {None}
        argv = [sys.executable, "-m", "llm_proxy", "models", "--url", url, "plain"]
        env = environment(tmp_path, **names) | {"COLUMNS": "200"}
        done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-3:] == ["?", "?", "-"]


CHAT = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}
AS = {"Authorization": f"Bearer {KEY}", "X-Agent-Id": "scout"}


def test_usage_is_shown_without_a_database(tmp_path: Path) -> None:
    """Of an agent, by any dimension, and of one request; kept in memory only."""
    with (
        serving(tmp_path, LLM_PROXY__LLM_MODE="mock") as (url, _),
        httpx.Client(base_url=url, headers=AS) as client,
    ):
        responses = [client.post("/v1/chat/completions", json=CHAT) for _ in range(2)]
        assert [one.status_code for one in responses] == [200, 200]
        spent = sum(one.json()["usage"]["total_tokens"] for one in responses)
        used = client.get("/internal/llm/usage", params={"agent_id": "scout"}).json()
        assert (used["total_requests"], used["total_tokens"], used["success_rate"]) == (2, spent, 1.0)
        assert (used["limits"]["limit"], used["limits"]["remaining"]) == (10, 8)
        unknown = client.get("/internal/llm/usage", params={"agent_id": "nobody"}).json()
        assert (unknown["total_requests"], unknown["success_rate"]) == (0, 0)
        lines = client.get("/v1/usage", params={"group_by": "agent,model"}).json()["data"]
        assert [(one["agent"], one["model"], one["requests"]) for one in lines] == [("scout", "mock", 2)]
        detail = client.get(f"/v1/requests/{responses[0].headers['x-request-id']}").json()
        assert (detail["outcome"], detail["model_group"], detail["agent"]) == ("ok", "mock", "scout")


def test_mock_mode_runs_one_worker_so_that_its_figures_count_all_calls(tmp_path: Path) -> None:
    """It counts in memory, which several workers would not share."""
    names = {"LLM_PROXY__LLM_MODE": "mock", "LLM_PROXY__WORKERS": "3", "LLM_PROXY__ADMIN_KEY": ADMIN_KEY}
    with serving(tmp_path, **names) as (url, _):
        for _ in range(9):
            assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=AS).status_code == 200
        page = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"}).text
    assert [*series(page, "llm_proxy_requests_total").values()] == [9]
    assert value(page, "llm_proxy_workers") == 1
    assert "one worker" in (tmp_path / "gateway.log").read_text()
