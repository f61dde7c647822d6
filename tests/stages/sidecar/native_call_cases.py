"""The native calls that `test_direct_calls` compares: what is asked, and what the provider plays."""

import json

from odd_provider_answers import wire
from sidecars import Json
from stages.sidecar.direct_call_cases import TOKENS, Case

NATIVE_PATHS = {
    **dict.fromkeys(("responder", "responder-first", "responders/gpt-4.1"), "/v1/responses"),
    **dict.fromkeys(
        ("claude", "own-claude", "no-price-claude", "claude-first", "claude-retried", "claude-hasty"),
        "/v1/messages",
    ),
}
"""Group -> the path of its calls."""
MESSAGE_HEADERS = {"anthropic-version": "2023-06-01", "anthropic-beta": "context-1m-2025-08-07"}
LIMIT: Json = {"max_tokens": 2000}
FUNCTION: Json = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}
TOOL: Json = {"name": "look_up", "input_schema": {"type": "object"}}
ASKED: list[Json] = [
    {"role": "user", "content": "where?"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
    {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "there"},
]
TALK: list[Json] = [
    {"role": "user", "content": [{"type": "text", "text": "where?", "cache_control": {"type": "ephemeral"}}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"at": [1, {"b": None}]}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "there"}]},
    {"role": "assistant", "content": "there"},
]
SAID: Json = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
TEXT: Json = SAID | {"content": [{"type": "output_text", "text": "x", "annotations": [], "own": 1}]}
COUNTS: Json = {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14}


def raw(document: Json | str) -> Json:
    """A whole answer of these bytes."""
    text = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
    return {"do": "raw", "raw": [wire(text)]}


def response(*items: Json, **more: object) -> Json:
    """An answer of Responses."""
    made = {"id": "resp_x", "object": "response", "created_at": 1, "status": "completed", "error": None}
    return raw(made | {"model": "gpt-4.1", "output": list(items), "usage": COUNTS} | more)


def message(*blocks: Json, **more: object) -> Json:
    """An answer of Messages."""
    made = {
        "id": "msg_x",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "stop_reason": "end_turn",
    }
    usage = {"input_tokens": 9, "output_tokens": 5}
    return raw(made | {"content": list(blocks), "stop_sequence": None, "usage": usage} | more)


BLOCK: Json = {"type": "text", "text": "x é", "more": [1]}
THOUGHT: Json = {"type": "thinking", "thinking": "a long thought of some words", "signature": "s"}
THOUGHTFUL: Json = {"input_tokens": 9, "output_tokens": 15, "output_tokens_details": {"thinking_tokens": 7}}
NATIVE: dict[str, Case] = {
    "response": ("responder", {}, {"do": "ok", **TOKENS}),
    "wildcard": ("responders/gpt-4.1", {}, {"do": "ok", **TOKENS}),
    "response-fields": (
        "responder",
        {
            "instructions": "Be brief.",
            "metadata": {"a": "b"},
            "client_metadata": {"c": "d"},
            "prompt_cache_key": "k",
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "low", "summary": "auto"},
            "text": {"verbosity": "low"},
            "temperature": 0.5,
            "user": "u",
        },
        TOKENS,
    ),
    "response-tools": ("responder", {"tools": [FUNCTION], "input": ASKED}, {"do": "tools"}),
    "response-tier": ("responder", {"service_tier": "flex"}, {"service_tier": "flex", **TOKENS}),
    "response-refusal": ("responder", {}, {"do": "refusal"}),
    "response-raw": (
        "responder",
        {},
        response({"type": "reasoning", "id": "r", "summary": []}, TEXT, own=[2]),
    ),
    "response-incomplete": ("responder", {}, response(TEXT, status="incomplete", incomplete_details={})),
    "message": ("claude", LIMIT, {"do": "ok", **TOKENS, "cache_write_1h_tokens": 10}),
    "message-fields": (
        "claude",
        LIMIT
        | {
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "metadata": {"user_id": "u"},
            "stop_sequences": ["END"],
            "top_k": 3,
            "temperature": 1,
            "thinking": {"type": "enabled", "budget_tokens": 1500},
            "service_tier": "auto",
        },
        TOKENS,
    ),
    "message-fitted": (
        "claude",
        LIMIT | {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        {},
    ),
    "message-tools": ("claude", LIMIT | {"tools": [TOOL], "messages": TALK}, {"do": "tools"}),
    "message-raw": ("claude", LIMIT, message(BLOCK, own={"a": None}, container=None)),
    "message-thoughts": ("claude", LIMIT, message(THOUGHT, BLOCK, usage=THOUGHTFUL)),
    "message-priority": (
        "claude",
        LIMIT,
        message(BLOCK, usage={"input_tokens": 9, "output_tokens": 5, "service_tier": "priority"}),
    ),
    "message-searches": (
        "claude",
        LIMIT,
        message(
            BLOCK,
            usage={
                "input_tokens": 9,
                "cache_read_input_tokens": None,
                "output_tokens": 5,
                "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
            },
        ),
    ),
    "message-stopped": ("claude", LIMIT, message(BLOCK, stop_reason="max_tokens")),
    "message-odd-reason": ("claude", LIMIT, message(BLOCK, stop_reason="odd")),
    "own-message": ("own-claude", LIMIT | {"system": "s"}, {"do": "ok", **TOKENS}),
    "unpriced-message": ("no-price-claude", LIMIT, TOKENS),
}
"""Calls that LiteLLM has no part in."""
NATIVE_FAILED: dict[str, Case] = {
    **{
        f"{group}-{name}": (group, fields, {"do": name})
        for group, fields in (("responder", {}), ("claude", LIMIT))
        for name in (
            *("status-400", "status-401", "status-404", "status-429", "status-500", "status-529"),
            *("error-in-200", "garbage", "empty", "drop", "cut", "not-sse"),
        )
    },
    "retried": ("claude-retried", LIMIT, {"do": "flaky", "status": 500}),
    "retried-twice": ("claude-retried", LIMIT, {"do": "status-500"}),
    "timeout": ("claude-hasty", LIMIT, {"do": "hang"}),
    "fallback": ("claude-first", LIMIT, {"do": "status-500"}),
    "response-fallback": ("responder-first", {}, {"do": "status-500"}),
    "response-failed": (
        "responder",
        {},
        response(status="failed", error={"code": "server_error", "message": "m"}),
    ),
    "response-queued": ("responder", {}, response(status="queued", usage=None)),
    "response-searched": (
        "responder",
        {},
        response({"type": "web_search_call", "id": "w", "status": "completed"}, TEXT),
    ),
    "response-uncounted": ("responder", {}, response(TEXT, usage=None)),
    "response-other": ("responder", {}, raw({"object": "response"})),
    "message-refused": (
        "claude",
        LIMIT,
        message(BLOCK, stop_reason="refusal", stop_details={"type": "refusal", "category": "cyber"}),
    ),
    "message-uncounted": ("claude", LIMIT, message(BLOCK, usage=None)),
    "message-odd-number": ("claude", LIMIT, message(BLOCK, own=float("nan"))),
    "unknown-field": ("claude", LIMIT | {"new_field": {"kept": None}}, {"do": "ok"}),
    "long-number": (
        "claude",
        LIMIT | {"tools": [TOOL | {"input_schema": {"maximum": 10**20}}]},
        {"do": "ok"},
    ),
}
"""Calls that LiteLLM answers."""


def _streamed(cases: dict[str, Case]) -> dict[str, Case]:
    """The same calls, streamed; without those that get a whole answer."""
    return {
        f"{name}-stream": (group, fields | {"stream": True}, directive)
        for name, (group, fields, directive) in cases.items()
        if directive.get("do") != "raw"
    }


def events(*said: Json) -> Json:
    """A stream of these events."""
    return {"do": "raw", "raw": [wire(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n") for one in said]}


def marked(stream: Json) -> Json:
    """The same stream after a byte order mark."""
    return stream | {"raw": [wire("\ufeff"), *stream["raw"]]}


STARTED: Json = {
    "type": "message_start",
    "message": {"id": "msg_x", "model": "c", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}},
}
DELTAS: list[Json] = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": 'a "type": "error" b'},
    },
    {"type": "content_block_stop", "index": 0},
]
STOPPED: list[Json] = [
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 5, "own": None},
    },
    {"type": "message_stop"},
]
ODD_REASON: Json = STOPPED[0] | {"delta": {"stop_reason": "odd"}}
UNCOUNTED: Json = STOPPED[0] | {"usage": None}
STREAM: Json = {"stream": True}
CREATED: Json = {"type": "response.created", "response": {"id": "resp_x", "status": "in_progress"}}
COMPLETED: Json = {
    "type": "response.completed",
    "response": json.loads(response(TEXT)["raw"][0]),
}
NATIVE_STREAMED = _streamed(NATIVE) | {
    "message-slow": ("claude", LIMIT | STREAM, {"do": "ok", "gap_ms": 3, **TOKENS}),
    "response-slow": ("responder", STREAM, {"do": "ok", "gap_ms": 3, **TOKENS}),
    "message-events": ("claude", LIMIT | STREAM, events(STARTED, *DELTAS, *STOPPED)),
    "message-odd-reason": (
        "claude",
        LIMIT | STREAM,
        events(STARTED, *DELTAS, ODD_REASON, STOPPED[1]) | {"gap_ms": 3},
    ),
    "response-events": ("responder", STREAM, events(CREATED, COMPLETED)),
    "response-stays-open": ("responder", STREAM, {"do": "stays-open", **TOKENS}),
    "message-stays-open": ("claude", LIMIT | STREAM, {"do": "stays-open", **TOKENS}),
}
"""Streams that LiteLLM has no part in."""
NOTHING_SENT = {"eof", "half-frame"}
"""Streams that end before their first event: LiteLLM writes no row of a message's."""
SEARCHED = json.loads(response({"type": "web_search_call", "id": "w", "status": "completed"}, TEXT)["raw"][0])
NATIVE_UNEVEN: dict[str, Case] = {
    **{
        f"{group}-{name}-{after}": (group, fields | STREAM, {"do": name, "after": after, "gap_ms": gap_ms})
        for group, fields in (("responder", {}), ("claude", LIMIT))
        for name in ("cut", "reset", "eof", "half-frame", "error-in-200")
        for after, gap_ms in ((0, 0), (5, 0), (7, 3))
        if after or name not in NOTHING_SENT
    },
    **{
        f"{group}-{name}": (group, fields | STREAM, {"do": name})
        for group, fields in (("responder", {}), ("claude", LIMIT))
        for name in ("status-400", "status-429", "status-500", "not-sse", "drop")
    },
    "fallback-stream": ("claude-first", LIMIT | STREAM, {"do": "status-500"}),
    "response-fallback-stream": ("responder-first", STREAM, {"do": "status-500"}),
    "marked-response-stream": ("responder", STREAM, marked(events(CREATED, COMPLETED))),
    "marked-message-stream": ("claude", LIMIT | STREAM, marked(events(STARTED, *DELTAS, *STOPPED))),
    "searched-stream": ("responder", STREAM, events(CREATED, COMPLETED | {"response": SEARCHED})),
    "uncounted-stream": ("claude", LIMIT | STREAM, events(STARTED, *DELTAS, UNCOUNTED, STOPPED[1])),
    "failed-stream": (
        "responder",
        STREAM,
        events(CREATED, {"type": "response.failed", "response": {"id": "r"}}),
    ),
}
"""Streams that LiteLLM ends."""
