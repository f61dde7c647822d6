"""The calls that `test_direct_calls` compares: what is asked, and what the provider plays."""

import gzip
import json

from odd_provider_answers import DONE, USAGE, chunk, event, whole, wire
from sidecars import Json
from stages.sidecar.test_alike_frames import OPENAI

from llm_proxy.sidecar.direct_streams import MAX_KEPT_BYTES

Case = tuple[str, Json, Json]
"""A group, fields of the call, and what the provider plays."""
PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOOL: Json = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
TOKENS: Json = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "cached_tokens": 40,
    "reasoning_tokens": 5,
    "cache_write_tokens": 30,
}
TALK: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "found"},
]
RAW: dict[str, Json] = {
    "unknown-fields": whole(
        {"role": "assistant", "content": "x", "more": {"a": 1}}, choice={"own": 2}, beside=[3]
    ),
    "no-usage": whole({"role": "assistant", "content": "x"}, usage=None),
    "finish": whole({"content": "x", "reasoning": "y"}, "eos"),
    "blocks": whole({"content": [{"type": "text", "text": "x"}]}),
    "counts": whole(
        {"content": "x"}, usage={"prompt_tokens": 3.0, "completion_tokens": 2, "num_cached_tokens": 1}
    ),
    "tool": whole(
        {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}, "tool_calls"
    ),
    "tier": whole({"content": "x"}, service_tier="flex", usage=USAGE | {"service_tier": "priority"}),
    "cost": whole({"content": "x"}, usage=USAGE | {"cost": 0.25, "prompt_tokens_details": None}),
    "half": whole({"content": "x\ud83d y"}),
    "choices": whole({"content": "x"}, logprobs={"content": [{"token": "x", "logprob": None}]}),
    "annotations": whole(
        {
            "content": "x",
            "annotations": [
                {
                    "type": "url_citation",
                    "url_citation": {"url": "http://a", "title": "t", "start_index": 0, "end_index": 1},
                }
            ],
        }
    ),
}
"""Name -> what a provider answers."""
ANSWER = json.dumps(RAW["blocks"]).encode()


def encoded(raw: bytes, encoding: str = "gzip") -> Case:
    """A whole answer as it is sent, and what its header says of it."""
    return "gpt", {}, {"do": "raw", "raw": [raw.decode("latin-1")], "encoding": encoding}


GOOD: dict[str, Case] = {
    "text": ("gpt", {}, {"do": "ok", **TOKENS}),
    "parameters": ("gpt", {"temperature": 0.5, "max_tokens": 9, "stop": ["a"], "user": "u", "seed": 3}, {}),
    "tools": ("gpt", {"tools": [TOOL], "tool_choice": "auto"}, {"do": "tools"}),
    "choices": ("gpt", {"n": 3, "logprobs": True, "top_logprobs": 1}, {}),
    "refusal": ("gpt", {}, {"do": "refusal"}),
    "tier": ("gpt", {"service_tier": "flex"}, {"service_tier": "flex", **TOKENS}),
    "uncounted": ("gpt", {}, {"counted": False}),
    "own-fields": ("gpt", {"extra_body": {"top_k": 4}, "response_format": {"type": "json_object"}}, {}),
    "conversation": ("gpt", {"messages": TALK, "tools": [TOOL]}, {}),
    "unpriced": ("unknown", {}, TOKENS),
    "wildcard": ("any/gpt-4o-mini", {}, TOKENS),
    "another-of-it": ("any/gpt-4.1", {"temperature": 0}, TOKENS),
    "reasoner": ("reasoner", {"max_tokens": 50, "reasoning_effort": "low"}, TOKENS),
    **{
        f"raw-{name}": ("gpt", {}, {"do": "raw", "raw": [wire(json.dumps(one))]}) for name, one in RAW.items()
    },
    "raw-compressed": encoded(gzip.compress(ANSWER)),
    "raw-zeros-behind": encoded(gzip.compress(ANSWER) + bytes(2)),
    "raw-unknown-encoding": encoded(ANSWER, "own"),
}
VECTOR: Json = {"object": "embedding", "index": 0, "embedding": [0.5, 1e-07]}
ONE: Json = {
    "object": "list",
    "data": [VECTOR],
    "model": "e",
    "usage": {"prompt_tokens": 5, "total_tokens": 5},
}
EMBEDDED: dict[str, Case] = {
    "vectors": (
        "embed",
        {"input": ["one"]},
        {"do": "raw", "raw": [json.dumps(ONE | {"data": [VECTOR, VECTOR | {"index": 1}]})]},
    ),
    "as-text": (
        "embed",
        {"input": [], "encoding_format": "base64", "dimensions": 4},
        {"do": "raw", "raw": [json.dumps(ONE | {"data": [VECTOR | {"embedding": "AAAAPw=="}]})]},
    ),
    "raw": ("embed", {"input": []}, {"do": "raw", "raw": [json.dumps(ONE, indent=1)]}),
    "usage-first": ("embed", {"input": []}, {"do": "raw", "raw": [json.dumps(dict(reversed(ONE.items())))]}),
}
REPAIRED: dict[str, Case] = {
    "numbers-for-text": (
        "embed",
        {"input": [], "encoding_format": "base64"},
        {"do": "raw", "raw": [json.dumps(ONE)]},
    ),
    "own-field": (
        "embed",
        {"input": []},
        {"do": "raw", "raw": [json.dumps(ONE | {"data": [VECTOR | {"of": "a"}]})]},
    ),
    "too-few": ("embed", {"input": ["one", "two"]}, {"do": "raw", "raw": [json.dumps(ONE)]}),
    "uncounted": ("embed", {"input": []}, {"do": "raw", "raw": [json.dumps(ONE | {"usage": None})]}),
    "no-index": (
        "embed",
        {"input": []},
        {"do": "raw", "raw": [json.dumps(ONE | {"data": [{"embedding": [1]}]})]},
    ),
}
"""Answers that LiteLLM parses, some after a repair."""
FAILED: dict[str, Case] = {
    **{
        f"status-{status}": ("gpt", {}, {"do": f"status-{status}"})
        for status in (400, 401, 404, 408, 429, 500, 503)
    },
    **{
        name: ("gpt", {}, {"do": name})
        for name in ("error-in-200", "garbage", "empty", "drop", "cut", "filtered", "not-sse")
    },
    "wildcard": ("any/gpt-4o-mini", {}, {"do": "status-503"}),
    "context": ("gpt", {}, {"do": "context"}),
    "policy": ("gpt", {}, {"do": "policy"}),
    "no-choice": ("gpt", {}, {"do": "raw", "raw": ['{"choices": []}']}),
    "not-compressed": encoded(ANSWER),
    "compressed-in-two": encoded(gzip.compress(ANSWER[:50]) + gzip.compress(ANSWER[50:])),
    "timeout": ("hasty", {}, {"do": "hang"}),
    "retried": ("retried", {}, {"do": "flaky", "status": 500}),
    "retried-twice": ("retried", {}, {"do": "status-500"}),
    "limited": ("retried", {}, {"do": "status-429", "retry_after": "0"}),
    "fallback": ("first", {}, {"do": "status-500"}),
}


STREAM: Json = {"stream": True, "stream_options": {"include_usage": True}}


def plays(name: str, fields: Json, *, gap_ms: int = 0) -> Case:
    """A stream of another test's, counted or not."""
    parts = [one if isinstance(one, str) else event(one) for one in OPENAI[name]]
    writes = [wire(one).replace("\xed\xb3\xbf", "\xff") for one in [*parts, DONE]]
    return "gpt", {"stream": True} | fields, {"do": "raw", "raw": writes, "gap_ms": gap_ms}


TWO = [
    event(chunk({"content": text} if text else {}, None if text else "stop", choice={"index": at}))
    for text in ("a", "b", "")
    for at in range(2)
]
COUNTED = (
    *("plain", "odd texts", "padding", "usage is null", "cost", "end in a text", "reasoning", "calls"),
    *("probabilities", "a refusal", "fields beyond", "comments", "no empty lines", "usage in each frame"),
)
TORN: Json = STREAM | {"max_tokens": 77}
"""Of a form of its own: the second of these streams is translated by what the first has shown."""
STREAMED: dict[str, Case] = {
    "long-ids": plays("long ids", TORN),
    **{
        name: ("gpt", STREAM | fields, directive)
        for name, (_, fields, directive) in GOOD.items()
        if not name.startswith("raw-") and name not in {"uncounted", "unpriced", "reasoner"}
    },
    "unpriced": ("unknown", STREAM, TOKENS),
    "reasoner": ("reasoner", STREAM | {"max_tokens": 50}, TOKENS),
    "slow": ("gpt", STREAM, {"gap_ms": 5, "frames": 30, **TOKENS}),
    "no-done": ("gpt", STREAM, {"do": "no-done"}),
    "usage-not-asked-for": ("gpt", {"stream": True}, {"do": "raw", "raw": plays("plain", {})[2]["raw"]}),
    **{f"play-{name}": plays(name, STREAM) for name in COUNTED},
    **{f"slow-play-{name}": plays(name, STREAM, gap_ms=2) for name in COUNTED[:4]},
    "odd-frames-later": (
        "gpt",
        STREAM,
        {"do": "raw", "raw": [*plays("calls", {})[2]["raw"][:-2], *plays("reasoning", {})[2]["raw"]]},
    ),
    "half-a-character": plays("half a character", TORN),
    "no-error": (
        "gpt",
        STREAM,
        {"do": "raw", "raw": [wire(event({"error": {}})), *plays("plain", {})[2]["raw"]]},
    ),
    "two-choices": ("gpt", STREAM | {"n": 2}, {"do": "raw", "raw": TWO + plays("plain", {})[2]["raw"][-2:]}),
}
FRAME_BYTES = 200
"""Fewer than a frame with probabilities has; such frames are not alike."""
UNEVEN: dict[str, Case] = {
    name: ("gpt", STREAM, {"do": name, "after": 3})
    for name in ("cut", "reset", "eof", "garbage", "half-frame", "error-in-200", "not-sse", "empty", "drop")
} | {
    **{
        name: ("gpt", STREAM, {"do": name})
        for name in ("status-400", "status-429", "status-500", "context", "policy")
    },
    **{
        f"first-{name}": ("gpt", STREAM, {"do": name, "after": 0})
        for name in ("cut", "eof", "garbage", "error-in-200")
    },
    **{
        f"play-{name}": plays(name, STREAM)
        for name in (
            "an error",
            "an error event",
            "unreadable",
            "truncated",
            "a failure as its end",
            "no usage",
            "choices",
        )
    },
    "json-lines": (
        "gpt",
        STREAM,
        {"do": "raw", "raw": [wire(f"{json.dumps(one)}\n") for one in OPENAI["plain"]]},
    ),
    "long": ("gpt", STREAM | {"logprobs": True}, {"frames": MAX_KEPT_BYTES // FRAME_BYTES, **TOKENS}),
    "uncounted": ("gpt", STREAM, {"counted": False}),
    "uncounted-unasked": ("gpt", {"stream": True}, {"counted": False}),
    "filtered": ("gpt", STREAM, {"do": "filtered"}),
    "timeout": ("hasty", STREAM, {"do": "hang"}),
    "silence": ("hasty", STREAM, {"do": "silence", "after": 3}),
    "retried": ("retried", STREAM, {"do": "flaky", "status": 500}),
    "retried-twice": ("retried", STREAM, {"do": "status-500"}),
    "limited": ("retried", STREAM, {"do": "status-429", "retry_after": "0"}),
    "fallback": ("first", STREAM, {"do": "status-500"}),
    "fallback-first": ("first", STREAM, {"do": "error-in-200", "after": 0}),
    "fallback-no-text": ("first", STREAM, {"do": "cut", "after": 1}),
    "fallback-too-late": ("first", STREAM, {"do": "cut", "after": 3}),
}
"""Streams that LiteLLM ends, and some that it sends whole."""
EITHER_ROW = {"fallback-no-text"}
"""Both attempts fail after the headers: the log keeps the row of whichever LiteLLM logs first."""
