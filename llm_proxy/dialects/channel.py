"""Which way a name that is the model's own takes through LiteLLM: inside `extra_body`, or at top level.

Seen with LiteLLM 1.108.6: OpenAI-compatible providers get what is in `extra_body` merged into their body;
Anthropic gets an object of that name, which its API refuses; Gemini and Ollama get it merged at the root,
where their sampling parameters do not belong. Invariant: a name reaches top level only after the body rule
has refused all that LiteLLM reads for itself; what is in `OPENAIS` or `INSIDE` never does.
"""

from collections.abc import Collection

from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json

_ALL_AT_TOP = frozenset({"anthropic", "bedrock", "bedrock_converse", "ollama", "ollama_chat"})
_SOME_AT_TOP = frozenset({"gemini", "vertex_ai", "vertex_ai_beta"})
_GEMINIS = frozenset(
    {
        "cached_content",
        "media_resolution",
        "response_modalities",
        "safety_settings",
        "thinking",
        "top_k",
        "topK",
    }
)
"""Names LiteLLM puts where Gemini looks for them; the others are only whole at the root of the body."""

OPENAIS = frozenset({"metadata", "prompt_cache_retention"})
"""Published fields LiteLLM keeps for itself or drops: inside `extra_body` they reach those who know them."""

INSIDE = frozenset({"plugins", "priority", "session_id"})
"""Fields of OpenRouter, vLLM and SGLang that LiteLLM would read at top level: in `extra_body` alone."""

_LONGEST = (
    "max_output_tokens",
    "max_new_tokens",
    "max_tokens_to_sample",
    "maxOutputTokens",
    "num_predict",
    "n_predict",
)
_HOLDERS = ("generationConfig", "generation_config", "options")
UNBOUNDED = 2**31


def place(extra: Json, providers: Collection[str]) -> Json:
    """The model's own fields as they travel: names at top level, then `extra_body`, each sorted.

    Raises:
        BadRequest: A field that may only travel inside `extra_body`, for a provider that has no such way.
    """
    names = sorted(extra)
    if not _ALL_AT_TOP.isdisjoint(providers):
        for name in INSIDE.intersection(names):
            raise BadRequest(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        return {name: extra[name] for name in names if name not in OPENAIS}
    if _SOME_AT_TOP.isdisjoint(providers):
        return {"extra_body": {name: extra[name] for name in names}}
    placed = {name: extra[name] for name in names if name in _GEMINIS}
    inside = {name: extra[name] for name in names if name not in _GEMINIS | OPENAIS}
    return {**placed, "extra_body": inside} if inside else placed


def longest_asked(extra: Json) -> int | None:
    """The completion tokens asked for in a provider's own words; `UNBOUNDED` for a value below zero."""
    holders = [extra, *(extra[name] for name in _HOLDERS if type(extra.get(name)) is dict)]
    asked = [
        holder[name] for holder in holders for name in _LONGEST if type(holder.get(name)) in {int, float}
    ]
    return max((int(value) if value >= 0 else UNBOUNDED for value in asked), default=None)
