"""Direct calls: the gateway, the call log and the provider see what they see without them."""

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from sidecar_parts import needs_parts, without
from sidecars import KEY, Answer, Json, Provider, Sidecar, deployment, run_sidecar
from stages.conftest import Reader, native
from stages.sidecar.direct_call_cases import (
    EITHER_ROW,
    EMBEDDED,
    FAILED,
    GOOD,
    REPAIRED,
    STREAM,
    STREAMED,
    TOKENS,
    UNEVEN,
    Case,
)
from stages.sidecar.native_call_cases import (
    LIMIT,
    MESSAGE_HEADERS,
    NATIVE,
    NATIVE_FAILED,
    NATIVE_PATHS,
    NATIVE_STREAMED,
    NATIVE_UNEVEN,
)

OWN_HEADERS = frozenset(
    {
        *(
            "date",
            "x-litellm-call-id",
            "x-litellm-key-spend",
            "content-length",
        ),
        *(
            "x-litellm-response-duration-ms",
            "x-litellm-overhead-duration-ms",
            "x-litellm-callback-duration-ms",
            "x-litellm-response-cost-reasoning",
        ),
    }
)
"""Headers that differ from call to call, or that only one of the ways has."""
PROVIDER_S_HEADERS = ("llm_provider-", "x-ratelimit-", "request-id")
"""Beginnings of headers that the gateway does not read, unless they state a cost."""
STATED_COST = "llm_provider-x-litellm-response-cost"
OWN_COLUMNS = frozenset({"answer_id", "call_id", "ended_at", "logged_at", "started_at"})
COST_HEADERS = "x-litellm-response-cost"
"""LiteLLM's headers of a native stream have no cost, or what it knows of one at that time."""
UNKNOWN_COLUMNS = frozenset(
    {"cached_tokens", "reasoning_tokens", "cache_write_tokens", "service_tier", "token_details"}
)
"""LiteLLM's row of a native stream has less of these than that of a whole answer."""
OWN_TEXT = re.compile(
    r"chatcmpl-[-0-9a-f]+|call_[0-9a-f]{32}|time taken=[\d.]+ seconds|resp_[0-9a-f]{48}|msg_\d+|toolu_\d+"
)
"""The provider's number of an answer, an id that the repair draws, the time of a timeout."""
CREATED = re.compile(r'"created":\d{10}')
AT_ONCE = 6
SLOW_FRAMES = 20_000
"""Four megabytes: more than the sockets and the sidecar hold."""
LEFT_AFTER_S = 30
"""Long before the provider's timeout."""


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
        deployment("any/*", "openai/*", provider, id="any", **alone),
        deployment("hasty", "openai/hasty", provider, timeout=0.5, stream_timeout=3, **alone),
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
        deployment("timed", "openai/timed", provider, **alone)
        | {"model_info": {"id": "timed", "input_cost_per_second": 1}},
        *natives(provider, alone),
    ]
    fallbacks = [{"first": ["second"]}, {"claude-first": ["claude"]}, {"responder-first": ["responder"]}]
    rules: Json = {"fallbacks": fallbacks, "retry_after": 0, "disable_cooldowns": True}
    config: Json = {"model_list": models, "router_settings": rules}
    env = {"LLM_CALLS_DATABASE_URL": call_log_url}
    others = env | without("direct_calls")
    with (
        run_sidecar(config, provider, folder, **env) as direct,
        run_sidecar(config, provider, folder, **others) as other,
    ):
        yield direct, other


def natives(provider: Provider, alone: Json) -> list[Json]:
    """Deployments that speak Responses and Messages."""
    claude, unpriced = "anthropic/claude-sonnet-4-5-20250929", "anthropic/claude-of-nobody"
    made = native("no-price-claude", unpriced, provider, **alone)
    info = {name: value for name, value in made["model_info"].items() if "cost" not in name}
    return [
        native("responder", "openai/gpt-4.1", provider, **alone),
        native("responders/*", "openai/*", provider, **alone),
        native("responder-first", "openai/first", provider, **alone),
        native("claude", claude, provider, **alone),
        native("claude-first", "anthropic/first", provider, **alone),
        native("claude-retried", "anthropic/retried", provider, cooldown_time=0, num_retries=1),
        native("claude-hasty", "anthropic/hasty", provider, timeout=0.5, **alone),
        native("own-claude", "openai/own-claude", provider, **alone),
        made | {"model_info": info},
    ]


async def ask(sidecar: Sidecar, group: str, fields: Json, said: str, call_id: UUID) -> Answer:
    """One chat call, or one of embeddings, or a native one."""
    headers = {"x-litellm-call-id": str(call_id)}
    if group in NATIVE_PATHS:
        path = NATIVE_PATHS[group]
        name = "input" if path == "/v1/responses" else "messages"
        texts = {name: [*fields.get(name, []), {"role": "user", "content": said}]}
        headers |= MESSAGE_HEADERS if name == "messages" else {}
    elif "input" in fields:
        path, texts = "/v1/embeddings", {"input": [*fields["input"], said]}
    else:
        path = "/v1/chat/completions"
        texts = {"messages": [*fields.get("messages", []), {"role": "user", "content": said}]}
    body: Json = {"cache": {"no-cache": True}} | fields | {"model": group} | texts
    return await sidecar.post(path, body, **headers)


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
    is_native_stream = group in NATIVE_PATHS and fields.get("stream") is True
    own = {"key": mark, "text": "said"} if directive.get("do") == "flaky" else {}
    script = json.dumps({"do": "ok"} | directive | own)
    answer = await ask(sidecar, group, fields, f"{mark} {script}", call_id)
    calls, text = await sidecar.provider.calls(mark), OWN_TEXT.sub("", answer.text)
    return {
        "status": answer.status,
        "headers": {
            name: value
            for name, value in answer.headers.items()
            if name not in OWN_HEADERS
            and not (is_native_stream and name.startswith(COST_HEADERS))
            and (name == STATED_COST or not name.startswith(PROVIDER_S_HEADERS))
        },
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
            if name in NATIVE_STREAMED:
                for call in (one, two):
                    call["rows"] = [row | dict.fromkeys(UNKNOWN_COLUMNS) for row in call["rows"]]
        if one != two:
            found[name] = {part: (one[part], two[part]) for part in one if one[part] != two[part]}
    assert never == 0
    return found, sent


async def test_an_answer_is_the_same(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """In everything but the ids and the times; and LiteLLM has no part in it, nor in answers like others."""
    for _ in range(2):
        await learned(pair[0], GOOD.values())
    assert await differences(pair, log, GOOD) == ({}, len(GOOD))


async def test_a_failure_is_litellm_s(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """Its status, its error, its retries and its fallbacks, and no request more."""
    assert await differences(pair, log, FAILED) == ({}, 0)


@needs_parts("direct_calls")
async def test_vectors_are_the_same(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """Without being parsed; odd ones are LiteLLM's."""
    assert await differences(pair, log, EMBEDDED) == ({}, len(EMBEDDED))
    assert await differences(pair, log, REPAIRED) == ({}, 0)


@needs_parts("direct_calls")
async def test_a_native_answer_is_the_same(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """Byte for byte, with LiteLLM's cost, headers and row; what LiteLLM must look at is LiteLLM's."""
    assert await differences(pair, log, NATIVE) == ({}, len(NATIVE))
    assert await differences(pair, log, NATIVE_FAILED) == ({}, 0)


@needs_parts("direct_calls")
async def test_a_native_stream_is_the_same(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """Byte for byte, with its cost; one that does not end well is LiteLLM's."""
    assert await differences(pair, log, NATIVE_STREAMED) == ({}, len(NATIVE_STREAMED))
    assert await differences(pair, log, NATIVE_UNEVEN) == ({}, 0)


@needs_parts("direct_calls")
async def test_a_native_stream_s_row_is_that_of_a_whole_answer(
    pair: tuple[Sidecar, Sidecar], log: Reader
) -> None:
    """With the tokens of each kind, and the tier."""
    sidecar, _ = pair
    for group, fields in (("responder", {}), ("claude", LIMIT)):
        await learned(sidecar, [(group, fields, {}), (group, fields | {"stream": True}, {})])
        rows = list[Json]()
        for more in ({}, {"stream": True}):
            said = json.dumps({"do": "ok", **TOKENS})
            await ask(sidecar, group, fields | more, said, call_id := uuid4())
            rows += await rows_of(log, call_id, {"headers": {}})
        assert rows[0] == rows[1]
        assert rows[0]["cached_tokens"] == TOKENS["cached_tokens"]


async def test_a_native_row_has_the_answer_s_own_id(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """LiteLLM encodes a response's id with its deployment's, and the caller never sees that one."""
    for sidecar in pair:
        for group, fields in (("responder", {}), ("responder", {}), ("claude", LIMIT)):
            answer = await ask(sidecar, group, fields, str(call_id := uuid4()), call_id)
            [row] = await log.rows(call_id)
            assert row["answer_id"] == answer.json["id"]


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
        for _ in range(3):
            assert '"cost"' not in (await sidecar.stream("no-price", str(uuid4()), do="ok", **counts)).text


async def test_a_call_that_is_billed_by_the_second_is_litellm_s(pair: tuple[Sidecar, Sidecar]) -> None:
    """It measures the time."""
    sidecar, _ = pair
    before = await learned(sidecar, [("timed", {}, {})])
    answer = await sidecar.chat("timed", str(uuid4()), do="ok")
    assert float(answer.headers["x-litellm-response-cost"]) > 0
    assert (await sidecar.get("/health/readiness")).json["direct"] == before


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


@needs_parts("frames")
async def test_a_stream_is_the_same(pair: tuple[Sidecar, Sidecar], log: Reader) -> None:
    """Byte for byte, and LiteLLM has no part in it."""
    assert await differences(pair, log, STREAMED) == ({}, len(STREAMED))


@needs_parts("direct_calls", "frames")  # how much comes of a stream that LiteLLM sees break off is chance
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


@pytest.mark.parametrize(("group", "after"), [("responder", 6), ("claude", 6), ("claude", 0)])
async def test_a_caller_leaves_a_native_stream(
    pair: tuple[Sidecar, Sidecar], log: Reader, group: str, after: int
) -> None:
    """The same; LiteLLM writes no row of a response that was left."""
    found = list[Json]()
    for sidecar in pair:
        call_id, path = next_id(), NATIVE_PATHS[group]
        fields = {"stream": True} | (LIMIT if group == "claude" else {})
        await learned(sidecar, [(group, fields, {})])
        play = json.dumps({"do": "silence" if after else "hang", "after": after, "frames": 14})
        said = [{"role": "user", "content": f"{call_id} {play}"}]
        name = "input" if path == "/v1/responses" else "messages"
        body: Json = {"model": group, name: said, "cache": {"no-cache": True}} | fields
        headers = MESSAGE_HEADERS | {"x-litellm-call-id": str(call_id)}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await sidecar.leave_stream(body, after, path, **headers)
        assert await sidecar.provider.client_left_s(str(call_id)) < LEFT_AFTER_S
        assert len(await sidecar.provider.calls(str(call_id))) == 1
        await all_ended(sidecar)
        found += (await rows_of(log, call_id, {"headers": {}})) if group == "claude" else []
    assert found[:1] == found[1:]


@pytest.mark.parametrize("fault", ["cut", "reset", "eof", "garbage", "half-frame", "error-in-200", "silence"])
async def test_what_came_before_a_fault_is_sent(
    pair: tuple[Sidecar, Sidecar], log: Reader, fault: str
) -> None:
    """Also where frames have passed without LiteLLM; the row has their texts."""
    sidecar, _ = pair
    group, call_id = "hasty" if fault == "silence" else "gpt", next_id()
    await learned(sidecar, [(group, STREAM, {})])
    play: Json = {"do": fault, "after": 12, "frames": 14, "gap_ms": 2}
    answer = await ask(sidecar, group, STREAM, f"{call_id} {json.dumps(play)}", call_id)
    assert len(re.findall(r'"content":"[^"]*?(\d+)"', answer.text)) >= 11
    assert answer.text.count('data: {"error":') == 1
    assert "[DONE]" not in answer.text
    [row] = await rows_of(log, call_id, {"headers": {}})
    assert (row["status"], row["completion_tokens"] > 20) == ("failure", True)


async def asked_for_a_stream(
    sidecar: Sidecar, **directive: object
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The connection of a direct stream that the sidecar was just asked for."""
    await learned(sidecar, [("gpt", STREAM, {})])
    fields: Json = {"model": "gpt", "cache": {"no-cache": True}} | STREAM
    said = [{"role": "user", "content": f"{uuid4()} {json.dumps({'do': 'ok'} | directive)}"}]
    url = urlsplit(sidecar.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=2**16)
    body = json.dumps(fields | {"messages": said}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    writer.write(
        f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    )
    return reader, writer


@needs_parts("direct_calls", "frames")
async def test_what_comes_together_is_sent_together(pair: tuple[Sidecar, Sidecar]) -> None:
    """The frames in one chunk, with the head before them and the end after them."""
    reader, writer = await asked_for_a_stream(pair[0], frames=3, at_once=True)
    raw = await reader.read(2**16)
    writer.close()
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert raw.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert raw.count(b"data: ") > raw.count(b"\r\ndata: ") == 1


@needs_parts("direct_calls")  # without them it is LiteLLM's stream, which takes a minute of a busy machine
async def test_a_caller_reads_slowly(pair: tuple[Sidecar, Sidecar]) -> None:
    """Every frame reaches it, in order, though the sidecar cannot send more for a while."""
    reader, writer = await asked_for_a_stream(pair[0], frames=SLOW_FRAMES)
    raw = bytearray()
    async with asyncio.timeout(60):
        while not raw.endswith(b"0\r\n\r\n"):
            raw += await reader.read(2**16)
            await asyncio.sleep(0.005)
    writer.close()
    words = re.findall(rb'"content":"[^"]*?(\d+)"', raw)
    assert [int(word) for word in words] == list(range(SLOW_FRAMES))
