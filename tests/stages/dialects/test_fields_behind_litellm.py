"""What becomes of each published field behind a real LiteLLM: the table in `docs/dialects/fields.md`, tested.

A scripted provider behind a real sidecar shows what arrives. An upgrade of LiteLLM that changes a cell fails
here until the table is changed.
"""

import json
import re
from typing import Any
from uuid import uuid4

import pytest
from all_providers import MODELS, TESTS, AllProviders

from llm_proxy.dialects.dialect import BodyLimits
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request.openai_schema import FIELDS
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.endpoints import Endpoint

PAGE = TESTS.parent / "docs" / "dialects" / "fields.md"
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
    "modalities": ["text", "audio"],
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
    "service_tier": "flex",
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


def verdict(all_providers: AllProviders, endpoint: Endpoint, group: str, field: str, value: Any) -> str:
    """Return what became of a field: `yes`, `translated`, `dropped` or `refused`."""
    beside = COMPANIONS.get(field, {})
    status, seen = all_providers.send(endpoint, group, {**beside, field: value})
    if seen is None:
        return "refused" if 400 <= status < 500 else f"failed with {status}"
    if seen.get(field) == value:
        return "yes"
    _, without = all_providers.send(endpoint, group, beside)
    return "dropped" if seen == without else "translated"


def _table(heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading of the page."""
    lines = PAGE.read_text(encoding="utf-8").partition(heading)[2].partition("\n|")[2].splitlines()
    rows = [[cell.strip(" `") for cell in re.split(r"\|", line.strip("| "))] for line in lines]
    end = next(at for at, line in enumerate(lines) if at and not line.startswith("|"))
    return rows[2:end]


CHAT = _table("## Chat fields behind LiteLLM")
OTHERS = _table("## Fields of the other endpoints")


def test_the_tables_have_every_published_field() -> None:
    """A field added to the schema must be tested behind LiteLLM."""
    assert {row[0] for row in CHAT} == FIELDS["chat.completions"].keys() - {"model", "messages"}
    for endpoint in ("completions", "embeddings"):
        named = {row[1] for row in OTHERS if row[0] == endpoint}
        assert named == FIELDS[endpoint].keys() - {"model", "prompt", "input"}


@pytest.mark.parametrize("row", CHAT, ids=lambda row: str(row[0]))
def test_a_chat_field_arrives_as_the_page_says(all_providers: AllProviders, row: list[str]) -> None:
    """Sent once to each provider."""
    field, *cells = row[:6]
    assert cells == [
        verdict(all_providers, "chat.completions", family, field, VALUES[field]) for family in FIVE
    ]


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: f"{row[0]}.{row[1]}")
def test_a_field_of_another_endpoint_arrives_as_the_page_says(
    all_providers: AllProviders, row: list[str]
) -> None:
    """Completions and embeddings of an OpenAI model."""
    endpoint: Endpoint = "completions" if row[0] == "completions" else "embeddings"
    value = 3 if row[1] == "logprobs" else VALUES[row[1]]
    assert row[2] == verdict(all_providers, endpoint, endpoint, row[1], value)


@pytest.mark.parametrize("family", [*FIVE, "Vertex"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_provider_specific_field_reaches_every_provider(
    all_providers: AllProviders,
    family: str,
    stream: bool,  # noqa: FBT001 -- parametrized
) -> None:
    """Where its API expects it, with nothing else changed and LiteLLM not controlled."""
    own = {"top_k": 7, "an_unheard_of_field": {"z": [1, None], "a": "b"}}
    fields: Json = {"stream": True} if stream else {}
    status, plain = all_providers.send("chat.completions", family, fields)
    also, seen = all_providers.send("chat.completions", family, {**fields, **own})
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


def test_a_provider_specific_field_reaches_bedrock_without_nulls(
    all_providers: AllProviders,
) -> None:
    """In Bedrock's field for such names; LiteLLM removes every null."""
    own = {"top_k": 7, "an_unheard_of_field": {"z": [1, None], "a": "b"}}
    status, seen = all_providers.send("chat.completions", "Bedrock", own)
    assert status == 200
    assert seen is not None
    assert seen["path"].endswith("/converse")
    assert seen["additionalModelRequestFields"] == {
        "top_k": 7,
        "an_unheard_of_field": {"z": [1], "a": "b"},
    }


def test_provider_specific_fields_are_part_of_the_cache_key(all_providers: AllProviders) -> None:
    """The answer to `x: 1` is not the answer to `x: 2`, and is found for `x: 1` again."""
    for family in FIVE:
        said = {"model": family, "messages": [{"role": "user", "content": uuid4().hex}]}
        seen: list[int] = []
        for value in (1, 1, 2):
            asked = json.dumps({**said, "a_field": value}).encode()
            call = OPENAI.parse("chat.completions", asked, NO_OPTIONS, MODELS, BodyLimits())
            all_providers.provider.post("/_reset")
            assert all_providers.sidecar.post("/v1/chat/completions", json=call.body).status_code == 200
            seen.append(len(all_providers.provider.get("/_calls").json()["calls"]))
        assert seen == [1, 0, 1], family
