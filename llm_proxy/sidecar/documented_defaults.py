"""The documented defaults of OpenAI's chat, completions and embeddings: values that ask for nothing.

Invariants: pure; a value is a default only with its JSON type (`false` is not 0). Leaving out a `NEUTRAL`
value changes no answer of any provider; without a `SAMPLING` value the provider's own default holds.
Source: https://platform.openai.com/docs/api-reference (chat, completions, embeddings).
"""

from collections.abc import Mapping

NEUTRAL: Mapping[str, object] = {
    "best_of": 1,
    "echo": False,
    "encoding_format": "float",
    "frequency_penalty": 0,
    "function_call": "auto",
    "logit_bias": {},
    "logprobs": False,
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "service_tier": "auto",
    "stop": [],
    "store": False,
    "suffix": "",
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
}
SAMPLING: Mapping[str, object] = {
    "reasoning_effort": "medium",
    "temperature": 1,
    "top_p": 1,
    "verbosity": "medium",
}
OF_COMPLETIONS = frozenset({"best_of", "echo", "suffix"})
"""Fields that only a completions endpoint has."""
WITHOUT = {"tool_choice": "tools", "function_call": "functions"}
"""Fields whose `none` is the default where the field they choose from is absent."""


def neutral(fields: Mapping[str, object]) -> list[str]:
    """The names of the fields that may be left out anywhere."""
    return [
        name for name in fields if _is_default(NEUTRAL, name, fields) or _chooses_from_nothing(name, fields)
    ]


def sampling(fields: Mapping[str, object]) -> list[str]:
    """The names of the fields that ask for OpenAI's default, which another provider may not share."""
    return [name for name in fields if _is_default(SAMPLING, name, fields)]


def _is_default(table: Mapping[str, object], name: str, fields: Mapping[str, object]) -> bool:
    value, default = fields[name], table.get(name)
    return default is not None and value == default and isinstance(value, bool) == isinstance(default, bool)


def _chooses_from_nothing(name: str, fields: Mapping[str, object]) -> bool:
    return fields[name] == "none" and name in WITHOUT and not fields.get(WITHOUT[name])
