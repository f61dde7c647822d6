"""The complete example of an operator's own provider in `examples/`."""

import json
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from sidecars import Provider, Sidecar, run_sidecar_from_file
from threaded_server import serving

from llm_proxy.cli.config import check_text

EXAMPLE = Path(__file__).parents[3] / "examples" / "own-provider"


class InhouseWriter(BaseHTTPRequestHandler):
    """The operator's service."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        wrong = "refuse me" in body["prompt"]
        body = {"error": "no"} if wrong else {"text": "as you wish", "read": 7, "written": 3}
        raw = json.dumps(body).encode()
        self.send_response(422 if wrong else 200)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name for it
        """Print nothing."""


@pytest.fixture(scope="module")
def example(provider: Provider, service_folder: Path) -> Generator[Sidecar]:
    """A sidecar with the example's files."""
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), InhouseWriter)) as url:
        names = {
            "INHOUSE_API_BASE": url,
            "ELSEWHERE_API_BASE": provider.base("openai"),
            "ELSEWHERE_API_KEY": "sk-elsewhere",
        }
        with run_sidecar_from_file(
            EXAMPLE / "litellm-config.yaml", provider, service_folder, **names
        ) as sidecar:
            yield sidecar


def test_the_example_s_configuration_has_no_fault() -> None:
    """A provider that its own map names is known."""
    given = {"INHOUSE_API_BASE": "http://x", "ELSEWHERE_API_BASE": "http://y", "ELSEWHERE_API_KEY": "z"}
    assert check_text((EXAMPLE / "litellm-config.yaml").read_text(), given) == []


async def test_the_service_answers_with_its_own_token_counts(example: Sidecar) -> None:
    """At the price of the configuration."""
    answer = await example.chat("inhouse", str(uuid4()))
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"] == "as you wish"
    usage = answer.json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 3)
    assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(0.000013)


async def test_the_service_streams(example: Sidecar) -> None:
    """Word by word, with the counts at the end."""
    answer = await example.stream("inhouse", str(uuid4()))
    assert answer.content.split() == ["as", "you", "wish"]
    assert answer.events[-1] == "[DONE]"
    [usage] = [event["usage"] for event in answer.events if isinstance(event, dict) and event.get("usage")]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 3)


async def test_an_error_of_the_service_may_be_the_caller_s(example: Sidecar) -> None:
    """LiteLLM makes every such status 400; it is returned at once."""
    answer = await example.chat("inhouse", f"refuse me {uuid4()}")
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"


async def test_a_server_with_openai_s_protocol_needs_no_code(example: Sidecar) -> None:
    """A name, an address, a key."""
    mark = str(uuid4())
    assert (await example.chat("elsewhere", mark)).status == 200
    [call] = await example.provider.calls(mark)
    assert call["model"] == "any-name-it-knows"
    assert call["headers"]["authorization"] == "Bearer sk-elsewhere"
