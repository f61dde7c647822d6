"""What Langfuse would receive, at an endpoint that keeps it: who, how much, at what cost; no text."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
from sidecars import Json, Provider, Sidecar, deployment, running

PROMPT, ANSWER = "nobody-else-reads-this", "nor-this"
KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-test", "LANGFUSE_SECRET_KEY": "sk-lf-test"}


class Recorder(ThreadingHTTPServer):
    """Langfuse's address; `sent` is all that came, in order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Ingestion)
        self.sent: list[bytes] = []

    async def until(self, mark: str) -> bytes:
        """Everything, once the mark is in it; raises `TimeoutError`."""
        with anyio.fail_after(20):
            while mark.encode() not in b"".join(self.sent):  # noqa: ASYNC110 -- another thread's list
                await anyio.sleep(0.2)
        return b"".join(self.sent)


class Ingestion(BaseHTTPRequestHandler):
    """Keeps a body and says it is well."""

    def do_POST(self) -> None:
        """Take one batch."""
        assert isinstance(self.server, Recorder)
        self.server.sent.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the standard library's name
        """Say nothing."""


@pytest.fixture
def langfuse() -> Generator[Recorder]:
    """A recorder that runs."""
    recorder = Recorder()
    thread = threading.Thread(target=recorder.serve_forever)
    thread.start()
    yield recorder
    recorder.shutdown()
    thread.join()
    recorder.server_close()


@contextmanager
def observed(provider: Provider, folder: Path, langfuse: Recorder, **env: str) -> Generator[Sidecar]:
    """A sidecar that reports to it."""
    config: Json = {"model_list": [deployment("a", "openai/a", provider)]}
    at = {"LANGFUSE_BASE_URL": f"http://127.0.0.1:{langfuse.server_port}"}
    with running(config, provider, folder, **KEYS, **at, **env) as started:
        yield started


async def say(sidecar: Sidecar, mark: str) -> None:
    """One call of a known user, session and agent."""
    said = (
        f'{PROMPT} {mark} {{"do": "ok", "text": "{ANSWER}", "prompt_tokens": 1234, "completion_tokens": 77}}'
    )
    body: Json = {
        "model": "a",
        "messages": [{"role": "user", "content": said}],
        "metadata": {"session_id": f"session-{mark}", "trace_user_id": f"user-{mark}"},
    }
    headers = {"x-litellm-call-id": mark, "x-litellm-tags": f"agent:{mark}"}
    assert (await sidecar.post("/v1/chat/completions", body, **headers)).status == 200


async def test_langfuse_gets_user_session_tags_usage_and_cost_but_no_text(
    provider: Provider, tmp_path: Path, langfuse: Recorder
) -> None:
    """Its keys and address are all it takes; what the process asks itself is not reported."""
    with observed(provider, tmp_path, langfuse) as sidecar:
        mark = str(uuid4())
        await say(sidecar, mark)
        sent = (await langfuse.until(mark)).decode(errors="replace")
    for part in (
        f"session-{mark}",
        f"user-{mark}",
        f"agent:{mark}",
        '"input": 1234',
        '"output": 77',
        "0.001388",
    ):
        assert part in sent
    assert PROMPT not in sent
    assert ANSWER not in sent
    assert "warm-up" not in sent


async def test_text_is_sent_where_the_operator_wants_it(
    provider: Provider, tmp_path: Path, langfuse: Recorder
) -> None:
    """By one setting."""
    with observed(provider, tmp_path, langfuse, LLM_PROXY_SIDECAR_LOG_PAYLOADS="full") as sidecar:
        mark = str(uuid4())
        await say(sidecar, mark)
        sent = (await langfuse.until(mark)).decode(errors="replace")
    assert PROMPT in sent
    assert ANSWER in sent
