"""Models that a configuration names without a provider: the provider that is called for each.

Invariants: imports no LiteLLM. A name that LiteLLM places itself is left as it is. LiteLLM's list loses a
model when its maker retires it; files that name it stay, and so do endpoints that serve it.
"""

import re

from llm_proxy.json_access import Json
from llm_proxy.sidecar.known_keys import known_keys

FAMILIES = (
    (re.compile(r"claude-[^@:]+"), "anthropic"),
    (
        re.compile(r"(gpt-(?!oss)|chatgpt-|o[1-9](-|$)|text-embedding-(3|ada)|dall-e-|whisper-|tts-).*"),
        "openai",
    ),
    (re.compile(r"command-.*"), "cohere_chat"),
)
"""Names by which a maker's models are known, and the provider LiteLLM had for them."""
PLACED_BY_FORM = re.compile(
    r"\*|ft:gpt-(3\.5-turbo|4).*|gpt-image.*|amazon_nova.*|([a-z-]+\.)?anthropic\.claude-.*|.*:[0-9a-f]{64}"
)
"""Names that LiteLLM places by their form alone."""


def provider_of_family(params: Json) -> str | None:
    """Return the provider to write before a deployment's model; None if it needs none, or none is known."""
    model = str(params.get("model"))
    if is_placed(model, params):
        return None
    if model.startswith("gemini-"):
        return "gemini" if params.get("api_key") else "vertex_ai"
    return next((provider for family, provider in FAMILIES if family.fullmatch(model)), None)


def is_placed(model: str, params: Json) -> bool:
    """Whether LiteLLM finds the provider of a model: by the name, by its list, or by other parameters."""
    if "/" in model or params.get("custom_llm_provider") or params.get("litellm_credential_name"):
        return True
    address = str(params.get("api_base") or params.get("base_url") or "")
    return (
        model in known_keys("models")
        or PLACED_BY_FORM.fullmatch(model) is not None
        or any(endpoint in address for endpoint in known_keys("endpoints"))
    )
