"""Providers get the messages as the caller sent them: sentences that LiteLLM adds are removed.

Invariants: no text is added; what a provider has no field for is left out or moved as
`docs/dialects/fields.md` lists it; what is merely wrong there is for the provider to reject.
"""

from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import call_outcome
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

PROMPTS = "litellm.litellm_core_utils.prompt_templates"
ANTHROPIC = "litellm.llms.anthropic.chat.transformation"
CONVERSE = "litellm.llms.bedrock.chat.converse_transformation"
GEMINI = "litellm.llms.vertex_ai.gemini.transformation"
OPENAI_MODULES = ("litellm.llms.openai.chat.gpt_transformation", "litellm.llms.azure.chat.gpt_transformation")
OLLAMA = "litellm.llms.ollama.completion.transformation"


def install() -> None:
    """Patch LiteLLM's translations of messages; before the first call."""
    factory: Untyped = import_module(f"{PROMPTS}.factory")
    factory._sanitize_empty_text_content = without_blank_text  # noqa: SLF001 -- no setting does this
    factory._EMPTY_TEXT_PLACEHOLDER = ""  # noqa: SLF001 -- the same
    for name in OPENAI_MODULES:
        openai: Untyped = import_module(name)
        openai.hoist_images_from_tool_messages = _as_sent
    for name in (f"{PROMPTS}.mid_conversation_system", CONVERSE):
        notes: Untyped = import_module(name)
        notes.CONVERTED_SYSTEM_NOTE = ""  # a blank part, which is left out
    gemini: Untyped = import_module(GEMINI)
    gemini.transform_system_message = _with_a_user_message(gemini.transform_system_message)
    _declare_called_tools()
    ollama: Untyped = import_module(OLLAMA).OllamaConfig
    ollama.transform_request = _with_arguments(ollama.transform_request)


def without_blank_text(message: Json) -> Json:
    """Return the message without blank texts, which Anthropic rejects, unless nothing else is left."""
    content = message.get("content")
    if isinstance(content, str):
        blank = not content.strip() and message.get("role") == "assistant"
        return message | {"content": None} if blank else message
    parts = as_list(content)
    kept = [part for part in parts if not _is_blank(as_object(part))]
    if len(kept) == len(parts) or not (kept or message.get("role") == "assistant"):
        return message
    return message | {"content": kept or None}


def _is_blank(part: Json) -> bool:
    return part.get("type") == "text" and not str(part.get("text") or "").strip()


def _as_sent(messages: list[Json]) -> list[Json]:
    """Leave images in tools' messages, and leave out what the gateway sent for other protocols alone."""
    left_out = call_outcome.optional_fields()
    return [_without(one, left_out) for one in messages] if left_out else messages


def _without(message: Json, names: Collection[str]) -> Json:
    kept = {name: value for name, value in message.items() if name not in names}
    parts = as_list(kept.get("content"))
    if any(not as_object(part).keys().isdisjoint(names) for part in parts):
        kept["content"] = [
            {name: value for name, value in as_object(part).items() if name not in names} for part in parts
        ]
    return kept


def _with_arguments(transform: Callable[..., Any]) -> Callable[..., Any]:
    """Ollama's tool calls hold an object where OpenAI's hold text: an empty text becomes `{}`."""

    def transform_request(
        self: Untyped, model: str, messages: list[Json], *args: Untyped, **options: Untyped
    ) -> Untyped:
        return transform(
            self, model, [_with_empty_arguments(message) for message in messages], *args, **options
        )

    return transform_request


def _with_empty_arguments(message: Json) -> Json:
    calls = as_list(as_object(message).get("tool_calls"))
    functions = [as_object(as_object(call).get("function")) for call in calls]
    if not any(function.get("arguments") == "" for function in functions):
        return message
    filled = [
        as_object(call) | {"function": function | {"arguments": function.get("arguments") or "{}"}}
        for call, function in zip(calls, functions, strict=True)
    ]
    return message | {"tool_calls": filled}


def _with_a_user_message(transform: Callable[..., Any]) -> Callable[..., Any]:
    """Gemini rejects conversations of system messages alone: the last one becomes the user's."""

    def transform_system(*, supports_system_message: bool, messages: list[Json]) -> Untyped:
        if messages and all(message.get("role") == "system" for message in messages):
            messages = [*messages[:-1], messages[-1] | {"role": "user"}]
        return transform(supports_system_message=supports_system_message, messages=messages)

    return transform_system


def _declare_called_tools() -> None:
    """Anthropic requires tools if messages hold tool calls: declare those called, and choose none."""
    anthropic: Untyped = import_module(ANTHROPIC)
    config = anthropic.AnthropicConfig

    def transform_request(
        self: Untyped,
        model: str,
        messages: list[Json],
        optional_params: Json,
        *args: Untyped,
        **options: Untyped,
    ) -> Untyped:
        if called := _undeclared_tools(messages, optional_params):
            optional_params["tools"], _ = self._map_tools(called)
            optional_params["tool_choice"] = {"type": "none"}
        return transform(self, model, messages, optional_params, *args, **options)

    def declare_tools(messages: list[Json], optional_params: Json) -> list[Json]:
        if called := _undeclared_tools(messages, optional_params):  # Converse has no choice `none`
            optional_params["tools"] = called
        return messages

    transform = replace(config, "transform_request", transform_request)
    converse: Untyped = import_module(CONVERSE)
    converse.AmazonConverseConfig._handle_orphaned_tool_blocks = staticmethod(declare_tools)  # noqa: SLF001 -- the same


def _undeclared_tools(messages: list[Json], fields: Json) -> list[Json]:
    """Return each tool that tool calls name, in OpenAI's format; none if the call declares any."""
    calls = (as_object(call) for message in messages for call in as_list(message.get("tool_calls")))
    names = (
        ()
        if "tools" in fields
        else dict.fromkeys(as_object(call.get("function")).get("name") for call in calls)
    )
    nothing: Json = {"type": "object", "properties": {}}
    return [{"type": "function", "function": {"name": name, "parameters": nothing}} for name in names if name]


PATCH = LiteLLMPatch(
    name="messages_as_sent",
    install=install,
    reason="LiteLLM adds texts of its own, for empty ones and beside system messages and images, and a tool.",
    until="LiteLLM has a setting that adds nothing to a conversation.",
    tests=("tests/stages/dialects/test_messages_behind_litellm.py",),
)
