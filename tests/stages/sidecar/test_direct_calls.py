"""Direct calls: the gateway, the call log and the provider see what they see without them."""

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from odd_provider_answers import DONE, USAGE, chunk, event, whole, wire
from sidecar_parts import needs_parts, without
from sidecars import Answer, Json, Provider, Sidecar, deployment, run_sidecar
from stages.conftest import Reader
from stages.sidecar.test_alike_frames import OPENAI

from llm_proxy.sidecar.direct_streams import MAX_KEPT_BYTES

OWN_HEADERS = frozenset(
    {
        *(
            "date",
            "x-litellm-call-id",
            "x-litellm-key-spend",
            "content-length",
            "llm_provider-content-length",
        ),
        *(
            "x-litellm-response-duration-ms",
            "x-litellm-overhead-duration-ms",
            "x-litellm-callback-duration-ms",
        ),
    }
)
"""Headers that differ from call to call, or that direct calls leave out."""
OWN_COLUMNS = frozenset({"answer_id", "call_id", "ended_at", "logged_at", "started_at"})
OWN_TEXT = re.compile(r"chatcmpl-[-0-9a-f]+|call_[0-9a-f]{32}|time taken=[\d.]+ seconds")
"""The provider's number of an answer, an id that the repair draws, the time of a timeout."""
CREATED = re.compile(r'"created":\d{10}')
Case = tuple[str, Json, Json]
"""A group, fields of the call, and what the provider plays."""
PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOOL: Json = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
AT_ONCE = 6
LEFT_AFTER_S = 30
"""Long before the provider's timeout."""
TOKENS: Json = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "cached_tokens": 40,
    "reasoning_tokens": 5,
    "cache_write_tokens": 30,
}


@pytest.fixture(scope="module")
def pair(
    provider: Provider, tmp_path_factory: pytest.TempPathFactory, call_log_url: str
) -> Iterator[tuple[Sidecar, Sidecar]]:
    """A sidecar with direct calls, and one without."""
    folder = Path(tmp_path_factory.mktemp("direct"))
    alone: Json = {"num_retries": 0, "cooldown_time": 0}
    models = [
        deployment("gpt", "openai/gpt-4o", provider, **alone),
        deployment("unknown", "openai/of-nobody", provider, **alone) | {"model_info": {"id": "unknown"}},
        deployment("embed", "openai/text-embedding-3-small", provider, **alone),
        deployment("reasoner", "openai/gpt-5", provider, **alone),
        deployment("hasty", "openai/hasty", provider, timeout=0.5, stream_timeout=0.5, **alone),
        deployment("retried", "openai/retried", provider, cooldown_time=0, num_retries=1),
        deployment("first", "openai/first", provider, **alone),
        deployment("second", "openai/second", provider, **alone),
        deployment("one-id", "openai/gpt-4o", provider, id="shared", **alone),
        deployment("same-id", "openai/gpt-4o-mini", provider, id="shared", **alone),
        deployment("模型\n二", "openai/物理", provider, id="号码", **alone),
        deployment("resold", "openai/claude-sonnet-4-6", provider, id="claude-sonnet-4-6", **alone),
        deployment("no-price", "openai/claude-haiku-4-5", provider, **alone)
        | {"model_info": {"id": "claude-haiku-4-5"}},
        deployment("maker", "anthropic/claude-sonnet-4-6", provider, **alone)
        | {"model_info": {"id": "maker"}},
    ]
    rules: Json = {"fallbacks": [{"first": ["second"]}], "retry_after": 0}
    config: Json = {"model_list": models, "router_settings": rules}
    env = {"LLM_CALLS_DATABASE_URL": call_log_url}
    others = env | without("direct_calls")
    with (
        run_sidecar(config, provider, folder, **env) as direct,
        run_sidecar(config, provider, folder, **others) as other,
    ):
        yield direct, other


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
    "reasoner": ("reasoner", {"max_tokens": 50, "reasoning_effort": "low"}, TOKENS),
    **{
        f"raw-{name}": ("gpt", {}, {"do": "raw", "raw": [wire(json.dumps(one))]}) for name, one in RAW.items()
    },
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
    "context": ("gpt", {}, {"do": "context"}),
    "policy": ("gpt", {}, {"do": "policy"}),
    "no-choice": ("gpt", {}, {"do": "raw", "raw": ['{"choices": []}']}),
    "timeout": ("hasty", {}, {"do": "hang"}),
    "retried": ("retried", {}, {"do": "flaky", "status": 500}),
    "retried-twice": ("retried", {}, {"do": "status-500"}),
    "limited": ("retried", {}, {"do": "status-429", "retry_after": "0"}),
    "fallback": ("first", {}, {"do": "status-500"}),
}


async def ask(sidecar: Sidecar, group: str, fields: Json, said: str, call_id: UUID) -> Answer:
    """One chat call, or one of embeddings."""
    if "input" in fields:
        path, texts = "/v1/embeddings", {"input": [*fields["input"], said]}
    else:
        path = "/v1/chat/completions"
        texts = {"messages": [*fields.get("messages", []), {"role": "user", "content": said}]}
    body: Json = {"cache": {"no-cache": True}} | fields | {"model": group} | texts
    return await sidecar.post(path, body, **{"x-litellm-call-id": str(call_id)})


async def learned(sidecar: Sidecar, cases: Iterable[Case]) -> int:
    """Make a good call of each form, so that the next is direct; return how many were direct so far."""
    await asyncio.gather(*(ask(sidecar, group, fields, "hello", uuid4()) for group, fields, _ in cases))
    return int((await sidecar.get("/health/readiness")).json["direct"])


def next_id() -> UUID:
    """An id that has as many tokens as any other, for calls whose prompts LiteLLM counts."""
    return UUID(f"00000000-0000-4000-8000-{secrets.randbelow(10**12):012d}")


async def seen(sidecar: Sidecar, case: Case, call_id: UUID) -> Json:
    """What the gateway and the provider see of a call."""
    mark = str(call_id)
    group, fields, directive = case
    own = {"key": mark, "text": "said"} if directive.get("do") == "flaky" else {}
    script = json.dumps({"do": "ok"} | directive | own)
    answer = await ask(sidecar, group, fields, f"{mark} {script}", call_id)
    calls, text = await sidecar.provider.calls(mark), OWN_TEXT.sub("", answer.text)
    return {
        "status": answer.status,
        "headers": {name: value for name, value in answer.headers.items() if name not in OWN_HEADERS},
        "timed": "x-litellm-overhead-duration-ms" in answer.headers,
        "body": CREATED.sub("", text) if fields.get("stream") else json.loads(text),
        "calls": [
            (
                one["path"],
                one["headers"] | {"content-length": ""},
                json.loads(json.dumps(one["body"]).replace(mark, "")),
            )
            for one in calls
        ],
    }


async def rows_of(log: Reader, call_id: UUID, call: Json) -> list[Json]:
    """The call's rows in the log."""
    rows = await log.rows(call_id, int(call["headers"].get("x-llmp-attempts", 1)))
    kept = [
        {name: value for name, value in row.items() if name not in OWN_COLUMNS} for row in map(dict, rows)
    ]
    return sorted(kept, key=lambda row: str(row["attempt"]))


async def differences(pair: tuple[Sidecar, Sidecar], log: Reader, cases: dict[str, Case]) -> tuple[Json, int]:
    """What differs between the two sidecars, by case, and how many of the cases were direct."""
    direct, other = pair
    before, never = await learned(direct, cases.values()), await learned(other, cases.values())
    ids = [(next_id(), next_id()) for _ in cases]
    at_once = asyncio.Semaphore(AT_ONCE)

    async def both(case: Case, own: UUID, its: UUID) -> tuple[Json, Json]:
        async with at_once:
            return await asyncio.gather(seen(direct, case, own), seen(other, case, its))

    asked = [
        asyncio.ensure_future(both(case, own, its))
        for case, (own, its) in zip(cases.values(), ids, strict=True)
    ]
    await asyncio.gather(*asked)
    sent = int((await direct.get("/health/readiness")).json["direct"]) - before
    found: Json = {}
    for name, calls, (own, its) in zip(cases, asked, ids, strict=True):
        one, two = await calls
        if name not in EITHER_ROW:
            one["rows"], two["rows"] = await rows_of(log, own, one), await rows_of(log, its, two)
        if one != two:
            found[name] = {part: (one[part], two[part]) for part in one if one[part] != two[part]}
    assert never == 0
    return found, sent


async def test_an_answer_is_the_same(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """In everything but the ids and the times; and LiteLLM has no part in it."""
    assert await differences(pair, log, GOOD) == ({}, len(GOOD))


async def test_a_failure_is_litellm_s(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """Its status, its error, its retries and its fallbacks, and no request more."""
    assert await differences(pair, log, FAILED) == ({}, 0)


@needs_parts("direct_calls")
async def test_vectors_are_the_same(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """Without being parsed; odd ones are LiteLLM's."""
    assert await differences(pair, log, EMBEDDED) == ({}, len(EMBEDDED))
    assert await differences(pair, log, REPAIRED) == ({}, 0)


async def test_groups_that_share_an_id_share_no_request(pair: tuple[Sidecar, Sidecar]) -> None:
    """Each has its own model and key, whatever ids a configuration states."""
    for sidecar in pair:
        await learned(sidecar, [("one-id", {}, {}), ("same-id", {}, {})])
        for group, model in (("one-id", "gpt-4o"), ("same-id", "gpt-4o-mini")):
            mark = str(uuid4())
            await ask(sidecar, group, {}, mark, uuid4())
            assert [call["model"] for call in await sidecar.provider.calls(mark)] == [model]


async def test_names_of_any_letters_are_answered(pair: tuple[Sidecar, Sidecar]) -> None:
    """Whole, streamed and as vectors; a line break of the group's name is no line break of the headers."""
    for sidecar in pair:
        group = "模型\n二"
        found = [
            *[await ask(sidecar, group, {}, str(uuid4()), uuid4()) for _ in range(2)],
            *[await sidecar.stream(group, str(uuid4())) for _ in range(2)],
            await sidecar.post("/v1/embeddings", {"model": group, "input": "a"}),
        ]
        for answer in found:
            assert answer.status == 200, answer.text
            sent = {name: value.decode() for name, value in answer.headers.raw}
            named = [sent[f"x-litellm-model-{one}".encode()] for one in ("group", "id", "name")]
            assert named == ["模型?二", "号码", "openai/物理"]
            assert sent[b"x-llmp-deployment"] == "号码"


async def test_an_id_that_is_a_model_s_name_has_its_own_price(pair: tuple[Sidecar, Sidecar]) -> None:
    """Or none; and the model of that name, at its maker, keeps the published one."""
    counts: Json = {"prompt_tokens": 1000, "completion_tokens": 100}
    for sidecar in pair:
        for group, cost_usd in (("resold", 0.0012), ("maker", 0.0045)):
            for _ in range(2):
                answer = await sidecar.chat(group, str(uuid4()), do="ok", **counts)
                assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(cost_usd)
        answer = await sidecar.chat("no-price", str(uuid4()), do="ok", **counts)
        assert "x-litellm-response-cost" not in answer.headers


async def test_a_caller_hangs_up(pair: tuple[Sidecar, Sidecar]) -> None:
    """The provider's connection is closed, and the call is not made again."""
    for sidecar in pair:
        await learned(sidecar, [GOOD["text"]])
        mark = str(uuid4())
        said = f'{mark} {{"do": "hang"}}'
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(sidecar, "gpt", {}, said, uuid4()), 1)
        assert await sidecar.provider.client_left_s(mark) < LEFT_AFTER_S
        assert len(await sidecar.provider.calls(mark)) == 1
        await all_ended(sidecar)


async def all_ended(sidecar: Sidecar) -> None:
    """Wait until no call runs in the sidecar."""
    for _ in range(600):
        if not (await sidecar.get("/health/readiness")).json["in_flight"]:
            return
        await asyncio.sleep(0.05)
    pytest.fail("a call still runs")


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
STREAMED: dict[str, Case] = {
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


async def test_a_stream_is_the_same(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """Byte for byte, and LiteLLM has no part in it."""
    assert await differences(pair, log, STREAMED) == ({}, len(STREAMED))


async def test_a_stream_s_failure_is_litellm_s(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """Before its first event and after it, with its retries and its fallbacks."""
    found, direct = await differences(pair, log, UNEVEN)
    assert found == {}
    assert direct < len(UNEVEN) / 4


@pytest.mark.parametrize("after", [0, 2, 12])
async def test_a_caller_leaves_a_stream(pair: tuple[Sidecar, Sidecar], log: Reader, after: int) -> None:
    """The provider's connection is closed, and the row has what was streamed; the call is not made again."""
    found = list[Json]()
    for sidecar in pair:
        call_id = next_id()
        await learned(sidecar, [("gpt", STREAM, {})])
        play = json.dumps({"do": "silence" if after else "hang", "after": after, "frames": 14})
        said = [{"role": "user", "content": f"{call_id} {play}"}]
        body: Json = {"model": "gpt", "messages": said, "cache": {"no-cache": True}} | STREAM
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await sidecar.leave_stream(body, after, **{"x-litellm-call-id": str(call_id)})
        assert await sidecar.provider.client_left_s(str(call_id)) < LEFT_AFTER_S
        assert len(await sidecar.provider.calls(str(call_id))) == 1
        await all_ended(sidecar)
        found += (await rows_of(log, call_id, {"headers": {}})) if after else []
    assert found[:1] == found[1:]
