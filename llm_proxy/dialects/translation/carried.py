"""What chat completions carry of another API's request, by a model's providers, and what they cannot.

Pure. Invariants: what is not carried is rejected with its path, or named in the docs of its dialect;
providers that are not known count as servers of OpenAI's protocol. Source: LiteLLM 1.108.6, as run.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from llm_proxy.dialects.dialect import ModelIndex
from llm_proxy.dialects.request.kept_at_google import GOOGLE
from llm_proxy.dialects.request.model_resolution import reached_providers
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json

OPENAI = frozenset({"openai", "azure", "azure_text", "text-completion-openai"})
_CACHE_MARKS = frozenset({"anthropic", "bedrock", "bedrock_converse", "databricks", "openrouter"})
_THINKING_BLOCKS = frozenset({"anthropic", "bedrock", "bedrock_converse"})
_REASONING_TEXT = frozenset(
    {"deepseek", "hosted_vllm", "moonshot", "ollama_chat", "gemini", "vertex_ai", "zai"}
)
_TOOL_IMAGES = frozenset({"anthropic", "bedrock", "bedrock_converse", "gemini", "vertex_ai"})


_MAX_KEPT = 256
"""Of sets of providers."""
NOT_FOR_OPENAI = ("thinking_blocks", "cache_control")
"""What our sidecar leaves out of messages to servers of OpenAI's protocol, where a call says it may."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What every provider of a group carries over chat completions.

    Attributes:
        cache_marks: `cache_control` on parts, messages and tools; also where only some of them read it.
        thinking_blocks: Earlier reasoning with its signature, as `thinking_blocks` of an assistant's message;
            also where only some of them read it.
        continues: The beginning of an answer, which the model goes on from.
        reasoning_text: Earlier reasoning as text, in `reasoning_content`.
        tool_images: Images and files inside a tool's output.
        thinking_field: Anthropic's `thinking` as a field of the body.
        openai: OpenAI's own service, or one that may be it.
        thought_signatures: Gemini's signatures, in the ids of calls; also where only some of them read it.
        safety_settings: Gemini's thresholds, as a field of the body.
    """

    cache_marks: bool = False
    thinking_blocks: bool = False
    continues: bool = False
    reasoning_text: bool = False
    tool_images: bool = False
    thinking_field: bool = False
    openai: bool = False
    thought_signatures: bool = False
    safety_settings: bool = False


def carried_by(providers: Collection[str]) -> Carried:
    """Returns what all of these providers carry."""
    names = frozenset(providers)
    if not names:
        return Carried()
    return Carried(
        cache_marks=not names.isdisjoint(_CACHE_MARKS),
        thinking_blocks=not names.isdisjoint(_THINKING_BLOCKS),
        continues=names <= _THINKING_BLOCKS,
        reasoning_text=names <= _REASONING_TEXT,
        tool_images=names <= _TOOL_IMAGES,
        thinking_field=names <= _THINKING_BLOCKS,
        openai=not names.isdisjoint(OPENAI),
        thought_signatures=not names.isdisjoint(GOOGLE),
        safety_settings=names <= GOOGLE,
    )


def carried_for(group: str, models: ModelIndex) -> Carried:
    """Returns what every provider carries that a call of a group may reach, through its fallbacks too."""
    return _carried(reached_providers(group, models))


_carried = lru_cache(_MAX_KEPT)(carried_by)


def carried_reasoning(thoughts: Collection[Json], carried: Carried) -> Json:
    """Returns the fields of an assistant's message for what was thought, for providers that read it.

    Args:
        thoughts: Claude's blocks: `thinking` with its signature, or none; `redacted_thinking`.
        carried: What the providers carry: signed blocks, or the text.
    """
    if carried.thinking_blocks:
        signed = [one for one in thoughts if one["type"] != "thinking" or one.get("signature")]
        if signed or carried.continues:
            return {"thinking_blocks": signed} if signed else {}
    if not carried.reasoning_text:
        return {}
    text = "".join(one.get("thinking", "") for one in thoughts)
    return {"reasoning_content": text} if text else {}


def not_carried(path: str, what: str) -> BadRequest:
    """The error of a part of a request that chat completions have no place for.

    Args:
        path: The field at fault, as its API spells paths.
        what: What it is, as the subject of a sentence: "The server tool 'web_search'".
    """
    return BadRequest(
        f"'{path}': {what} cannot be sent to this model, because it is reached by chat completions. "
        "Leave it out, or use a model whose provider speaks this API.",
        param=path,
        code="unsupported_parameter",
    )
