"""The body of `POST /v1/messages` and `count_tokens`: fields, content blocks, tools, a version's rules.

Invariants: a body that passes is never changed; a type of block or tool that this schema does not know passes
(newer betas: the provider judges it, a translation rejects it); a field it does not know, inside what it
knows, is rejected. Source: https://platform.claude.com/docs/en/api/messages, anthropic-python 2.14.
"""

from collections.abc import Collection, Iterator
from typing import Final

from llm_proxy.dialects.dialect import BodyLimits
from llm_proxy.dialects.messages.checks import (
    Check,
    ListOf,
    Shape,
    Tagged,
    TextOr,
    anything,
    boolean,
    check_field,
    filled,
    invalid,
    mapping,
    missing,
    number,
    one_of,
    opened,
    text,
    unknown,
    whole,
)
from llm_proxy.dialects.request.url_guard import url_error
from llm_proxy.dialects.request.validators import shown_name
from llm_proxy.json_access import Json, as_objects, is_array, is_object

VERSIONS = ("2023-06-01", "2026-10-21")
SAMPLING_DEFAULTS: dict[str, float] = {"temperature": 1, "top_p": 1}
SAMPLING: Final = ("temperature", "top_p", "top_k")
MAX_TOOLS = 1024
_TEXT_MEDIA, _PDF = "text/plain", "application/pdf"

_cache_mark = Shape({"type": one_of("ephemeral")}, {"ttl": one_of("5m", "1h")})
_MARKED: dict[str, Check] = {"cache_control": _cache_mark}
_citations_switch = Shape({}, {"enabled": boolean})
_file_source = Shape({"type": text, "file_id": filled}, {})
_url_source = Shape({"type": text, "url": filled}, {})
_image_types = one_of("image/jpeg", "image/png", "image/gif", "image/webp")
_image_source = Tagged(
    {
        "base64": Shape({"type": text, "media_type": _image_types, "data": filled}, {}),
        "url": _url_source,
        "file": _file_source,
    }
)
_text_block = Shape(
    {"type": text, "text": text},
    {**_MARKED, "citations": ListOf(Shape({"type": filled}, {}, is_open=True))},
)
_image = Shape({"type": text, "source": _image_source}, {**_MARKED, "transformations": mapping})
_document_source = Tagged(
    {
        "base64": Shape({"type": text, "media_type": one_of(_PDF), "data": filled}, {}),
        "text": Shape({"type": text, "media_type": one_of(_TEXT_MEDIA), "data": text}, {}),
        "content": Shape(
            {"type": text, "content": TextOr(ListOf(Tagged({"text": _text_block, "image": _image})))}, {}
        ),
        "url": _url_source,
        "file": _file_source,
    }
)
_document = Shape(
    {"type": text, "source": _document_source},
    {**_MARKED, "citations": _citations_switch, "context": text, "title": text},
)
_search_result = Shape(
    {"type": text, "source": text, "title": text, "content": ListOf(_text_block)},
    {**_MARKED, "citations": _citations_switch},
)
_tool_reference = Shape({"type": text, "tool_name": filled}, _MARKED)
_in_tool_result = Tagged(
    {
        "text": _text_block,
        "image": _image,
        "document": _document,
        "search_result": _search_result,
        "tool_reference": _tool_reference,
    },
    is_open=True,
)
_OF_TOOL: dict[str, Check] = {**_MARKED, "caller": mapping, "toolset_name": text}
_block = Tagged(
    {
        "text": _text_block,
        "image": _image,
        "document": _document,
        "search_result": _search_result,
        "thinking": Shape({"type": text, "thinking": text}, {"signature": text}),
        "redacted_thinking": Shape({"type": text, "data": filled}, {}),
        "tool_use": Shape({"type": text, "id": filled, "name": filled, "input": mapping}, _OF_TOOL),
        "tool_result": Shape(
            {"type": text, "tool_use_id": filled},
            {
                **_MARKED,
                "content": TextOr(ListOf(_in_tool_result)),
                "is_error": boolean,
                "toolset_name": text,
            },
        ),
        "server_tool_use": Shape({"type": text, "id": filled, "name": filled, "input": mapping}, _OF_TOOL),
    },
    is_open=True,
)
_message = Shape(
    {"role": one_of("user", "assistant", "system"), "content": TextOr(ListOf(_block))}, {}, is_open=False
)
_tool = Tagged(
    {
        "custom": Shape(
            {"name": filled, "input_schema": mapping},
            {
                **_MARKED,
                "type": text,
                "description": text,
                "strict": boolean,
                "defer_loading": boolean,
                "eager_input_streaming": boolean,
                "input_examples": ListOf(mapping),
                "allowed_callers": ListOf(text),
            },
        )
    },
    default="custom",
    is_open=True,
)
_no_parallel: dict[str, Check] = {"disable_parallel_tool_use": boolean}
_tool_choice = Tagged(
    {
        "auto": Shape({"type": text}, _no_parallel),
        "any": Shape({"type": text}, _no_parallel),
        "tool": Shape({"type": text, "name": filled}, _no_parallel),
        "none": Shape({"type": text}, _no_parallel),
    }
)
_display: dict[str, Check] = {"display": one_of("summarized", "omitted")}
_thinking = Tagged(
    {
        "enabled": Shape({"type": text, "budget_tokens": whole(1024)}, _display),
        "adaptive": Shape({"type": text}, _display),
        "disabled": Shape({"type": text}, {}),
        "between_tools": Shape({"type": text}, {}),
    }
)
_json_format = Tagged({"json_schema": Shape({"type": text, "schema": mapping}, {"name": text})})
_output_config = Shape(
    {},
    {
        "effort": one_of("low", "medium", "high", "xhigh", "max"),
        "format": _json_format,
        "task_budget": mapping,
    },
)
_mcp_server = Shape(
    {"type": one_of("url"), "url": filled, "name": filled},
    {"authorization_token": text, "tool_configuration": mapping},
)

_COUNTED: dict[str, Check] = {
    "cache_control": _cache_mark,
    "context_management": mapping,
    "mcp_servers": ListOf(_mcp_server),
    "messages": anything,
    "model": filled,
    "output_config": _output_config,
    "output_format": _json_format,
    "speed": one_of("standard", "fast"),
    "system": TextOr(ListOf(Tagged({"text": _text_block}))),
    "thinking": _thinking,
    "tool_choice": _tool_choice,
    "tools": ListOf(_tool, MAX_TOOLS),
}
FIELDS: dict[str, Check] = {
    **_COUNTED,
    "container": TextOr(mapping),
    "diagnostics": mapping,
    "inference_geo": text,
    "max_tokens": whole(0),
    "metadata": Shape({}, {"user_id": text}),
    "service_tier": one_of("auto", "standard_only"),
    "stop_sequences": ListOf(text),
    "stream": boolean,
    "temperature": number(0, 1),
    "top_k": whole(0),
    "top_p": number(0, 1),
}
"""Every published field, but for those of `ACCOUNT_FIELDS`."""
_NATIVE_FIELDS = {name: check if name == "metadata" else opened(check) for name, check in FIELDS.items()}
"""For a provider that judges the body itself: what betas add to a block or message passes."""
_native_message = opened(_message)
ACCOUNT_FIELDS = frozenset(
    {"billing_policy", "fallback_credit_token", "fallbacks", "thread", "user_profile_id", "workspace_id"}
)
"""What is decided for an account at Anthropic, so by its operator: billing, other models, kept state."""


def check_body(
    parsed: Json, version: str, limits: BodyLimits, *, counts: bool = False, is_native: bool = False
) -> Json:
    """Checks a body; returns the fields that are given and not published, which betas may add.

    Args:
        parsed: The body; it is not changed.
        version: The `anthropic-version` whose rules hold.
        limits: The bounds of a body.
        counts: It is a body of `count_tokens`, which needs no `max_tokens`.
        is_native: The provider gets the body as it is, and judges fields that are not published.

    Raises:
        BadRequest: Naming the field at fault.
    """
    for name in ("messages",) if counts else ("max_tokens", "messages"):
        if parsed.get(name) is None:
            raise missing(name)
    extra: Json = {}
    fields, message = (_NATIVE_FIELDS, _native_message) if is_native else (FIELDS, _message)
    for name, value in parsed.items():
        if value is None:
            continue
        check = fields.get(name)
        if check is not None:
            check_field(check, value, name)
        elif name in ACCOUNT_FIELDS:
            raise unknown(name)
        else:
            extra[name] = value
    messages = ListOf(message, limits.max_messages, empty="at least one message is required")
    check_field(messages, parsed["messages"], "messages")
    if version != VERSIONS[0]:
        _check_new_rules(parsed)
    if not limits.private_urls:
        _check_links(parsed)
    return extra


def _check_new_rules(parsed: Json) -> None:
    """The rules of version 2026-10-21; the default of a sampling field has no effect and passes."""
    for name in SAMPLING:
        value = parsed.get(name)
        if value is not None and value != SAMPLING_DEFAULTS.get(name):
            raise unknown(name)
    for at, message in enumerate(parsed["messages"]):
        for number_, block in _blocks(message):
            path = f"messages.{at}.content.{number_}"
            if message["role"] == "assistant" and block.get("type") == "document":
                raise invalid(path, "document blocks are not permitted in assistant messages")
            if message["role"] == "user" and block.get("type") == "text" and block.get("citations"):
                raise invalid(f"{path}.citations", "citations are not permitted on text in user messages")


def _blocks(message: Json) -> Iterator[tuple[int, Json]]:
    content = message["content"]
    if is_array(content):
        yield from enumerate(content)


def _check_links(parsed: Json) -> None:
    """Rejects links into private networks, which a sidecar or provider would follow."""
    for at, message in enumerate(parsed["messages"]):
        for number_, block in _blocks(message):
            if "source" in block or is_array(block.get("content")):
                _check_block_links(block, f"messages.{at}.content.{number_}")
    for at, server in enumerate(as_objects(parsed.get("mcp_servers"))):
        _check_link(server.get("url"), f"mcp_servers.{at}.url")


def _check_block_links(block: Json, path: str) -> None:
    source = block.get("source")
    if is_object(source):
        _check_link(source.get("url"), f"{path}.source.url")
        for at, one in enumerate(as_objects(source.get("content"))):
            _check_block_links(one, f"{path}.source.content.{at}")
    if block.get("type") == "tool_result":
        for at, one in enumerate(as_objects(block.get("content"))):
            _check_block_links(one, f"{path}.content.{at}")


def _check_link(url: object, path: str) -> None:
    error = url_error(url) if isinstance(url, str) else None
    if error is not None:
        raise invalid(path, error, "invalid_url")


def check_version(version: str | None) -> str:
    """Returns the API version whose rules hold, the first when none is sent; raises `BadRequest`."""
    if version is None:
        return VERSIONS[0]
    if version not in VERSIONS:
        raise invalid("anthropic-version", f'"{shown_name(version)}" is not a valid version.')
    return version


def refuse(extra: Collection[str]) -> None:
    """Raises `BadRequest` for the first of the fields that are not published."""
    for name in extra:
        raise unknown(name)
