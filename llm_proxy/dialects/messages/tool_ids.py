"""Ids of tool calls: a provider's in Anthropic's form for the caller, and back when the caller sends them.

Pure. Invariants: an id of Anthropic's own passes unchanged both ways; any other comes back exactly as its
provider made it, also one that holds what Anthropic's form forbids (Gemini's, with a signature of a thought).
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

_PLAIN, _ENCODED = "toolu_p_", "toolu_x_"
_ANTHROPIC = "toolu_"
_VALID = re.compile(r"[A-Za-z0-9_-]+")


def shown_tool_id(provider_id: str) -> str:
    """Returns the id for the caller."""
    if provider_id.startswith(_ANTHROPIC) and _VALID.fullmatch(provider_id):
        return provider_id
    if _VALID.fullmatch(provider_id):
        return _PLAIN + provider_id
    return _ENCODED + urlsafe_b64encode(provider_id.encode()).decode().rstrip("=")


def sent_tool_id(shown_id: str) -> str:
    """Returns the id for the provider; one that was not made here unchanged."""
    if shown_id.startswith(_PLAIN):
        return shown_id.removeprefix(_PLAIN) or shown_id
    if not shown_id.startswith(_ENCODED):
        return shown_id
    encoded = shown_id.removeprefix(_ENCODED)
    try:
        return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode() or shown_id
    except ValueError:
        return shown_id
