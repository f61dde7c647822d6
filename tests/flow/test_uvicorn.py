"""`uvicorn llm_proxy.main:app`: the gateway under a server that is not ours, and LiteLLM's master key."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from loopback import NO_TLS
from running_stack import KEY, MASTER_KEY, say, script

from llm_proxy.stack import probe
from llm_proxy.stack.probe import is_up

CLIENTS_KEY = "sk-of-litellm-s-clients-0123456789"


def environment(folder: Path, **names: str) -> dict[str, str]:
    """The environment of a gateway; of the machine's only `PATH`."""
    own = {
        "PATH": os.environ["PATH"],
        "LLM_PROXY__ENVIRONMENT": "development",
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__SPOOL_DIR": str(folder / "spool"),
    }
    return own | names


def command(port: int, *words: str) -> list[str]:
    return [sys.executable, "-m", "uvicorn", "llm_proxy.main:app", "--port", str(port), *words]


@contextlib.contextmanager
def under_uvicorn(folder: Path, *words: str, **names: str) -> Generator[str]:
    """Runs uvicorn in `folder`; yields the gateway's address."""
    port = probe.free_port()
    with (folder / "uvicorn.log").open("wb") as log:
        process = subprocess.Popen(
            command(port, *words), env=environment(folder, **names), cwd=folder, stdout=log, stderr=log
        )
    try:
        ends = time.monotonic() + 30
        while not is_up(port, "/health/live"):
            assert process.poll() is None, (folder / "uvicorn.log").read_text()
            assert time.monotonic() < ends
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def gateway(stack_ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway under uvicorn before the shared sidecar; clients of LiteLLM have a key of their own."""
    settings = {
        "LLM_PROXY__LITELLM_PROXY_URL": f"http://127.0.0.1:{stack_ports['sidecar']}",
        "LLM_PROXY__LITELLM_API_KEY": MASTER_KEY,
        "LITELLM_MASTER_KEY": CLIENTS_KEY,
    }
    with under_uvicorn(tmp_path_factory.mktemp("uvicorn"), **settings) as url:
        ends = time.monotonic() + 15
        while httpx.get(f"{url}/health/ready").status_code != 200:
            assert time.monotonic() < ends
            time.sleep(0.05)
        yield url


def test_a_chat_and_a_stream_are_answered(gateway: str) -> None:
    """Through the OpenAI SDK."""
    with openai.OpenAI(
        base_url=f"{gateway}/v1", api_key=KEY, http_client=openai.DefaultHttpxClient(verify=NO_TLS)
    ) as client:
        asked = say(script(do="ok", text="an answer"))
        chat = client.chat.completions.create(model="plain", messages=asked)
        assert chat.choices[0].message.content == "an answer"
        stream = client.chat.completions.create(model="plain", messages=asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "an answer"


def test_litellm_s_master_key_is_a_caller_s_credential(gateway: str) -> None:
    """As LiteLLM's clients send it, without `/v1`."""
    body = {"model": "plain", "messages": say(script(do="ok", text="an answer"))}
    bearer = {"Authorization": f"Bearer {CLIENTS_KEY}"}
    answer = httpx.post(f"{gateway}/chat/completions", json=body, headers=bearer)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "an answer"
    assert httpx.get(f"{gateway}/models", headers=bearer).status_code == 200


@pytest.mark.parametrize("path", ["/admin/keys", "/admin/models", "/metrics"])
def test_litellm_s_master_key_is_an_admin_s_nowhere(gateway: str, path: str) -> None:
    """Neither to change nor to read."""
    answer = httpx.get(f"{gateway}{path}", headers={"Authorization": f"Bearer {CLIENTS_KEY}"})
    assert answer.status_code in {401, 403}


def test_the_sidecar_does_not_know_litellm_s_master_key(gateway: str, stack_ports: dict[str, int]) -> None:
    """And the gateway does not know the sidecar's as a caller's."""
    sidecar = f"http://127.0.0.1:{stack_ports['sidecar']}/v1/models"
    assert httpx.get(sidecar, headers={"Authorization": f"Bearer {CLIENTS_KEY}"}).status_code == 401
    body = {"model": "plain", "messages": say("hello")}
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    assert httpx.post(f"{gateway}/chat/completions", json=body, headers=headers).status_code == 401


def test_reload_serves_and_says_what_is_missing(tmp_path: Path) -> None:
    """As a developer starts it; mock mode needs nothing beside it."""
    with under_uvicorn(tmp_path, "--reload", LLM_PROXY__LLM_MODE="mock") as url:
        body = {"model": "any", "messages": say("hello")}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-internal-auth": KEY})
        assert answer.status_code == 200, answer.text
    assert "served without llm-proxy serve" in (tmp_path / "uvicorn.log").read_text()


def test_what_stops_serve_stops_it_too(tmp_path: Path) -> None:
    """One line a setting, no traceback, exit code 2."""
    env = environment(tmp_path, LLM_PROXY__ENVIRONMENT="production", LITELLM_MASTER_KEY="sk-1234")
    done = subprocess.run(
        command(probe.free_port()), env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "llm-proxy: refused to start: LITELLM_MASTER_KEY is a publicly known default\n"
