"""Every place of a full body holds each odd value once: a call or an error of ours, never an exception."""

import copy
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from unit.dialects.responses.chat_frames import SEAL

from llm_proxy.dialects.cohere import COHERE
from llm_proxy.dialects.dialect import BodyLimits, Dialect, ModelIndex
from llm_proxy.dialects.messages.dialect import MessagesDialect
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.dialects.responses.dialect import ResponsesDialect
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError
from llm_proxy.json_access import is_array, is_object

Json = dict[str, Any]
Place = tuple[str | int, ...]
MODELS = ModelIndex(
    "m",
    {"m": frozenset({"hosted_vllm"}), "claude": frozenset({"anthropic"}), "native": frozenset({"openai"})},
    speaks_natively=lambda group, _: group == "native",
)
GONE = object()
ODD: list[Any] = [GONE, None, -1, 1e300, "x", [], {}, [{}], [{"type": "message"}], {"type": "text"}, ["x"]]
IMG = "data:image/png;base64,iVBORw0KGgo="
RESPONSES: Json = {
    "model": "m",
    "input": [
        {"role": "developer", "content": [{"type": "input_text", "text": "d"}], "id": "m1"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "hi"},
                {"type": "input_image", "image_url": IMG, "detail": "low"},
                {"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "f.pdf"},
                {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "t"}],
            "encrypted_content": "abc",
            "content": [{"type": "reasoning_text", "text": "x"}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c1",
            "name": "f",
            "arguments": "{}",
            "status": "completed",
        },
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_text", "text": "o"}, {"type": "input_image", "image_url": IMG}],
        },
        {"type": "custom_tool_call", "call_id": "c2", "name": "c", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "y"},
        {
            "type": "local_shell_call",
            "id": "l1",
            "call_id": "c3",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"], "env": {}},
        },
        {"type": "local_shell_call_output", "call_id": "c3", "id": "c3", "output": "o"},
        {"type": "shell_call", "call_id": "c4", "action": {"commands": ["ls"]}},
        {
            "type": "shell_call_output",
            "call_id": "c4",
            "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        },
        {
            "type": "apply_patch_call",
            "call_id": "c5",
            "status": "completed",
            "operation": {"type": "delete_file", "path": "a"},
        },
        {"type": "apply_patch_call_output", "call_id": "c5", "status": "completed", "output": "ok"},
        {"type": "tool_search_call", "call_id": "c6", "execution": "client", "arguments": {"q": 1}},
        {
            "type": "tool_search_output",
            "call_id": "c6",
            "execution": "client",
            "tools": [{"type": "function", "name": "late", "parameters": {}}],
        },
        {
            "type": "message",
            "role": "assistant",
            "id": "msg1",
            "status": "completed",
            "phase": "final",
            "content": [
                {"type": "output_text", "text": "a", "annotations": []},
                {"type": "refusal", "refusal": "n"},
            ],
        },
        {
            "type": "web_search_call",
            "id": "ws",
            "status": "completed",
            "action": {"type": "search", "query": "x"},
        },
        {"role": "user", "content": "go"},
    ],
    "instructions": "be",
    "tools": [
        {
            "type": "function",
            "name": "f",
            "parameters": {"type": "object", "properties": {}},
            "strict": False,
        },
        {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {
            "type": "namespace",
            "name": "ns",
            "description": "d",
            "tools": [{"type": "function", "name": "g", "parameters": {}}],
        },
        {"type": "web_search", "external_web_access": True},
        {"type": "local_shell"},
        {"type": "shell"},
        {"type": "apply_patch"},
        {"type": "tool_search", "execution": "client", "description": "d", "parameters": {"type": "object"}},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "parallel_tool_calls": True,
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "x"},
    "service_tier": "auto",
    "truncation": "auto",
    "max_output_tokens": 50,
    "client_metadata": {"a": "b"},
    "text": {
        "format": {
            "type": "json_schema",
            "name": "n",
            "schema": {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "required": ["a"],
                "additionalProperties": False,
            },
            "strict": True,
        },
        "verbosity": "low",
    },
    "temperature": 0.5,
    "top_p": 0.5,
    "user": "u",
    "safety_identifier": "s",
    "stream_options": {"include_obfuscation": False},
    "max_tool_calls": 3,
    "store": False,
}
MESSAGES: Json = {
    "model": "m",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                },
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "doc"},
                    "title": "t",
                    "context": "c",
                },
                {
                    "type": "document",
                    "source": {"type": "content", "content": [{"type": "text", "text": "x"}]},
                },
                {
                    "type": "search_result",
                    "source": "s",
                    "title": "t",
                    "content": [{"type": "text", "text": "x"}],
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "a", "citations": [{"type": "char_location", "cited_text": "x"}]},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "toolu_2", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [
                        {"type": "text", "text": "o"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "AA"},
                        },
                    ],
                },
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "err", "is_error": True},
                {"type": "text", "text": "and"},
            ],
        },
        {"role": "system", "content": "mid"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "go"},
    ],
    "tools": [
        {
            "name": "f",
            "description": "d",
            "input_schema": {"type": "object", "properties": {}},
            "cache_control": {"type": "ephemeral"},
            "defer_loading": True,
            "input_examples": [{"a": 1}],
            "eager_input_streaming": True,
            "strict": True,
        },
        {"type": "custom", "name": "g", "input_schema": {"type": "object"}, "allowed_callers": ["direct"]},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "metadata": {"user_id": '{"device_id":"d","session_id":"s"}'},
    "stop_sequences": ["S"],
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
    "service_tier": "auto",
    "diagnostics": {},
    "inference_geo": "global",
    "speed": "standard",
    "cache_control": {"type": "ephemeral"},
}


RERANK: Json = {
    "model": "m",
    "query": {"text": "q", "image": "https://example.org/a.png"},
    "documents": ["a", {"text": "b", "image": "https://example.org/b.png"}, {"title": "c", "more": [1]}],
    "top_n": 2,
    "rank_fields": ["text", "title"],
    "return_documents": True,
    "max_tokens_per_doc": 100,
    "max_chunks_per_doc": 3,
    "user": "u",
    "truncate": "END",
    "extra_body": {"priority": 3},
    "metadata": {"agent_id": "a"},
}
MODERATIONS: Json = {
    "model": "m",
    "input": [
        {"type": "text", "text": "t"},
        {"type": "image_url", "image_url": {"url": IMG, "detail": "low"}},
    ],
    "user": "u",
    "metadata": {"agent_id": "a"},
}
SPEECH: Json = {
    "model": "m",
    "input": "hello",
    "voice": {"id": "v", "more": {}},
    "instructions": "calm",
    "response_format": "mp3",
    "speed": 1.5,
    "stream_format": "sse",
    "user": "u",
    "lang": "en",
}


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    if is_object(value):
        for name, inner in value.items():
            yield (*at, name)
            yield from places(inner, (*at, name))
    elif is_array(value):
        for number, inner in enumerate(value):
            yield (*at, number)
            yield from places(inner, (*at, number))


def changed(body: Json, place: Place, value: object) -> Json:
    made: Any = copy.deepcopy(body)
    inside = made
    for step in place[:-1]:
        inside = inside[step]
    if value is GONE:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    whole: Json = made
    return whole


@pytest.mark.parametrize("model", ["m", "claude", "native"])
@pytest.mark.parametrize(
    ("dialect", "endpoint", "body"),
    [(ResponsesDialect(SEAL), "responses", RESPONSES), (MessagesDialect(), "messages", MESSAGES)],
    ids=["responses", "messages"],
)
def test_any_odd_value_at_any_place(
    dialect: ResponsesDialect | MessagesDialect, endpoint: Endpoint, body: Json, model: str
) -> None:
    assert count_of_refused(dialect, endpoint, {**body, "model": model}) > 400


@pytest.mark.parametrize(
    ("dialect", "endpoint", "body"),
    [
        (COHERE, "rerank", RERANK),
        (OPENAI, "moderations", MODERATIONS),
        (OPENAI, "audio.speech", SPEECH),
    ],
    ids=["rerank", "moderations", "speech"],
)
def test_any_odd_value_at_any_place_of_what_is_no_conversation(
    dialect: Dialect, endpoint: Endpoint, body: Json
) -> None:
    assert count_of_refused(dialect, endpoint, body) > 30


def count_of_refused(dialect: Dialect, endpoint: Endpoint, full: Json) -> int:
    """How many bodies with one odd value are refused; the full one is not, and each refusal has a message."""
    limits = BodyLimits(max_messages=50)
    assert dialect.parse(endpoint, orjson.dumps(full), NO_OPTIONS, MODELS, limits).model == full["model"]
    refused: list[str] = []
    for place in places(full):
        for odd in ODD:
            encoded = orjson.dumps(changed(full, place, odd))
            try:
                dialect.parse(endpoint, encoded, NO_OPTIONS, MODELS, limits)
            except APIError as error:
                refused.append(dialect.error(error)["error"]["message"])
    assert all(refused)
    return len(refused)
