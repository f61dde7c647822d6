"""`llm-proxy up` gets a stop signal while a stream runs: it completes, and what it needs stays until then."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from dotenv import dotenv_values
from processes import descendants, lives
from running_stack import say, script
from sidecars import Provider, deployment, run_provider
from up_command import UpCommand, bare_environment, run_up
from waiting import until

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


@pytest.fixture(scope="module")
def played(service_folder: Path) -> Iterator[Provider]:
    """The scripted provider."""
    with run_provider(service_folder) as provider:
        yield provider


@contextmanager
def ready_stack(folder: Path, played: Provider, *words: str) -> Generator[UpCommand]:
    """A stack before the scripted provider, in production so that no file is watched."""
    folder.chmod(0o711)  # Postgres may have to run as `nobody`
    models = [deployment("steady", "openai/steady", played, api_key="none")]
    (folder / "litellm.yaml").write_text(yaml.safe_dump({"model_list": models}), encoding="utf-8")
    settings = "LLM_PROXY__ENVIRONMENT=production\nLLM_PROXY__DRAIN_DELAY_S=0\n"
    (folder / ".env").write_text(settings, encoding="utf-8")
    with run_up(folder, "--no-local-model", "--config", "litellm.yaml", *words) as up:
        up.wait_for("Ctrl-C stops everything")
        yield up


@contextmanager
def open_stream(stack: UpCommand, frames: int, gap_ms: int) -> Generator[Iterator[str]]:
    """The lines of a stream whose first frame has arrived."""
    key = dotenv_values(stack.folder / ".env")["LLM_PROXY__INTERNAL_API_KEY"] or ""
    said = say(script(do="ok", frames=frames, gap_ms=gap_ms))
    body = {"model": "steady", "messages": said, "stream": True}
    url = f"http://127.0.0.1:{stack.port}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers={"x-api-key": key}, timeout=60) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        next(lines)
        yield lines


def refuses(stack: UpCommand) -> bool:
    """Whether the gateway has stopped listening."""
    try:
        httpx.get(f"http://127.0.0.1:{stack.port}/health/live")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # it stopped while this connection waited to be taken
        return False
    return False


def process_of(stack: UpCommand, words: str) -> int:
    """The process id of the only process with these words in its command line."""
    [pid] = [pid for pid, command in descendants(stack.process.pid).items() if words in command]
    return pid


def test_a_stream_completes_while_a_reload_runs_and_a_store_ends(tmp_path: Path, played: Provider) -> None:
    """Sidecar and stores stay: the ended one is started again. Reloads are rejected; then all is stopped."""
    with ready_stack(tmp_path, played) as stack:
        sidecar, postgres = stack.sidecars()[-1], process_of(stack, "postgres -D")
        with open_stream(stack, frames=60, gap_ms=250) as lines:
            argv = [sys.executable, "-m", "llm_proxy", "reload"]
            with subprocess.Popen(
                argv, cwd=tmp_path, env=bare_environment(), stderr=subprocess.PIPE
            ) as early:
                stack.wait_for("with the new configuration")
                stack.process.send_signal(signal.SIGTERM)
                until(lambda: refuses(stack), 60)
                _, why = early.communicate()
            assert (early.returncode, b"the stack is stopping" in why) == (1, True), why
            os.killpg(postgres, signal.SIGKILL)
            stack.wait_for("postgres ended with code -9; restarting it in 0.5 s")
            stack.wait_for("postgres is back")
            late = subprocess.run(
                argv, cwd=tmp_path, env=bare_environment(), capture_output=True, check=False
            )
            assert (late.returncode, b"the stack is stopping" in late.stderr) == (1, True), late.stderr
            assert lives(sidecar)
            everything = descendants(stack.process.pid)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert stack.process.wait(30) == 0
        assert [command for pid, command in everything.items() if lives(pid)] == []
    assert "was killed" not in stack.output


def test_a_second_signal_ends_the_stream_at_once(tmp_path: Path, played: Provider) -> None:
    """With an error event: Ctrl-C drains, Ctrl-C again ends."""
    with ready_stack(tmp_path, played, "--no-stores") as stack:
        with open_stream(stack, frames=400, gap_ms=250) as lines:
            stack.process.send_signal(signal.SIGINT)
            until(lambda: refuses(stack), 60)
            assert "content" in next(line for line in lines if line)
            stack.process.send_signal(signal.SIGINT)
            last = [line for line in lines if line][-1]
        assert '"error"' in last
        assert stack.process.wait(30) == 0
    assert "running calls have 30 s; a second signal ends them at once" in stack.output
