"""What Langfuse receives of calls through the gateway, at an endpoint that stores it.

Prompts and answers only of tenants whose text the operator stores.
"""

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from otlp_decoder import spans
from sidecars import KEY, Json, Provider, Sidecar, deployment, run_sidecar
from stack_processes import serve_gateway
from threaded_server import serving

PROMPT, ANSWER = "nobody-else-reads-this", "nor-this"
KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-test", "LANGFUSE_SECRET_KEY": "sk-lf-test"}
SECRET = "langfuse-caller-0123456789abcdef"
KEPT, OTHER = "kept-tenant", "other-tenant"


class Recorder(ThreadingHTTPServer):
    """A stand-in for Langfuse's ingestion endpoint; `sent` holds all bodies in order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Ingestion)
        self.sent: list[tuple[str, bytes]] = []

    def generations(self) -> list[dict[str, Any]]:
        """Return the attributes of all generations so far."""
        return [span for path, body in self.sent if path.endswith("/v1/traces") for span in spans(body)]

    async def of(self, session: str) -> dict[str, Any]:
        """Return the one generation of a session; raises `TimeoutError` if there is none."""
        with anyio.fail_after(30):
            while not (found := [one for one in self.generations() if one.get("session.id") == session]):  # noqa: ASYNC110 -- another thread's list
                await anyio.sleep(0.2)
        [generation] = found
        return generation


class Ingestion(BaseHTTPRequestHandler):
    """Stores a body and responds with success."""

    def do_POST(self) -> None:
        """Accept one batch."""
        assert isinstance(self.server, Recorder)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.sent.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the standard library's name
        """Print nothing."""


@pytest.fixture(scope="module")
def langfuse() -> Iterator[Recorder]:
    """A running recorder."""
    with serving(recorder := Recorder()):
        yield recorder


@pytest.fixture(scope="module")
def observed(provider: Provider, service_folder: Path, langfuse: Recorder) -> Generator[Sidecar]:
    """A sidecar that reports to the recorder."""
    steered = [
        deployment("steered", "openai/by-default", provider, tags=["default"]),
        deployment("steered", "openai/by-tag", provider, tags=[f"tenant:{OTHER}", "nightly"]),
    ]
    steered[0]["model_info"] = {"id": "by-default", "enable_tag_filtering": True}
    natives = [
        deployment("native-gpt", "openai/gpt-4.1", provider),
        deployment("native-claude", "anthropic/claude-sonnet-4-5-20250929", provider),
    ]
    for native in natives:
        native["model_info"]["supported_endpoints"] = ["/v1/responses", "/v1/messages"]
    config: Json = {"model_list": [deployment("a", "openai/a", provider), *steered, *natives]}
    at = {
        "LANGFUSE_HOST": f"http://127.0.0.1:{langfuse.server_port}",
        "LANGFUSE_TRACING_ENVIRONMENT": "staging",
        "LANGFUSE_FLUSH_INTERVAL": "1",
    }
    with run_sidecar(config, provider, service_folder, **KEYS, **at) as started:
        yield started


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway in front of that sidecar, which stores one tenant's text."""

    url: str

    async def chat(self, session: str, tenant: str, **more: Any) -> httpx.Response:
        """Make one call of a known user, session, agent and tenant."""
        play = {"text": ANSWER, "prompt_tokens": 1234, "completion_tokens": 77, "cached_tokens": 34} | more
        body: Json = {
            "model": more.pop("model", "a"),
            "user": f"user of {session}",
            "stream": more.pop("stream", False),
            "metadata": {
                "session_id": session,
                "agent_id": "agent:sofia",
                "microdao_id": tenant,
                "tags": "nightly",
            },
            "messages": [{"role": "user", "content": f"{PROMPT} {json.dumps({'do': 'ok'} | play)}"}],
        }
        async with httpx.AsyncClient(timeout=30) as client:
            return await client.post(
                f"{self.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {SECRET}"}
            )

    async def native(self, session: str, tenant: str, model: str, *, stream: bool) -> httpx.Response:
        """Make one native call, of Responses or Messages."""
        said = f"{PROMPT} {json.dumps({'do': 'ok', 'text': ANSWER})}"
        path, field = ("responses", "input") if model == "native-gpt" else ("messages", "messages")
        bound: Json = {} if field == "input" else {"max_tokens": 50}
        body: Json = {"model": model, field: [{"role": "user", "content": said}], "stream": stream, **bound}
        headers = {
            "authorization": f"Bearer {SECRET}",
            "x-session-id": session,
            "x-tenant-id": tenant,
            "x-user-id": f"user of {session}",
            "x-tags": "nightly",
        }
        async with httpx.AsyncClient(timeout=30) as client:
            return await client.post(f"{self.url}/v1/{path}", json=body, headers=headers)


@pytest.fixture(scope="module")
def gateway(observed: Sidecar, service_folder: Path) -> Iterator[Gateway]:
    """The gateway, once it has read in the catalog that callbacks run."""
    settings = {
        "LLM_PROXY__INTERNAL_API_KEY": SECRET,
        "LLM_PROXY__LITELLM_API_KEY": KEY,
        "LLM_PROXY__LOG_PAYLOADS": KEPT,
    }
    with serve_gateway(service_folder / "langfuse", [observed.url], settings) as gateway:
        yield Gateway(gateway.url)


async def test_a_generation_has_user_tokens_and_cost(gateway: Gateway, langfuse: Recorder) -> None:
    """Keys and an address suffice; no prompt, no answer, nothing of the warm-up."""
    answer = await gateway.chat("quiet", OTHER)
    assert answer.status_code == 200
    sent = await langfuse.of("quiet")
    assert (sent["user.id"], sent["langfuse.environment"]) == ("user of quiet", "staging")
    assert {"tenant:other-tenant", "agent:sofia", "nightly"} < set(sent["langfuse.trace.tags"])
    assert sent["langfuse.observation.type"] == "generation"
    assert sent["langfuse.observation.model.name"] == "openai/a"
    usage = json.loads(sent["langfuse.observation.usage_details"])
    assert (usage["input"], usage["cache_read_input_tokens"], usage["output"]) == (1200, 34, 77)
    cost = json.loads(sent["langfuse.observation.cost_details"])["total"]
    assert round(cost * 10**9) == 1_388_000
    assert sent["langfuse.observation.metadata.litellm_call_id"] == answer.headers["x-request-id"]
    everything = b"".join(body for _, body in langfuse.sent)
    assert b"warm-up" not in everything


async def test_no_tag_chooses_a_deployment(gateway: Gateway, langfuse: Recorder) -> None:
    """Our tags are in the trace even where a group selects deployments by tags."""
    for number in range(4):
        session = f"steered {number}"
        assert (await gateway.chat(session, OTHER, model="steered")).status_code == 200
        sent = await langfuse.of(session)
        assert sent["langfuse.observation.model.name"] == "openai/by-default"
        assert {f"tenant:{OTHER}", "nightly"} < set(sent["langfuse.trace.tags"])


@pytest.mark.parametrize("stream", [False, True])
async def test_text_is_sent_only_of_tenants_whose_text_is_stored(
    gateway: Gateway,
    langfuse: Recorder,
    stream: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """One setting applies to the gateway's own store and to Langfuse."""
    for tenant in (KEPT, OTHER):
        session = f"{tenant} {stream}"
        assert (await gateway.chat(session, tenant, stream=stream)).status_code == 200
        sent = await langfuse.of(session)
        assert (PROMPT in sent["langfuse.observation.input"]) is (tenant == KEPT)
        assert (ANSWER in sent["langfuse.observation.output"]) is (tenant == KEPT)
        whole = json.dumps(sent)
        assert (PROMPT in whole) is (ANSWER in whole) is (tenant == KEPT)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["native-gpt", "native-claude"])
async def test_a_native_call_is_reported_as_any_other(
    gateway: Gateway,
    langfuse: Recorder,
    model: str,
    stream: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """With its user and tags; its text only of a tenant whose text is stored."""
    for tenant in (KEPT, OTHER):
        session = f"{tenant} {model} {stream}"
        answer = await gateway.native(session, tenant, model, stream=stream)
        assert answer.status_code == 200
        sent = await langfuse.of(session)
        assert sent["user.id"] == f"user of {session}"
        assert {f"tenant:{tenant}", "nightly"} < set(sent["langfuse.trace.tags"])
        whole = json.dumps(sent)
        assert (PROMPT in whole) is (ANSWER in whole) is (tenant == KEPT), whole
