"""Responses requests as chats: every kind of item, part and field; what is refused, by its path."""

from typing import Any

import pytest
from unit.dialects.responses.request_bodies import (
    CHAT_SERVER,
    CLAUDE,
    DEEPSEEK,
    OPENAI,
    SEAL,
    TEXT,
    WEATHER,
    call,
    chat_call,
    messages,
    output,
    sent,
    user,
)

from llm_proxy.dialects.translation.chat_answer import ThinkingPiece
from llm_proxy.errors import BadRequest

Json = dict[str, Any]
PARTS: list[tuple[Json, Json]] = [
    (TEXT, {"type": "text", "text": "hello"}),
    ({"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "original"},
     {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "high"}}),
    ({"type": "input_image", "image_url": "https://a.example/b.png"},
     {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}),
    ({"type": "input_file", "file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"},
     {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}}),
    ({"type": "input_file", "file_url": "https://a.example/b.pdf"},
     {"type": "file", "file": {"file_id": "https://a.example/b.pdf"}}),
    ({"type": "input_file", "file_id": "file-1"}, {"type": "file", "file": {"file_id": "file-1"}}),
    ({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
     {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}),
    ({"type": "output_text", "text": "quoted", "annotations": []}, {"type": "text", "text": "quoted"}),
]  # fmt: skip


@pytest.mark.parametrize(("part", "chat_part"), PARTS)
def test_each_part_of_a_users_message_is_carried(part: Json, chat_part: Json) -> None:
    found = messages(user({"type": "input_text", "text": "see"}, part))
    assert found == [{"role": "user", "content": [{"type": "text", "text": "see"}, chat_part]}]


def test_a_text_alone_is_a_plain_message() -> None:
    assert sent(input="hi").body["messages"] == [{"role": "user", "content": "hi"}]
    assert messages({"role": "user", "content": "hi"}) == [{"role": "user", "content": "hi"}]
    assert messages(user(TEXT)) == [{"role": "user", "content": "hello"}]


def test_a_users_messages_in_a_row_are_one() -> None:
    """Templates of many models want the user and the assistant to take turns."""
    image = {"type": "input_image", "image_url": "https://a.example/b.png"}
    found = messages(user(TEXT), user(image), {"role": "user", "content": "now"})
    assert [part["type"] for part in found[0]["content"]] == ["text", "image_url", "text"]
    assert len(found) == 1


def test_instructions_at_the_start_are_one_system_message() -> None:
    """Templates of many models know no second one, nor a later one."""
    developer = {"role": "developer", "content": [TEXT, TEXT]}
    late = {"role": "developer", "content": "late"}
    found = messages(developer, {"role": "system", "content": "b"}, user(TEXT), late, instructions="a")
    first = {"role": "system", "content": "a\n\nhello\n\nhello\n\nb"}
    said = {"type": "text", "text": "hello"}
    marked = {"type": "text", "text": "<system-reminder>\nlate\n</system-reminder>"}
    assert found == [first, {"role": "user", "content": [said, marked]}]
    to_claude = messages(developer, user(TEXT), late, carried=CLAUDE)
    assert to_claude[2] == {"role": "developer", "content": "late"}


def test_an_assistants_message_keeps_its_texts_and_its_refusal_where_there_is_a_place() -> None:
    said: Json = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "a", "annotations": []},
            {"type": "refusal", "refusal": "no"},
        ],
    }
    assert messages(user(TEXT), said)[1] == {"role": "assistant", "content": "ano"}
    assert messages(user(TEXT), said, carried=OPENAI)[1] == {
        "role": "assistant",
        "content": "a",
        "refusal": "no",
    }


def test_parallel_calls_are_one_message_with_their_outputs_after_it() -> None:
    found = messages(user(TEXT), call("a"), call("b"), output("b", "rain"), output("a"), user(TEXT))
    assert found[1:] == [
        {"role": "assistant", "content": None, "tool_calls": [chat_call("a"), chat_call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": "rain"},
        {"role": "user", "content": "hello"},
    ]


def test_what_comes_between_a_call_and_its_output_follows_the_output() -> None:
    """A chat's tool calls are answered at once; a user may have spoken while a tool ran."""
    between: Json = {"role": "user", "content": "hurry"}
    found = messages(call("a"), call("b"), output("a"), between, call("c"), output("c"), output("b"))
    assert [one["role"] for one in found] == ["assistant", "tool", "tool", "user", "assistant", "tool"]
    assert found[3]["content"] == "hurry"
    assert found[4]["tool_calls"] == [chat_call("c")]


def test_calls_that_share_an_id_have_an_output_each() -> None:
    """Some servers count the calls of each answer from 0."""
    found = messages(call("a"), output("a", "1"), call("a"), call("a"), output("a", "2"), output("a", "3"))
    assert [one["content"] for one in found if one["role"] == "tool"] == ["1", "2", "3"]


def test_a_long_tangle_of_calls_is_read_in_one_go() -> None:
    """Neither deep nor slow: each call waits for an output that stands after all others."""
    count = 1300
    calls = [item for at in range(count) for item in (call(f"a{at}"), user(TEXT))]
    found = messages(*calls, *(output(f"a{at}") for at in reversed(range(count))))
    assert [one["role"] for one in found] == ["assistant", "tool", "user"] * count


def test_text_and_calls_of_one_turn_are_one_message() -> None:
    said = {"role": "assistant", "content": "Let me look."}
    found = messages(
        said,
        call("a"),
        output("a"),
        {"role": "assistant", "content": "x"},
        {"role": "assistant", "content": "y"},
    )
    assert found[0] == {"role": "assistant", "content": "Let me look.", "tool_calls": [chat_call("a")]}
    assert [one["content"] for one in found[2:]] == ["x", "y"]


def test_images_of_an_output_stay_inside_where_they_may_and_follow_it_elsewhere() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    items = (call("a"), output("a", [TEXT, image]))
    assert [part["type"] for part in messages(*items, carried=CLAUDE)[1]["content"]] == ["text", "image_url"]
    tool, attached = messages(*items)[1:]
    assert tool == {"role": "tool", "tool_call_id": "a", "content": "hello"}
    assert [part["type"] for part in attached["content"]] == ["text", "image_url"]


@pytest.mark.parametrize(
    ("items", "path", "reason"),
    [
        ([output("zzz")], "input[0].call_id", "no tool call found"),
        ([output("a"), call("a"), output("a")], "input[0].call_id", "no tool call found"),
        ([call("a"), output("a"), output("a")], "input[2].call_id", "no tool call found"),
        ([call("a"), user(TEXT)], "input", "no tool output found for the call a"),
    ],
)
def test_a_call_and_its_output_need_each_other(items: list[Json], path: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as raised:
        messages(*items)
    assert raised.value.param == path


def test_fields_have_their_places_in_a_chat() -> None:
    body = sent(
        max_output_tokens=20,
        reasoning={"effort": "high", "summary": "auto"},
        temperature=0.5,
        top_p=0.9,
        top_logprobs=2,
        user="u",
        metadata={"a": "b"},
        service_tier="flex",
        stream=True,
        text={
            "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            "verbosity": "low",
        },
        parallel_tool_calls=False,
        tools=[WEATHER],
        client_metadata={"x": "y"},
        include=["reasoning.encrypted_content"],
        store=True,
        truncation="auto",
        max_tool_calls=3,
        top_k=5,
    ).body
    del body["messages"], body["tools"]
    assert body == {
        "model": "m",
        "max_tokens": 20,
        "reasoning_effort": "high",
        "verbosity": "low",
        "temperature": 0.5,
        "top_p": 0.9,
        "logprobs": True,
        "top_logprobs": 2,
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "stream": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        "parallel_tool_calls": False,
        "top_k": 5,
    }


def test_hints_that_only_openai_has_go_there_alone() -> None:
    hints: Json = {"prompt_cache_key": "k", "safety_identifier": "s", "prompt_cache_retention": "24h"}
    assert sent(**hints).body.keys() == {"model", "messages"}
    body = sent(OPENAI, **hints).body
    assert body == {"model": "m", "messages": body["messages"], **hints}


def test_the_default_tier_is_what_other_providers_have_anyway() -> None:
    assert "service_tier" not in sent(service_tier="default").body
    assert sent(OPENAI, service_tier="default").body["service_tier"] == "default"
    assert sent(service_tier="flex").body["service_tier"] == "flex"


def test_calls_without_tools_carry_no_options_of_tools() -> None:
    """As Codex asks for a summary of a long conversation."""
    assert sent(tools=[], parallel_tool_calls=True, tool_choice="auto").body.keys() == {"model", "messages"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("background", True),
        ("conversation", "conv_1"),
        ("prompt", {"id": "pmpt_1"}),
        ("context_management", [{"type": "compaction"}]),
        ("moderation", {"model": "m"}),
        ("messages", []),
        ("n", 2),
        ("response_format", {"type": "text"}),
    ],
)
def test_what_a_chat_has_no_place_for_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as raised:
        sent(**{field: value})
    assert raised.value.param == field
    assert field in raised.value.message


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input[1].id"),
        ({"id": "msg_1"}, "input[1].id"),
        ({"type": "compaction", "encrypted_content": "x"}, "input[1].type"),
        ({"type": "compaction_trigger"}, "input[1].type"),
        ({"type": "image_generation_call", "id": "i", "result": None}, "input[1].type"),
        ({"type": "alien"}, "input[1].type"),
        (user({"type": "input_image", "file_id": "file-1"}), "input[1].content[0].file_id"),
        (user({"type": "alien"}), "input[1].content[0].type"),
        (
            {"role": "assistant", "content": [{"type": "input_image", "image_url": "x"}]},
            "input[1].content[0].type",
        ),
    ],
)
def test_an_item_that_a_chat_has_no_place_for_is_refused_by_its_path(item: Json, path: str) -> None:
    with pytest.raises(BadRequest) as raised:
        messages(user(TEXT), item)
    assert raised.value.param == path


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        ({"input": 5}, "input", "invalid_type"),
        ({"input": ["x"]}, "input[0]", "invalid_type"),
        ({"input": []}, "input", "empty_array"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": [{"role": "alien", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"type": 5}]}, "input[0].type", "invalid_type"),
        ({"input": [user({"text": "x"})]}, "input[0].content[0].type", "missing_required_parameter"),
        ({"input": [user({"type": "input_text"})]}, "input[0].content[0].text", "missing_required_parameter"),
        ({"input": [user({"type": "input_image"})]}, "input[0].content[0].image_url",
         "missing_required_parameter"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "n"}]}, "input[0].arguments",
         "missing_required_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name", "invalid_value"),
        ({"tools": [{"name": "n"}]}, "tools[0].type", "missing_required_parameter"),
        ({"tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice.mode",
         "missing_required_parameter"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema",
         "missing_required_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"metadata": {"a": 5}}, "metadata.a", "invalid_type"),
        ({"truncation": "x"}, "truncation", "invalid_value"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort", "invalid_type"),
    ],
)  # fmt: skip
def test_a_fault_is_named_by_its_path(body: Json, path: str, code: str) -> None:
    with pytest.raises(BadRequest) as raised:
        sent(**body)
    assert (raised.value.param, raised.value.code) == (path, code)


def sealed(*pieces: ThinkingPiece, is_signed: bool) -> Json:
    return {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "encrypted_content": SEAL.seal(pieces, is_signed=is_signed),
    }


def test_of_several_faults_the_first_in_the_order_of_the_documentation_is_named() -> None:
    """In whatever order a body has its fields."""
    with pytest.raises(BadRequest) as failed:
        sent(user="u", top_p="much", temperature="hot", max_output_tokens=0)
    assert failed.value.param == "max_output_tokens"


def test_signed_reasoning_goes_back_to_claude_with_its_signatures() -> None:
    thought = sealed(ThinkingPiece("so", "sig"), ThinkingPiece(redacted="data"), is_signed=True)
    found = messages(user(TEXT), thought, call("a"), output("a"), carried=CLAUDE)
    assert found[1]["thinking_blocks"] == [
        {"type": "thinking", "thinking": "so", "signature": "sig"},
        {"type": "redacted_thinking", "data": "data"},
    ]
    assert found[1]["tool_calls"] == [chat_call("a")]


def test_reasoning_goes_back_as_text_where_a_provider_takes_it() -> None:
    thought = sealed(ThinkingPiece("so"), is_signed=False)
    assert messages(thought, call("a"), output("a"), carried=DEEPSEEK)[0]["reasoning_content"] == "so"
    for carried in (CHAT_SERVER, CLAUDE, OPENAI):
        assert messages(thought, call("a"), output("a"), carried=carried)[0].keys() == {
            "role",
            "content",
            "tool_calls",
        }


@pytest.mark.parametrize("content", ["gAAAAA", "k1.AAAA", "", None])
def test_what_others_sealed_is_left_out(content: str | None) -> None:
    thought: Json = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": content}
    assert messages(user(TEXT), thought, carried=CLAUDE) == [{"role": "user", "content": "hello"}]


def test_plain_reasoning_text_is_carried() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]}
    found = messages(thought, {"role": "assistant", "content": "x"}, carried=DEEPSEEK)
    assert found == [{"role": "assistant", "content": "x", "reasoning_content": "so"}]


def test_additional_tools_are_offered() -> None:
    more: Json = {"type": "additional_tools", "role": "developer", "tools": [WEATHER]}
    assert len(sent(input=[user(TEXT), more, more]).body["tools"]) == 1


def test_explicit_cache_marks_reach_providers_that_have_them() -> None:
    part = TEXT | {"prompt_cache_breakpoint": {"mode": "explicit"}}
    assert messages(user(part), carried=CLAUDE)[0]["content"] == [
        {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}
    ]
    assert messages(user(part)) == [{"role": "user", "content": "hello"}]
