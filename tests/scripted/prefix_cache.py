"""A provider that bills cached prefixes: each model remembers the prompts that it was sent.

A model named `...--prefix` plays it. Of a prompt of n messages each counts 100 tokens; the messages of the
longest prompt sent before to the same model that this one begins with are cached.
"""

import json
from dataclasses import dataclass, field, replace

from scripted.script import Json, Script

TOKENS = 100


@dataclass(slots=True)
class PrefixCache:
    """The prompts of each model, as text of their messages."""

    prompts: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def bill(self, script: Script, model: str, body: Json) -> Script:
        """The script with the tokens of this prompt; the prompt is cached from now on."""
        if script.do != "prefix":
            return script
        messages: list[Json] = body["messages"]
        texts = [json.dumps(messages[: at + 1], sort_keys=True) for at in range(len(messages))]
        cached = max((at + 1 for at, text in enumerate(texts) if (model, text) in self.prompts), default=0)
        self.prompts.update((model, text) for text in texts)
        return replace(script, do="ok", prompt_tokens=TOKENS * len(messages), cached_tokens=TOKENS * cached)
