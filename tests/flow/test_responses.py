"""The newest OpenAI SDK's responses, and Codex's requests, on chat models of three kinds of providers."""

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseFailedEvent,
    ResponseStreamEvent,
)
from pydantic import BaseModel
from running_stack import Json, RunningStack, script

WEATHER: Any = {
    "type": "function",
    "name": "look_up",
    "description": "Looks a city up.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
CODEX_HEADERS = {
    "session-id": "0193",
    "thread-id": "0193",
    "originator": "codex_exec",
    "x-codex-turn-metadata": "{}",
    "accept": "text/event-stream",
}


def codex_body(model: str, said: str, *items: Json) -> Json:
    """A request as Codex 0.171 sends it."""
    shell = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}
    tools = [
        {
            "type": "function",
            "name": "exec_command",
            "description": "Runs.",
            "strict": False,
            "parameters": shell,
        },
        {
            "type": "namespace",
            "name": "multi_agent_v1",
            "description": "Agents.",
            "tools": [{"type": "function", "name": "spawn_agent", "strict": False, "parameters": shell}],
        },
        {"type": "web_search", "external_web_access": True},
    ]
    text = [{"type": "input_text", "text": said}]
    return {
        "model": model,
        "input": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "developer",
                "content": [{"type": "input_text", "text": "Be brief."}],
            },
            {
                "type": "message",
                "id": "msg_2",
                "role": "user",
                "content": [{"type": "input_text", "text": "<environment/>"}],
            },
            {"type": "message", "id": "msg_3", "role": "user", "content": text},
            *items,
        ],
        "tools": tools,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0193",
        "client_metadata": {"session_id": "0193", "turn": '{"n": 1}'},
    }


async def streamed(stack: RunningStack, **body: Any) -> list[ResponseStreamEvent]:
    """The events of a stream, as the SDK parses them."""
    return [event async for event in await stack.openai.responses.create(stream=True, **body)]


async def sent_body(stack: RunningStack) -> Json:
    """What the provider got last."""
    found: Json = (await stack.calls())[-1]["body"]
    return found


@pytest.mark.parametrize("model", ["p/ok", "claude", "gemini"])
async def test_a_response_is_complete(stack: RunningStack, model: str) -> None:
    """On any provider, whole and streamed, with the provider's tokens."""
    answer = await stack.openai.responses.create(model=model, input="hello")
    events = await streamed(stack, model=model, input="hello")
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    for response in (answer, last.response):
        assert len(response.output_text.split()) == 8
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.output_tokens) == (17, 23)
        assert (response.status, response.model) == ("completed", model)
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == last.response.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_structured_output_is_parsed(stack: RunningStack) -> None:
    """The SDK's schema reaches the provider, strict."""

    class Person(BaseModel):
        name: str

    said = script(do="ok", text='{"name": "Ada"}')
    answer = await stack.openai.responses.parse(model="p/ok", input=said, text_format=Person)
    assert answer.output_parsed == Person(name="Ada")
    schema = (await sent_body(stack))["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"]) == ("Person", True)


@pytest.mark.parametrize("model", ["p/ok", "claude", "gemini"])
async def test_a_conversation_with_tools_and_images_goes_on(stack: RunningStack, model: str) -> None:
    """Parallel calls, their outputs with an image, and the answer to them; the items go back as they came."""
    said: Any = [{"role": "user", "content": [{"type": "input_text", "text": script(do="tools")}]}]
    first = await stack.openai.responses.create(model=model, input=said, tools=[WEATHER], store=False)
    calls = [item for item in first.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Oslo"}, {"city": "Turku"}]
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": calls[0].call_id, "output": "sunny"},
        {
            "type": "function_call_output",
            "call_id": calls[1].call_id,
            "output": [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": PIXEL}],
        },
    ]
    back = [item.model_dump(mode="json", exclude_none=True) for item in first.output]
    events = await streamed(stack, model=model, input=[*said, *back, *outputs], tools=[WEATHER], store=False)
    assert isinstance(events[-1], ResponseCompletedEvent)
    assert PIXEL.partition(",")[2] in json.dumps(await sent_body(stack))


CLAUDE_BLOCKS: list[tuple[Json, list[Json]]] = [
    (
        {"type": "thinking", "thinking": "", "signature": ""},
        [
            {"type": "thinking_delta", "thinking": "Let me "},
            {"type": "thinking_delta", "thinking": "see."},
            {"type": "signature_delta", "signature": "U0lHTkVE"},
        ],
    ),
    ({"type": "redacted_thinking", "data": "UkVEQUNU"}, []),
    ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "I look."}]),
    (
        {"type": "tool_use", "id": "toolu_1", "name": "exec_command", "input": {}},
        [
            {"type": "input_json_delta", "partial_json": '{"cmd":'},
            {"type": "input_json_delta", "partial_json": ' "ls"}'},
        ],
    ),
]


def claude_stream() -> list[str]:
    """Claude's own events: it thinks, says something and calls a tool."""
    usage = {"input_tokens": 9, "output_tokens": 1}
    message: Json = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude"}
    events: list[Json] = [{"type": "message_start", "message": {**message, "usage": usage}}]
    for index, (block, deltas) in enumerate(CLAUDE_BLOCKS):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    ended = {"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 20}}
    events += [{"type": "message_delta", **ended}, {"type": "message_stop"}]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]


async def codex(stack: RunningStack, body: Json) -> list[Json]:
    """The events Codex gets; each has an `event:` line."""
    headers = {**stack.auth, **CODEX_HEADERS}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=30) as client:
        reply = await client.post("/v1/responses", json=body)
    assert reply.status_code == 200, reply.text
    frames = [frame.split("\n") for frame in reply.text.split("\n\n") if frame]
    events: list[Json] = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name for name, _ in frames] == [f"event: {event['type']}" for event in events]
    return events


async def test_codex_gets_claudes_thoughts_sealed_and_claude_gets_them_back_signed(
    stack: RunningStack,
) -> None:
    events = await codex(stack, codex_body("claude", script(do="raw", raw=claude_stream())))
    assert events[-1]["type"] == "response.completed"
    reasoning, message, called = items = events[-1]["response"]["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Let me see."}]
    assert (message["content"][0]["text"], called["name"]) == ("I look.", "exec_command")
    assert called["arguments"] == '{"cmd": "ls"}'
    done = {"type": "function_call_output", "call_id": "toolu_1", "output": "files"}
    again = await codex(stack, codex_body("claude", "go on", *items, done))
    assert again[-1]["type"] == "response.completed"
    assistant = next(one for one in (await sent_body(stack))["messages"] if one["role"] == "assistant")
    assert assistant["content"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "U0lHTkVE"},
        {"type": "redacted_thinking", "data": "UkVEQUNU"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "exec_command", "input": {"cmd": "ls"}},
    ]


async def test_claudes_thoughts_in_a_whole_answer_come_back_signed_too(stack: RunningStack) -> None:
    blocks = [
        {"type": "thinking", "thinking": "Let me see.", "signature": "U0lHTkVE"},
        {"type": "text", "text": "I look."},
    ]
    usage = {"input_tokens": 9, "output_tokens": 20}
    message: Json = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": blocks,
    }
    raw = json.dumps({**message, "stop_reason": "end_turn", "usage": usage})
    answer = await stack.openai.responses.create(model="claude", input=script(do="raw", raw=[raw]))
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    items: Any = [item.model_dump(mode="json", exclude_none=True) for item in answer.output]
    said: Any = {"role": "user", "content": "and?"}
    await stack.openai.responses.create(model="claude", input=[*items, said])
    assert (await sent_body(stack))["messages"][0] == {"role": "assistant", "content": blocks}


async def test_geminis_signed_call_goes_back_signed(stack: RunningStack) -> None:
    """Gemini 3 rejects a call of its own that comes back without its signature."""
    call = {"functionCall": {"name": "look_up", "args": {"city": "Oslo"}}, "thoughtSignature": "U0lHTkVE"}
    thought = {"text": "Let me see.", "thought": True}
    content = {"role": "model", "parts": [thought, call]}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}
    answer = {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": usage,
    }
    said = script(do="raw", raw=[f"data: {json.dumps(answer)}\n\n"])
    events = await streamed(stack, model="gemini", input=said, tools=[WEATHER])
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert [item.type for item in last.response.output] == ["reasoning", "function_call"]
    items: Any = [item.model_dump(mode="json", exclude_none=True) for item in last.response.output]
    output: Any = {"type": "function_call_output", "call_id": items[1]["call_id"], "output": "sunny"}
    await stack.openai.responses.create(model="gemini", input=[*items, output], tools=[WEATHER])
    assert "U0lHTkVE" in json.dumps(await sent_body(stack))


@pytest.mark.parametrize("model", ["p/ok", "claude", "gemini"])
async def test_the_whole_of_codexs_body_works(stack: RunningStack, model: str) -> None:
    """Its developer message, namespaces, web search, cache key and metadata, where the model has none."""
    events = await codex(stack, codex_body(model, "hello"))
    assert events[-1]["type"] == "response.completed"
    assert [tool["type"] for tool in events[-1]["response"]["tools"]] == ["function", "namespace"]
    sent = json.dumps(await sent_body(stack))
    assert "multi_agent_v1__spawn_agent" in sent
    assert "web_search" not in sent
    assert "client_metadata" not in sent


async def test_a_truncated_upstream_is_a_failed_response(stack: RunningStack) -> None:
    """Never a completed one; the number after the last event's."""
    for play in ("cut", "eof", "garbage"):
        events = await streamed(stack, model=f"p/{play}", input="hello")
        assert isinstance(events[-1], ResponseFailedEvent), play
        assert events[-1].response.error is not None
        assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_an_answer_at_its_limit_is_incomplete(stack: RunningStack) -> None:
    said = script(do="ok", finish="length")
    answer = await stack.openai.responses.create(model="p/ok", input=said, max_output_tokens=16)
    assert answer.incomplete_details is not None
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (await sent_body(stack))["max_tokens"] == 16


@pytest.mark.parametrize("streams", [False, True])
async def test_a_prompt_that_is_too_long_is_400_with_its_code(stack: RunningStack, streams: bool) -> None:  # noqa: FBT001 -- a parameter
    with pytest.raises(openai.BadRequestError) as raised:
        await stack.openai.responses.create(model="p/context", input="hello", stream=streams)
    assert raised.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "alien"}]}]}, "input[0].content[0].type"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "api_base": "http://a.example"}, "api_base"),
        ({"input": "x", "temperature": "warm"}, "temperature"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://127.0.0.1/x"}]}]},
         "input[0].content[0].image_url"),
    ],
)  # fmt: skip
async def test_a_fault_is_400_in_openais_envelope(stack: RunningStack, body: Json, param: str) -> None:
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.auth) as client:
        reply = await client.post("/responses", json={"model": "p/ok", **body})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


async def test_a_call_is_explained_and_recorded_as_what_it_is(stack: RunningStack) -> None:
    body = {"model": "p/ok", "input": "hello"}
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.auth) as client:
        explained = await client.post("/v1/explain?path=/v1/responses", json=body)
        reply = await client.post("/v1/responses", json=body)
    assert explained.json()["verdict"] == "admitted", explained.text
    assert Response.model_validate(reply.json()).status == "completed"
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["prompt_tokens"], story["completion_tokens"]) == (17, 23)


async def test_a_native_group_gets_the_body_as_it_was_sent(stack: RunningStack) -> None:
    """What no chat has a place for included; the provider's own response comes back, whole and in events."""
    items: Any = [{"type": "computer_call", "id": "cu_1"}, {"role": "user", "content": "hi"}]
    tools: Any = [{"type": "web_search"}]
    answer = await stack.openai.responses.create(model="native-gpt", input=items, tools=tools)
    sent = await sent_body(stack)
    assert (sent["input"], sent["tools"]) == (items, tools)
    assert answer.id.startswith("resp_")
    events = await streamed(stack, model="native-gpt", input=items, tools=tools)
    assert isinstance(events[-1], ResponseCompletedEvent)
    assert events[-1].response.output_text == answer.output_text


@pytest.mark.parametrize("play", ["cut", "eof", "error-in-200"])
async def test_a_native_stream_that_breaks_has_failed(stack: RunningStack, play: str) -> None:
    events = await streamed(stack, model="native-gpt", input=script(do=play))
    assert isinstance(events[-1], ResponseFailedEvent)
    assert isinstance(events[0], ResponseCreatedEvent)
    assert events[-1].response.id == events[0].response.id
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_a_native_body_passes_the_same_checks(stack: RunningStack) -> None:
    said: Any = [{"role": "user", "content": [{"type": "input_text"}]}]
    with pytest.raises(openai.BadRequestError) as raised:
        await stack.openai.responses.create(model="native-gpt", input=said)
    assert raised.value.param == "input[0].content[0].text"


async def test_hints_for_another_model_are_left_out_where_a_model_has_none(stack: RunningStack) -> None:
    """Codex sets them by the model's name, whatever stands behind it."""
    for model in ("p/ok", "claude", "gemini"):
        answer = await stack.openai.responses.create(
            model=model, input="hi", text={"verbosity": "low"}, reasoning={"effort": "high"}
        )
        assert answer.status == "completed"


async def test_tokens_are_counted_without_a_call(stack: RunningStack) -> None:
    """As many as a native provider says, else as the tokenizer has; faults as those of a response."""
    tools: Any = [WEATHER, {"type": "web_search"}]
    native = await stack.openai.responses.input_tokens.count(model="native-gpt", input="hi", tools=tools)
    assert native.input_tokens == 4321
    for model in ("p/ok", "claude"):
        counted = await stack.openai.responses.input_tokens.count(
            model=model, input="word " * 100, tools=tools
        )
        assert counted.object == "response.input_tokens"
        assert 100 <= counted.input_tokens <= 250, model
    said = "uncountable " + "word " * 50
    referred: Any = [{"type": "computer_call", "id": "cu_1"}, {"role": "user", "content": said}]
    counted = await stack.openai.responses.input_tokens.count(model="native-gpt", input=referred)
    assert 40 <= counted.input_tokens <= 100
    link: Any = [{"type": "input_image", "image_url": "http://127.0.0.1/x"}]
    faulty: list[Any] = [referred, 5, [{"role": "user", "content": link}]]
    for fault in faulty:
        with pytest.raises(openai.BadRequestError) as raised:
            await stack.openai.responses.input_tokens.count(model="p/ok", input=fault)
        assert (raised.value.param or "").startswith("input")
    assert await stack.calls() == []
