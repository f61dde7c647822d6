"""The `anthropic-beta` words that go to a provider: those of Anthropic's published names, and an operator's.

Invariants: a word that is not allowed is left out; those that choose another model, profile or account are
none of the published ones.
"""

import re
from collections.abc import Collection, Iterable

PUBLISHED = frozenset(
    {
        "advanced-tool-use", "advisor-tool", "claude-code", "code-execution", "compact", "computer-use",
        "context-1m", "context-management", "dev-full-thinking", "effort", "extended-cache-ttl", "fast-mode",
        "files-api", "fine-grained-tool-streaming", "inline-tools", "interleaved-thinking", "mcp-client",
        "mid-conversation-output-config", "mid-conversation-system-clear-at",
        "mid-conversation-tool-changes", "model-context-window-exceeded", "output-128k", "output-300k",
        "pdfs", "prompt-caching", "prompt-caching-scope", "redact-thinking", "skills", "structured-outputs",
        "task-budgets", "thinking-binding-controls", "thinking-display-updates", "thinking-token-count",
        "token-counting", "token-efficient-tools", "tool-examples", "tool-search-tool", "web-fetch",
        "web-search",
    }
)  # fmt: skip
"""Names without their dates: a new date of a known beta passes. Source: anthropic-python 2.14."""
EVERY = "*"
_DATE = re.compile(r"-(?:\d{8}|\d{4}-\d{2}-\d{2})\Z")


def allowed_betas(words: Iterable[str], configured: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the words that go to the provider, each once, in order.

    Args:
        words: What the caller sent.
        configured: Further words with or without their dates; `*` allows every word.
    """
    names = PUBLISHED | frozenset(configured)
    found = dict.fromkeys(word.strip() for word in words)
    return tuple(word for word in found if word and (EVERY in names or word in names or _name(word) in names))


def _name(word: str) -> str:
    return _DATE.sub("", word)
