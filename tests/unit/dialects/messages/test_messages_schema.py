"""The checks of a Messages body: errors name the field as Anthropic's do."""

from typing import Any

import pytest

from llm_proxy.dialects.dialect import BodyLimits
from llm_proxy.dialects.messages.schema import VERSIONS, check_body, check_version
from llm_proxy.errors import BadRequest

OLD, NEW = VERSIONS
LIMITS = BodyLimits(max_messages=5)
HELLO = {"role": "user", "content": "Hello"}


def body(**fields: Any) -> dict[str, Any]:
    """A body that says hello, with these fields."""
    return {"model": "m", "max_tokens": 10, "messages": [HELLO], **fields}


def said(block: dict[str, Any], role: str = "user") -> dict[str, Any]:
    """A body with one block."""
    return body(messages=[{"role": role, "content": [block]}])


def error_of(parsed: dict[str, Any], version: str = OLD) -> str:
    """The message of a body's error."""
    with pytest.raises(BadRequest) as caught:
        check_body(parsed, version, LIMITS)
    assert caught.value.message.startswith(f"{caught.value.param}: ")
    return caught.value.message


EXPECTED = "does not match any of the expected tags"
IMAGE_TYPES = "'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}


@pytest.mark.parametrize(
    ("parsed", "message"),
    [
        (body(max_tokens=None), "max_tokens: Field required"),
        (body(messages=None), "messages: Field required"),
        (body(messages=[]), "messages: at least one message is required"),
        (body(messages="x"), "messages: Input should be a valid list"),
        (body(messages=["x"]), "messages.0: Input should be a valid dictionary"),
        (body(messages=[{"role": "user"}]), "messages.0.content: Field required"),
        (
            body(messages=[{"role": "tool", "content": "x"}]),
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        ),
        (body(messages=[HELLO] * 6), "messages: List should have at most 5 items after validation, not 6"),
        (body(max_tokens="10"), "max_tokens: Input should be a valid integer"),
        (body(max_tokens=True), "max_tokens: Input should be a valid integer"),
        (body(max_tokens=-1), "max_tokens: Input should be greater than or equal to 0"),
        (body(temperature=1.5), "temperature: Input should be less than or equal to 1"),
        (body(stop_sequences="x"), "stop_sequences: Input should be a valid list"),
        (body(stream="yes"), "stream: Input should be a valid boolean"),
        (
            body(system=[{"type": "image"}]),
            "system.0.type: Input tag 'image' does not match any of the expected tags: 'text'",
        ),
        (body(metadata={"user_id": "u", "tags": "x"}), "metadata.tags: Extra inputs are not permitted"),
        (body(workspace_id="w"), "workspace_id: Extra inputs are not permitted"),
        (body(fallbacks=["m"]), "fallbacks: Extra inputs are not permitted"),
        (body(tools=[{"name": "f"}]), "tools.0.input_schema: Field required"),
        (
            body(tools=[{"name": "f", "input_schema": {}, "parameters": {}}]),
            "tools.0.parameters: Extra inputs are not permitted",
        ),
        (body(tool_choice={"type": "tool"}), "tool_choice.name: Field required"),
        (body(tool_choice="auto"), "tool_choice: Input should be a valid dictionary"),
        (body(thinking={"type": "enabled"}), "thinking.budget_tokens: Field required"),
        (
            body(thinking={"type": "enabled", "budget_tokens": 100}),
            "thinking.budget_tokens: Input should be greater than or equal to 1024",
        ),
        (
            body(output_config={"effort": "big"}),
            "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
        ),
        (said({"type": "text"}), "messages.0.content.0.text: Field required"),
        (said({"text": "x"}), "messages.0.content.0.type: Field required"),
        (
            said({"type": "text", "text": "x", "index": 1}),
            "messages.0.content.0.index: Extra inputs are not permitted",
        ),
        (
            said({"type": "image", "source": {"type": "x"}}),
            f"messages.0.content.0.source.type: Input tag 'x' {EXPECTED}: 'base64', 'url', 'file'",
        ),
        (
            said({"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": "x"}}),
            f"messages.0.content.0.source.media_type: Input should be {IMAGE_TYPES}",
        ),
        (
            said({"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}),
            "messages.0.content.0.source.url: it leads into a private network",
        ),
        (
            said(
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "image", "source": {"type": "url", "url": "http://10.0.0.1/"}}],
                }
            ),
            "messages.0.content.0.content.0.source.url: it leads into a private network",
        ),
        (
            said({"type": "tool_result", "tool_use_id": "t", "content": 5}),
            "messages.0.content.0.content: Input should be a valid list",
        ),
        (
            said({"type": "tool_use", "id": "t", "name": "f", "input": "{}"}, "assistant"),
            "messages.0.content.0.input: Input should be a valid dictionary",
        ),
        (
            said({"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "2h"}}),
            "messages.0.content.0.cache_control.ttl: Input should be '5m' or '1h'",
        ),
        (
            body(mcp_servers=[{"type": "url", "name": "m", "url": "http://127.0.0.1"}]),
            "mcp_servers.0.url: it leads into a private network",
        ),
    ],
)
def test_an_error_names_the_field(parsed: dict[str, Any], message: str) -> None:
    assert error_of(parsed) == message


@pytest.mark.parametrize(
    "parsed",
    [
        body(),
        said(IMAGE),
        said(
            {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}, "title": None}
        ),
        said({"type": "document", "source": {"type": "content", "content": [IMAGE]}, "context": "c"}),
        said({"type": "thinking", "thinking": "t", "signature": ""}, "assistant"),
        said(
            {"type": "tool_use", "id": "t", "name": "f", "input": {"url": "http://localhost/"}}, "assistant"
        ),
        said({"type": "container_upload", "file_id": "f"}),
        body(tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]),
        body(tools=[{"name": "f", "input_schema": {"type": "object"}, "defer_loading": True, "type": None}]),
        body(thinking={"type": "adaptive", "display": "omitted"}, output_config={"effort": "max"}),
        body(context_management={"edits": [{"type": "clear_thinking_20251015"}]}, metadata={"user_id": "{}"}),
        body(system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]),
        body(temperature=0.5, top_p=0.9, top_k=5, stop_sequences=["x"]),
        body(messages=[HELLO, {"role": "system", "content": "s"}]),
    ],
)
def test_a_valid_body_passes(parsed: dict[str, Any]) -> None:
    assert check_body(parsed, OLD, LIMITS) == {}


def test_a_private_link_passes_where_the_operator_allows_it() -> None:
    parsed = said({"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}})
    assert check_body(parsed, OLD, BodyLimits(private_urls=True)) == {}


def test_a_field_that_is_not_published_is_returned() -> None:
    assert check_body(body(new_beta={"a": 1}, gone=None), OLD, LIMITS) == {"new_beta": {"a": 1}}


def test_a_count_needs_no_maximum() -> None:
    assert check_body({"model": "m", "messages": [HELLO]}, OLD, LIMITS, counts=True) == {}


@pytest.mark.parametrize(
    ("parsed", "message"),
    [
        (body(temperature=0.5), "temperature: Extra inputs are not permitted"),
        (body(top_p=0.5), "top_p: Extra inputs are not permitted"),
        (body(top_k=5), "top_k: Extra inputs are not permitted"),
        (
            said(
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
                "assistant",
            ),
            "messages.0.content.0: document blocks are not permitted in assistant messages",
        ),
        (
            said({"type": "text", "text": "x", "citations": [{"type": "char_location"}]}),
            "messages.0.content.0.citations: citations are not permitted on text in user messages",
        ),
    ],
)
def test_the_new_version_refuses_what_the_old_one_takes(parsed: dict[str, Any], message: str) -> None:
    assert check_body(parsed, OLD, LIMITS) == {}
    assert error_of(parsed, NEW) == message


def test_the_new_version_takes_a_default() -> None:
    assert check_body(body(temperature=1, top_p=1.0), NEW, LIMITS) == {}


def test_a_version_is_a_published_one() -> None:
    assert [check_version(one) for one in (None, OLD, NEW)] == [OLD, OLD, NEW]
    with pytest.raises(BadRequest, match='anthropic-version: "2022-01-01" is not a valid version'):
        check_version("2022-01-01")
