"""Default values pass at every provider; other values are rejected by name.

The bodies are those of real clients; a scripted provider behind a real LiteLLM shows what arrives.
"""

import base64
import json
import struct
from typing import Any

import pytest
from all_providers import AllProviders

from llm_proxy.endpoints import Endpoint
from llm_proxy.sidecar.patches.field_support import NEUTRAL_DEFAULTS, SAMPLING_DEFAULTS

Json = dict[str, Any]
CHAT: Endpoint = "chat.completions"
FAMILIES = (
    "OpenAI", "OpenAI-compatible", "Anthropic", "Gemini", "Vertex", "Bedrock", "Ollama", "gpt-5", "gpt-5.1",
    "o3", "opus", "groq", "mistral", "cerebras", "xai", "vllm", "openrouter", "azure", "mixed", "falls",
)  # fmt: skip
ONLY_OF_OTHERS = {"best_of", "echo", "suffix", "encoding_format", "function_call"}
DEFAULTS = {
    name: value
    for name, value in {**NEUTRAL_DEFAULTS, **SAMPLING_DEFAULTS}.items()
    if name not in ONLY_OF_OTHERS
}
TOOL = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "Read a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
STRICT: Json = {**TOOL, "function": {**TOOL["function"], "strict": False}}  # type: ignore[dict-item]  # a JSON object
ASKED = {"type": "function", "id": "call_1", "function": {"name": "read", "arguments": '{"path":"a"}'}}
AGENT = [
    {"role": "system", "content": "You are an agent."},
    {"role": "user", "content": [{"type": "text", "text": "Read a."}]},
    {"role": "assistant", "content": None, "tool_calls": [ASKED]},
    {"role": "tool", "tool_call_id": "call_1", "content": "the file"},
]
STREAMED: Json = {"stream": True, "stream_options": {"include_usage": True}}
CLIENTS: dict[str, Json] = {
    "pi": {
        "messages": [{"role": "developer", "content": "You are pi."}, *AGENT[1:]],
        **STREAMED, "store": False, "max_completion_tokens": 32000, "tools": [STRICT],
    },
    "Copilot CLI": {
        "messages": AGENT, **STREAMED, "temperature": 0, "frequency_penalty": 0, "presence_penalty": 0,
        "n": 1, "parallel_tool_calls": True, "tools": [TOOL],
    },
    "Continue": {
        "messages": AGENT, **STREAMED, "max_tokens": 4096, "frequency_penalty": 0, "presence_penalty": 0,
        "stop": [], "tools": [TOOL], "tool_choice": "auto",
    },
    "Cline": {
        "messages": AGENT, **STREAMED, "temperature": 0, "tools": [TOOL], "tool_choice": "auto",
        "parallel_tool_calls": True,
    },
    "LangChain": {
        "messages": AGENT, "stream": False, "n": 1, "temperature": 0.7, "frequency_penalty": 0,
        "presence_penalty": 0, "logprobs": False, "logit_bias": {}, "tools": [TOOL],
    },
    "AI SDK": {
        "messages": AGENT, "store": False, "service_tier": "auto", "logprobs": False, "top_logprobs": 0,
        "response_format": {"type": "text"}, "tools": [STRICT], "tool_choice": "auto",
    },
    "Open WebUI": {"messages": AGENT, **STREAMED, "top_p": 1, "presence_penalty": 0, "modalities": ["text"]},
}  # fmt: skip
SAMPLES_ALONE = {"gpt-5", "gpt-5.1", "o3", "opus"}
"""Models that take no other temperature than 1: a client that sets one is told so."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("together", [False, True], ids=["each alone", "all at once"])
def test_a_documented_default_passes_everywhere(
    all_providers: AllProviders,
    family: str,
    together: bool,  # noqa: FBT001 -- parametrized
) -> None:
    """Each alone and all at once; twice where two providers serve the group in turn."""
    asked: list[Json] = [DEFAULTS] if together else [{name: value} for name, value in DEFAULTS.items()]
    for fields in asked * (4 if family == "mixed" else 1):
        reply, calls = all_providers.ask(CHAT, family, {**fields, "tools": [TOOL]} if together else fields)
        assert reply.status_code == 200, (fields, reply.text)
        assert calls


def test_a_provider_of_openai_s_format_gets_every_field(all_providers: AllProviders) -> None:
    """Only a field that no such model has is left out."""
    _, seen = all_providers.send(CHAT, "OpenAI-compatible", {**DEFAULTS, "tools": [TOOL]})
    assert seen is not None
    assert {name: seen.get(name) for name in DEFAULTS if name != "tools"} == {
        **{name: value for name, value in DEFAULTS.items() if name != "tools"},
        "verbosity": None,
    }


def test_a_default_is_never_translated_into_another_value(all_providers: AllProviders) -> None:
    """LiteLLM would send a penalty of 0, a tier, a choice among no tools."""
    for family in ("Anthropic", "Gemini", "Vertex", "Ollama", "Bedrock"):
        _, plain = all_providers.send(CHAT, family, {})
        for name, value in DEFAULTS.items():
            if name not in SAMPLING_DEFAULTS:
                assert all_providers.send(CHAT, family, {name: value}) == (200, plain), (family, name)


def test_openai_s_sampling_defaults_reach_providers_with_others(all_providers: AllProviders) -> None:
    """Ollama's own temperature is 0.8, so 1 is a request there, also beside an unsupported field."""
    _, seen = all_providers.send(
        CHAT, "Ollama", {"temperature": 1, "top_p": 1, "store": False, "verbosity": "medium"}
    )
    assert seen is not None
    assert seen["options"] == {"temperature": 1, "top_p": 1}
    _, seen = all_providers.send(CHAT, "opus", {"top_p": 1, "reasoning_effort": "medium"})
    assert seen is not None
    assert "thinking" in seen
    assert "top_p" not in seen


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("Anthropic", "store", True),
        ("Anthropic", "frequency_penalty", 0.5),
        ("Anthropic", "logprobs", True),
        ("Anthropic", "n", 2),
        ("opus", "top_p", 0.5),
        ("gpt-5", "presence_penalty", 1),
        ("gpt-5", "logit_bias", {"1": 1}),
        ("mistral", "service_tier", "flex"),
        ("Ollama", "parallel_tool_calls", False),
        ("Gemini", "store", True),
    ],
)
def test_an_unsupported_value_is_rejected_by_name(
    all_providers: AllProviders, family: str, field: str, value: object
) -> None:
    """Defaults beside it are not blamed."""
    defaults = {
        name: one for name, one in DEFAULTS.items() if name not in {"temperature", "reasoning_effort"}
    }
    reply, calls = all_providers.ask(CHAT, family, {**defaults, "tools": [TOOL], field: value})
    said = reply.json()["error"]["message"]
    assert (reply.status_code, calls) == (400, []), said
    assert field in said
    assert not [name for name in DEFAULTS if name != field and f"'{name}'" in said]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_real_clients_can_use_every_provider(all_providers: AllProviders, family: str, client: str) -> None:
    """Unchanged, with a tool's answer on the way back."""
    fields = dict(CLIENTS[client])
    if family in SAMPLES_ALONE and fields.get("temperature", 1) != 1:
        fields["temperature"] = 1
    if family == "Bedrock":  # whose streams the scripted provider does not play
        fields = {name: value for name, value in fields.items() if name not in STREAMED}
    reply, calls = all_providers.ask(CHAT, family, fields)
    assert reply.status_code == 200, reply.text
    assert calls


@pytest.mark.parametrize("family", ["Anthropic", "Gemini", "Ollama", "Bedrock", "groq", "OpenAI"])
def test_a_chat_model_gets_no_completions_only_fields(all_providers: AllProviders, family: str) -> None:
    """Through `/v1/completions`: `best_of: 1`, `echo: false`, `suffix: ""` are not sent."""
    plain = all_providers.send("completions", family, {})
    assert plain[0] == 200
    assert all_providers.send("completions", family, {"best_of": 1, "echo": False, "suffix": ""}) == plain


def test_a_completion_model_gets_completions_defaults(all_providers: AllProviders) -> None:
    """Unchanged."""
    fields = {"best_of": 1, "echo": False, "suffix": "", "frequency_penalty": 0}
    _, seen = all_providers.send("completions", "completions", fields)
    assert seen is not None
    assert {name: seen.get(name) for name in fields} == fields


def test_a_chat_model_s_text_completion_is_streamed_as_text(all_providers: AllProviders) -> None:
    """LiteLLM sends a chat, also where the provider speaks OpenAI's protocol."""
    for family in ("OpenAI", "Anthropic"):
        reply, calls = all_providers.ask("completions", family, {"stream": True})
        assert "/v1/completions" not in {call["path"] for call in calls}
        frames = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        assert {frame["object"] for frame in frames} == {"text_completion"}
        choices = [choice for frame in frames for choice in frame["choices"]]
        assert not [choice for choice in choices if "delta" in choice]
        whole = all_providers.ask("completions", family, {})[0].json()["choices"][0]
        assert "".join(choice.get("text") or "" for choice in choices) == whole["text"]
        ends = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
        assert ends == [whole["finish_reason"]]


@pytest.mark.parametrize("prompt", [["one", "two"], [1, 2], [[1], [2]]])
def test_a_chat_model_takes_one_text_as_its_prompt(all_providers: AllProviders, prompt: object) -> None:
    """LiteLLM would make one conversation of several prompts, and answer them once."""
    for family in ("OpenAI", "Anthropic", "Gemini"):
        reply, calls = all_providers.ask("completions", family, {"prompt": prompt})
        assert (reply.status_code, calls) == (400, [])
        assert "`prompt` is one text a call" in reply.json()["error"]["message"]
    for family in ("completions", "OpenAI-compatible"):
        status, seen = all_providers.send("completions", family, {"prompt": prompt})
        assert (status, seen and seen["prompt"]) == (200, prompt)


def test_embeddings_take_openai_s_fields_at_any_server_of_its_format(all_providers: AllProviders) -> None:
    """The server decides on `dimensions`; the default format is dropped where there is no other."""
    for group in ("embeddings", "plain embeddings", "lm_studio embeddings"):
        fields = {"dimensions": 8, "encoding_format": "float"}
        _, seen = all_providers.send("embeddings", group, fields)
        assert seen is not None
        assert {name: seen.get(name) for name in fields} == fields
    assert all_providers.send("embeddings", "ollama embeddings", {"encoding_format": "float"})[0] == 200
    reply, calls = all_providers.ask("embeddings", "ollama embeddings", {"user": "u"})
    assert (reply.status_code, calls) == (400, [])
    assert "user" in reply.json()["error"]["message"]


@pytest.mark.parametrize("group", ["ollama embeddings", "lm_studio embeddings", "plain embeddings"])
def test_vectors_have_the_requested_encoding(all_providers: AllProviders, group: str) -> None:
    """OpenAI's SDKs request base64; a provider without it is not asked for it."""
    written: dict[str, list[Any]] = {}
    wishes: tuple[Json, ...] = ({}, {"encoding_format": "float"}, {"encoding_format": "base64"})
    for fields in wishes:
        reply, calls = all_providers.ask("embeddings", group, {"input": ["one", "base64"], **fields})
        assert reply.status_code == 200, reply.text
        written[fields.get("encoding_format", "")] = [one["embedding"] for one in reply.json()["data"]]
        if group == "ollama embeddings":
            assert "encoding_format" not in calls[-1]["body"]
    assert written[""] == written["float"]
    for vector, text in zip(written["float"], written["base64"], strict=True):
        found = struct.unpack(f"<{len(vector)}f", base64.b64decode(text))
        assert found == pytest.approx(vector)


ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}}
CUSTOM = {"type": "custom", "custom": {"name": "grep"}}


@pytest.mark.parametrize("choice", [ALLOWED, CUSTOM], ids=["allowed_tools", "custom"])
def test_newer_tool_choices_reach_providers_of_openai_s_format(
    all_providers: AllProviders, choice: Json
) -> None:
    """Unchanged; for another provider they are rejected before it is called."""
    asked: Json = {"tools": [TOOL, CUSTOM], "tool_choice": choice}
    for family in ("OpenAI", "OpenAI-compatible", "gpt-5", "groq", "vllm", "openrouter"):
        status, seen = all_providers.send(CHAT, family, asked)
        assert status == 200
        assert seen is not None
        assert seen["tool_choice"] == choice
    for family in ("Anthropic", "Gemini", "Bedrock", "opus"):
        reply, calls = all_providers.ask(CHAT, family, {**asked, "tools": [TOOL]})
        assert (reply.status_code, calls) == (400, [])
        assert "tool_choice" in reply.json()["error"]["message"]


def test_fields_that_litellm_would_read_reach_only_the_provider(all_providers: AllProviders) -> None:
    """The `priority` of vLLM does not queue in LiteLLM's scheduler."""
    groups: tuple[tuple[Endpoint, str], ...] = (
        (CHAT, "vllm"),
        (CHAT, "OpenAI-compatible"),
        ("embeddings", "plain embeddings"),
    )
    for door, family in groups:
        _, seen = all_providers.send(door, family, {"priority": 5})
        assert seen is not None
        assert seen["priority"] == 5
    _, seen = all_providers.send(CHAT, "openrouter", {"plugins": [{"id": "web"}], "session_id": "s"})
    assert seen is not None
    assert (seen["plugins"], seen["session_id"]) == ([{"id": "web"}], "s")


@pytest.mark.parametrize("family", ["OpenAI", "Anthropic", "Gemini", "Ollama", "Bedrock", "vllm"])
def test_a_nul_in_a_text_arrives(all_providers: AllProviders, family: str) -> None:
    """In a user's and in a tool's message."""
    binary = "ELF\0\0\x01"
    messages = [*AGENT[1:3], {"role": "tool", "tool_call_id": "call_1", "content": binary}]
    status, seen = all_providers.send(CHAT, family, {"messages": messages, "tools": [TOOL]})
    assert (status, json.dumps(binary)[1:-1] in json.dumps(seen)) == (200, True)


@pytest.mark.parametrize("family", ["OpenAI", "Anthropic", "Gemini", "Ollama", "Bedrock", "vllm", "azure"])
@pytest.mark.parametrize("play", ["ok", "tools", "refusal"])
def test_an_answer_is_a_message_of_the_next_call(all_providers: AllProviders, family: str, play: str) -> None:
    """Whatever the answer holds."""
    said = [{"role": "user", "content": json.dumps({"do": play})}]
    reply, _ = all_providers.ask(CHAT, family, {"messages": said, "tools": [TOOL]})
    assert reply.status_code == 200
    answer: Json = reply.json()["choices"][0]["message"]
    asked: list[Json] = answer.get("tool_calls") or []
    results = [{"role": "tool", "tool_call_id": one["id"], "content": "done"} for one in asked]
    follow = results or [{"role": "user", "content": "And then?"}]
    reply, calls = all_providers.ask(CHAT, family, {"messages": [*said, answer, *follow], "tools": [TOOL]})
    assert reply.status_code == 200, reply.text
    assert calls
