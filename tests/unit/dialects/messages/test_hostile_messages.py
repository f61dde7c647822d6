"""Any body is a call or an error of ours, and any answer a message or one: never another exception."""

import copy
import random
from typing import Any

import orjson
import pytest
from messages_events import parse_events

from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta
from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.messages.request import MessagesContext
from llm_proxy.dialects.messages.stream import MessagesStream
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json, is_array, is_object

MODELS = ModelIndex(
    "gpt",
    {
        "gpt": frozenset({"openai"}),
        "claude": frozenset({"anthropic"}),
        "mixed": frozenset({"openai", "anthropic"}),
    },
    speaks_natively=lambda group, _: group == "native",
)
MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
SOURCE = {"type": "base64", "media_type": "image/png", "data": "AA=="}
TEXT: Json = {"type": "text", "text": "x", "citations": None, **MARK}
EVERYTHING: Json = {
    "model": "mixed",
    "max_tokens": 4000,
    "system": [TEXT],
    "messages": [
        {
            "role": "user",
            "content": [
                TEXT,
                {"type": "image", "source": SOURCE, **MARK},
                {"type": "document", "source": {"type": "content", "content": [TEXT]}, "title": "t"},
                {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
                {"type": "search_result", "source": "s", "title": "t", "content": [TEXT]},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "d"},
                TEXT,
                {
                    "type": "tool_use",
                    "id": "toolu_x_eA",
                    "name": "f",
                    "input": {"a": [1, None]},
                    "caller": None,
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_x_eA",
                    "is_error": True,
                    "content": [
                        TEXT,
                        {"type": "tool_reference", "tool_name": "f"},
                        {"type": "image", "source": SOURCE},
                    ],
                }
            ],
        },
        {"role": "system", "content": "s"},
        {"role": "user", "content": "on"},
    ],
    "tools": [
        {"name": "f", "description": "d", "input_schema": {"type": "object"}, "input_examples": [{}], **MARK}
    ],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
    "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
    "metadata": {"user_id": '{"device_id":"d","session_id":"s"}'},
    "stop_sequences": ["zz"],
    "temperature": 1,
    "top_k": 5,
    "stream": True,
    "service_tier": "auto",
    "mcp_servers": [],
    "container": None,
}
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**70,
    "",
    "x",
    "\ud83d\ude00",
    [],
    {},
    [[]],
    [None],
    {"type": "text"},
    {"type": None},
    {"type": []},
    {"type": "url", "url": "http://localhost"},
    {"type": "tool_use"},
)
SEEDS = range(400)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value in a document."""
    found = [path] if path else []
    if is_object(value):
        for name, inner in value.items():
            found += _places(inner, (*path, name))
    elif is_array(value):
        for at, inner in enumerate(value):
            found += _places(inner, (*path, at))
    return found


def mutated(document: Json, seed: int) -> Json:
    """The document with one or two values replaced, removed or repeated."""
    drawn = random.Random(seed)  # noqa: S311 -- a test
    document = copy.deepcopy(document)
    for _ in range(drawn.choice((1, 1, 2))):
        *way, last = drawn.choice(_places(document))
        holder: Any = document
        for step in way:
            holder = holder[step]
        how = drawn.random()
        if how < 0.2:
            del holder[last]
        elif how < 0.3 and is_array(holder):
            holder.append(copy.deepcopy(holder[last]))
        elif how < 0.4 and is_object(holder):
            holder["unknown"] = copy.deepcopy(drawn.choice(ODD))
        else:
            holder[last] = copy.deepcopy(drawn.choice(ODD))
    return document


@pytest.mark.parametrize("model", ["gpt", "claude", "mixed", "native"])
def test_any_body_is_a_call_or_an_error(model: str) -> None:
    refused: dict[bytes, int] = {}
    for seed in SEEDS:
        body = mutated(EVERYTHING, seed)
        if body.get("model") == "mixed":
            body["model"] = model
        version = ("2023-06-01", "2026-10-21")[seed % 2]
        raw = orjson.dumps(body) if _fits(body) else b"{"
        try:
            call = MESSAGES.parse(
                "messages", raw, RequestOptions(anthropic_version=version), MODELS, BodyLimits()
            )
            assert orjson.dumps(call.body)
        except APIError as error:
            refused[orjson.dumps(MESSAGES.error(error))] = error.status
        with_count = {name: value for name, value in body.items() if name != "max_tokens"}
        if _fits(with_count):
            try:
                MESSAGES.parse_count(orjson.dumps(with_count), RequestOptions(), MODELS, BodyLimits())
            except APIError:
                continue
    assert {*refused.values()} <= {400, 404}
    assert all(body.startswith(b'{"type":"error",') for body in refused)


def _fits(body: Json) -> bool:
    try:
        orjson.dumps(body)
    except (TypeError, orjson.JSONEncodeError):
        return False
    return True


ANSWER: Json = {
    "id": "chatcmpl-1",
    "model": "p",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "x",
                "refusal": None,
                "reasoning_content": "so",
                "thinking_blocks": [{"type": "thinking", "thinking": "so", "signature": "c2ln"}],
                "tool_calls": [
                    {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
}


@pytest.mark.parametrize("streamed", [False, True])
def test_any_answer_is_a_message_or_an_error(*, streamed: bool) -> None:
    call = MESSAGES.parse("messages", orjson.dumps(EVERYTHING), RequestOptions(), MODELS, BodyLimits())
    for seed in SEEDS:
        document = mutated(ANSWER, seed)
        if not _fits(document):
            continue
        raw = orjson.dumps(document)
        if not streamed:
            try:
                assert orjson.loads(MESSAGES.render(call, raw, ResponseMeta()))["type"] == "message"
            except APIError:
                continue
        else:
            stream = MessagesStream("m", MessagesContext(wants_thinking=True))
            said = stream.feed(b"data: " + raw.replace(b'"message"', b'"delta"') + b"\n\n")
            events = parse_events(said + stream.end(ResponseMeta()))
            assert events[-1]["type"] == "message_stop"
