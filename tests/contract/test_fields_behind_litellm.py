"""What becomes of each published field behind a real LiteLLM: the table in `docs/dialects.md`, seen anew.

A scripted provider behind a real sidecar shows what arrives. An upgrade of LiteLLM that changes a cell
fails here until the table says so.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import vertex_account

from llm_proxy.dialects import NO_HINTS, OPENAI, Bounds, Door, Models
from llm_proxy.dialects.fields import FIELDS
from llm_proxy.stack import part, ports
from llm_proxy.stack.probe import answers
from llm_proxy.stack.programs import Behind, sidecar, sidecar_python
from llm_proxy.stack.surroundings import Surroundings
from llm_proxy.stack.wheels import Missing

KEY = "sk-fields-0123456789abcdef"
TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "dialects.md"
DEPLOYMENTS = {
    "OpenAI": ("openai/gpt-4o-mini", "/v1"),
    "OpenAI-compatible": ("openai/plain", "/v1"),
    "Anthropic": ("anthropic/claude-sonnet-4-20250514", ""),
    "Gemini": ("gemini/gemini-2.5-flash", ""),
    "Ollama": ("ollama_chat/llama3", ""),
    "completions": ("text-completion-openai/gpt-3.5-turbo-instruct", "/v1"),
    "embeddings": ("openai/text-embedding-3-small", "/v1"),
}
CLOUDS = {
    "Vertex": "vertex_ai/gemini-2.5-flash",
    "Bedrock": "bedrock/anthropic.claude-3-5-sonnet-20241022-v2:0",
}
ALL = {name: model for name, (model, _) in DEPLOYMENTS.items()} | CLOUDS
MODELS = Models("none", {name: frozenset({model.partition("/")[0]}) for name, model in ALL.items()})
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}

Json = dict[str, Any]
VALUES: Json = {
    "audio": {"voice": "alloy", "format": "wav"},
    "best_of": 2,
    "dimensions": 8,
    "echo": True,
    "encoding_format": "base64",
    "frequency_penalty": 0.5,
    "function_call": {"name": "f"},
    "functions": [FUNCTION],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 2000,
    "max_tokens": 2000,
    "metadata": {"team": "a"},
    "modalities": ["text"],
    "moderation": {"mode": "strict"},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"ttl": 5},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
    },
    "safety_identifier": "s",
    "seed": 7,
    "service_tier": "auto",
    "stop": ["END", "STOP", "HALT", "FIN", "###"],
    "store": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    "suffix": "z",
    "temperature": 0.5,
    "tool_choice": "required",
    "tools": TOOLS,
    "top_logprobs": 3,
    "top_p": 0.5,
    "user": "u",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
COMPANIONS: Json = {
    "tool_choice": {"tools": TOOLS},
    "parallel_tool_calls": {"tools": TOOLS},
    "function_call": {"functions": [FUNCTION]},
    "top_logprobs": {"logprobs": True},
    "metadata": {"store": True},
    "stream_options": {"stream": True},
}


FIVE = ("OpenAI", "OpenAI-compatible", "Anthropic", "Gemini", "Ollama")
LEAST: dict[Door, Json] = {
    "chat.completions": {},
    "completions": {"prompt": "hi"},
    "embeddings": {"input": "hi"},
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A sidecar and the provider behind it."""

    sidecar: httpx.Client
    provider: httpx.Client

    def send(self, door: Door, group: str, fields: Json) -> tuple[int, Json | None]:
        """The status, and path and body as the provider saw them; None when it saw nothing."""
        said = (
            {"messages": [{"role": "user", "content": "hi"}]} if door == "chat.completions" else LEAST[door]
        )
        asked = json.dumps({"model": group, **said, **fields}).encode()
        call = OPENAI.read(door, asked, NO_HINTS, MODELS, Bounds())
        self.provider.post("/_reset")
        body = {**call.body, "cache": {"no-cache": True, "no-store": True}}
        reply = self.sidecar.post(f"/v1/{door.replace('.', '/')}", json=body)
        calls = self.provider.get("/_calls").json()["calls"]
        return reply.status_code, {"path": calls[-1]["path"], **calls[-1]["body"]} if calls else None

    def verdict(self, door: Door, group: str, field: str, value: Any) -> str:
        """What became of a field: `yes`, `translated`, `dropped` or `refused`."""
        beside = COMPANIONS.get(field, {})
        status, seen = self.send(door, group, {**beside, field: value})
        if seen is None:
            return "refused" if 400 <= status < 500 else f"failed with {status}"
        if seen.get(field) == value:
            return "yes"
        _, without = self.send(door, group, beside)
        return "dropped" if seen == without else "translated"


def clouds(url: str) -> dict[str, Json]:
    """How the providers that want more than a key are reached."""
    account = vertex_account.made(url)
    return {
        "Vertex": {
            "api_base": url, "vertex_project": "p", "vertex_location": "us-central1",
            "vertex_credentials": account,
        },
        "Bedrock": {
            "aws_bedrock_runtime_endpoint": url, "aws_region_name": "us-east-1",
            "aws_access_key_id": "dummy", "aws_secret_access_key": "dummy",
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def stage(service_folder: Path, cache_redis_url: str) -> Iterator[Stage]:
    """A real sidecar with a deployment of each family, all played by the scripted provider."""
    try:
        sidecar_python()
    except Missing as missing:
        pytest.skip(str(missing))
    provider_port, sidecar_port = ports.free_port(), ports.free_port()
    deployments = [
        {
            "model_name": name,
            "litellm_params": {
                "model": model,
                "api_base": f"http://127.0.0.1:{provider_port}{path}",
                "api_key": "sk-nobody",
            },
        }
        for name, (model, path) in DEPLOYMENTS.items()
    ]
    deployments += [
        {"model_name": name, "litellm_params": {"model": CLOUDS[name], **params}}
        for name, params in clouds(f"http://127.0.0.1:{provider_port}").items()
    ]
    config = service_folder / "fields.yaml"
    config.write_text(json.dumps({"model_list": deployments, "router_settings": {"num_retries": 0}}))
    given = Surroundings({name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ})
    provider = part.Part(
        name="provider-of-fields",
        argv=(sys.executable, str(TESTS / "provider.py"), "--port", str(provider_port)),
        env=dict(os.environ),
        ready=lambda _: answers(provider_port, "/_calls"),
        stop_signal=signal.SIGTERM,
    )
    behind = Behind(KEY, cache_redis_url, None, None)
    logs = service_folder / "logs"
    running = [part.start(provider, logs), part.start(sidecar(9, sidecar_port, config, behind, given), logs)]
    try:
        part.wait_until_ready(running)
        address, auth = f"http://127.0.0.1:{sidecar_port}", {"Authorization": f"Bearer {KEY}"}
        with (
            httpx.Client(base_url=address, headers=auth, timeout=30) as client,
            httpx.Client(base_url=f"http://127.0.0.1:{provider_port}") as seen,
        ):
            yield Stage(client, seen)
    finally:
        part.stop(running)


def _table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of the page."""
    lines = PAGE.read_text(encoding="utf-8").partition(heading)[2].partition("\n|")[2].splitlines()
    rows = [[cell.strip(" `") for cell in re.split(r"\|", line.strip("| "))] for line in lines]
    end = next(at for at, line in enumerate(lines) if at and not line.startswith("|"))
    return rows[2:end]


CHAT = _table("### Chat fields behind LiteLLM")
OTHERS = _table("### Fields of the other doors")


def test_the_tables_name_every_published_field() -> None:
    """A field added to the schema must be looked at behind LiteLLM."""
    assert {row[0] for row in CHAT} == FIELDS["chat.completions"].keys() - {"model", "messages"}
    for door in ("completions", "embeddings"):
        named = {row[1] for row in OTHERS if row[0] == door}
        assert named == FIELDS[door].keys() - {"model", "prompt", "input"}


@pytest.mark.parametrize("row", CHAT, ids=lambda row: str(row[0]))
def test_a_chat_field_arrives_as_the_page_says(stage: Stage, row: list[str]) -> None:
    """Sent once to each family."""
    field, *cells = row[:6]
    assert cells == [stage.verdict("chat.completions", family, field, VALUES[field]) for family in FIVE]


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: f"{row[0]}.{row[1]}")
def test_a_field_of_another_door_arrives_as_the_page_says(stage: Stage, row: list[str]) -> None:
    """Completions and embeddings of an OpenAI model."""
    door: Door = "completions" if row[0] == "completions" else "embeddings"
    value = 3 if row[1] == "logprobs" else VALUES[row[1]]
    assert row[2] == stage.verdict(door, door, row[1], value)


@pytest.mark.parametrize("family", [*FIVE, "Vertex"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_name_of_the_models_own_reaches_every_family(stage: Stage, family: str, stream: bool) -> None:  # noqa: FBT001 -- parametrized
    """Where its API looks for it, nothing else changed, LiteLLM not steered."""
    own = {"top_k": 7, "an_unheard_of_field": {"z": [1, None], "a": "b"}}
    fields: Json = {"stream": True} if stream else {}
    status, plain = stage.send("chat.completions", family, fields)
    also, seen = stage.send("chat.completions", family, {**fields, **own})
    assert (status, also) == (200, 200)
    assert plain is not None
    assert seen is not None
    google = seen.get("generationConfig")
    holder = {"Gemini": google, "Vertex": google, "Ollama": seen.get("options")}.get(family) or seen
    assert holder["top_k"] == 7
    unknown = holder if family == "Ollama" else seen
    assert unknown["an_unheard_of_field"] == own["an_unheard_of_field"]
    assert "extra_body" not in seen
    assert seen["path"] == plain["path"]


def test_a_name_of_the_models_own_reaches_bedrock_without_what_is_null_in_it(stage: Stage) -> None:
    """In the field Bedrock has for such names; LiteLLM takes out every null."""
    own = {"top_k": 7, "an_unheard_of_field": {"z": [1, None], "a": "b"}}
    status, seen = stage.send("chat.completions", "Bedrock", own)
    assert status == 200
    assert seen is not None
    assert seen["path"].endswith("/converse")
    assert seen["additionalModelRequestFields"] == {
        "top_k": 7,
        "an_unheard_of_field": {"z": [1], "a": "b"},
    }


def test_names_of_the_models_own_are_part_of_the_cache_key(stage: Stage) -> None:
    """The sidecar's answer to `x: 1` is never given to `x: 2`, and is given to `x: 1` again."""
    for family in FIVE:
        said = {"model": family, "messages": [{"role": "user", "content": uuid4().hex}]}
        seen: list[int] = []
        for value in (1, 1, 2):
            asked = json.dumps({**said, "a_field": value}).encode()
            call = OPENAI.read("chat.completions", asked, NO_HINTS, MODELS, Bounds())
            stage.provider.post("/_reset")
            assert stage.sidecar.post("/v1/chat/completions", json=call.body).status_code == 200
            seen.append(len(stage.provider.get("/_calls").json()["calls"]))
        assert seen == [1, 0, 1], family
