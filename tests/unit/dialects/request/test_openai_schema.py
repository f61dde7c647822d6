"""Invalid fields: the error names the field, its code and its value."""

from typing import Any

import orjson
import pytest
from unit.dialects.parsing import HELLO, error_of

from llm_proxy.endpoints import Endpoint

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": ...}, "messages", "missing_required_parameter"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": "x"}, "messages", "invalid_type"),
    ({"messages": HELLO * 51}, "messages", "array_above_max_length"),
    ({"messages": [1]}, "messages[0]", "invalid_type"),
    ({"messages": [*HELLO, {"content": "x"}]}, "messages[1].role", "missing_required_parameter"),
    ({"messages": [*HELLO, {"role": "boss", "content": "x"}]}, "messages[1].role", "invalid_value"),
    ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty_array"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "invalid_type"),
    (
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        "messages[0].content[0].type",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "messages[0].content[0].image_url",
        "invalid_type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].image_url.url",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "messages[0].content[0].input_audio",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]},
        "messages[0].content[0].type",
        "invalid_value",
    ),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
    ({"tools": [{"type": "custom"}]}, "tools[0].custom", "missing_required_parameter"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function", "missing_required_parameter"),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    (
        {"web_search_options": {"search_context_size": 5}},
        "web_search_options.search_context_size",
        "invalid_type",
    ),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "missing_required_parameter"),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": {}}]},
        "messages[0].content",
        "missing_required_parameter",
    ),
    ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "messages[0].tool_calls[0]", "invalid_type"),
    (
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}],
                }
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
        "missing_required_parameter",
    ),
    ({"model": ...}, "model", "missing_required_parameter"),
    ({"model": 5}, "model", "invalid_type"),
    ({"model": ""}, "model", "empty_string"),
    ({"model": "x" * 300}, "model", "string_above_max_length"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": 3}, "temperature", "decimal_above_max_value"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 1.5}, "n", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 10**20}, "max_tokens", "integer_above_max_value"),
    ({"seed": 2**70}, "seed", "integer_above_max_value"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ["x", 5]}, "stop[1]", "invalid_type"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"tools": {}}, "tools", "invalid_type"),
    ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type", "missing_required_parameter"),
    (
        {"tools": [{"type": "function", "function": {}}]},
        "tools[0].function.name",
        "missing_required_parameter",
    ),
    ({"tool_choice": 5}, "tool_choice", "invalid_type"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1", "invalid_type"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "object_above_max_properties"),
    ({"metadata": {"agent_id": ""}}, "metadata.agent_id", "invalid_value"),
    ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
    ({"user": 5}, "user", "invalid_type"),
]


@pytest.mark.parametrize(("body", "param", "code"), WRONG)
def test_an_invalid_field_is_named(body: dict[str, Any], param: str, code: str) -> None:
    """400 with the path and a code, before anything is forwarded."""
    wrong = error_of(**body)
    assert (wrong.param, wrong.code, wrong.status) == (param, code, 400)


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("10000000000000000000000000000001", None),
        ("-10000000000000000000000000000001", None),
        ("18446744073709551617", None),
        ("18446744073709551615", "18446744073709551615"),
        ("9007199254740993", "9007199254740993"),
        ("0", "0"),
        ("-4.0", "-4"),
    ],
)
def test_a_number_is_quoted_as_it_was_sent_or_not_at_all(value: str, quoted: str | None) -> None:
    """JSON's parser rounds an integer of more than 64 bits: its digits would be others."""
    message = error_of(max_tokens=orjson.loads(value)).message
    assert message.endswith(f" but got {quoted} instead.") if quoted else "got" not in message, message


OTHERS: list[tuple[Endpoint, dict[str, Any], str]] = [
    ("completions", {"prompt": ...}, "prompt"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": ["x", 1]}, "prompt[1]"),
    ("completions", {"prompt": [[1], ["x"]]}, "prompt[1][0]"),
    ("completions", {"prompt": [1, -1]}, "prompt[1]"),
    ("completions", {"prompt": [[]]}, "prompt[0]"),
    ("completions", {"prompt": [1, "x"]}, "prompt[1]"),
    ("completions", {"prompt": [None]}, "prompt[0]"),
    ("completions", {"logprobs": 6}, "logprobs"),
    ("embeddings", {"input": ...}, "input"),
    ("embeddings", {"input": ""}, "input"),
    ("embeddings", {"input": ["x", ""]}, "input[1]"),
    ("embeddings", {"input": ["x"] * 2049}, "input"),
    ("embeddings", {"input": {"a": 1}}, "input"),
    ("embeddings", {"dimensions": 0}, "dimensions"),
    ("embeddings", {"encoding_format": "hex"}, "encoding_format"),
    ("embeddings", {"model": ...}, "model"),
    ("embeddings", {"stream": True}, "stream"),
]


@pytest.mark.parametrize(("endpoint", "body", "param"), OTHERS)
def test_other_endpoints_name_their_fields_too(endpoint: Endpoint, body: dict[str, Any], param: str) -> None:
    """Completions and embeddings have schemas of their own."""
    assert error_of(endpoint, **body).param == param
