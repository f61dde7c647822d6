"""The usage of a chat answer, and why the answer ended, as translators need them.

Pure. Invariants: a count that is no number of tokens is 0, never an error; cached and written tokens are part
of the prompt's, reasoning tokens of the completion's, as in OpenAI's chat.
Source: https://platform.openai.com/docs/api-reference/chat/object (usage, finish_reason).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from llm_proxy.json_access import Json
from llm_proxy.token_details import read_details, token_count

_NO_PARTS: Mapping[str, int] = MappingProxyType({})
FinishKind = Literal["stop", "length", "tool_calls", "content_filter"]

_FINISH_KINDS: dict[str, FinishKind] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class ChatUsage(NamedTuple):
    """The tokens of a chat answer, and their parts; 0 where none are stated.

    Attributes:
        prompt: All tokens of the prompt, those of the cache included.
        cached: Prompt tokens read from the provider's cache.
        cache_write: Prompt tokens written to it, for any time.
        cache_write_1h: Those of them that are kept for an hour.
        reasoning: Completion tokens the model reasoned with.
        total: As stated, else prompt and completion together.
        parts: Further parts by `token_details`' names: `prompt_audio_tokens`, `completion_image_tokens`, ...
    """

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    parts: Mapping[str, int] = _NO_PARTS

    @property
    def uncached(self) -> int:
        """Prompt tokens neither read from nor written to the cache."""
        return max(self.prompt - self.cached - self.cache_write, 0)


def read_chat_usage(usage: Json) -> ChatUsage | None:
    """Returns a chat answer's usage object, read; None when it counts nothing."""
    prompt, completion = token_count(usage.get("prompt_tokens")), token_count(usage.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    prompt, completion = prompt or 0, completion or 0
    details = read_details(usage)
    return ChatUsage(
        prompt=prompt,
        completion=completion,
        total=token_count(usage.get("total_tokens")) or prompt + completion,
        cached=details.cached_tokens or 0,
        cache_write=details.cache_write_tokens or 0,
        cache_write_1h=details.others.get("cache_write_1h_tokens", 0),
        reasoning=details.reasoning_tokens or 0,
        parts=details.others,
    )


def finish_kind(finish_reason: str | None) -> FinishKind:
    """Returns OpenAI's finish reason; a reason that is unknown, or none, is `stop`."""
    return _FINISH_KINDS.get(finish_reason or "", "stop")
