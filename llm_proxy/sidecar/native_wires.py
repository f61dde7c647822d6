"""Native calls: which deployments speak an API themselves, and what LiteLLM sees of a request.

Invariants: OpenAI and Azure speak Responses; Anthropic, and Claude at Bedrock and Vertex, Messages; Gemini at
Google and Vertex, Google's contents; any other address, whatever its provider, only what
`model_info.supported_endpoints` states. A deployment for which LiteLLM would translate is never one of them.
LiteLLM sees no field that it would take for its own.
"""

import json
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

from llm_proxy.endpoints import ENDPOINTS, NATIVE_ENDPOINTS, Endpoint, Wire
from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.call_outcome import CallOutcome, relays_native_calls, replaces_bodies
from llm_proxy.sidecar.litellm_internals import Untyped

SUPPORTED_KEY = "supported_endpoints"
"""Key of `model_info` that lists the paths of a deployment's server: `/v1/responses`, `/v1/messages`."""
OWN_HOSTS = {
    "openai": "api.openai.com",
    "anthropic": "api.anthropic.com",
    "gemini": "generativelanguage.googleapis.com",
}
OWN_ENDPOINTS: dict[str, Endpoint] = {
    "openai": "responses",
    "anthropic": "messages",
    "gemini": "generate_content",
}
ADDRESS_VARIABLES = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "anthropic": ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
    "gemini": ("GEMINI_API_BASE",),
}
"""The variables LiteLLM reads an address from where a deployment states none."""
LITELLM_FIELDS = frozenset({"cache", "disable_fallbacks", "litellm_metadata"})
"""Fields that the gateway adds for LiteLLM, and no provider gets."""
PROVIDER_FIELDS = frozenset({"background", "client_metadata", "metadata"})
"""Fields of Responses that LiteLLM reads for itself: it does not see them."""
IN_THE_PATH = frozenset({"model", "stream"})
"""Fields of the gateway's that Google has in the path."""
FIRST_AZURE_VERSION = "2025-03-01"
"""Of Azure's API, with Responses; without a version LiteLLM asks the newest."""
HOSTS_OF_CLAUDE = frozenset({"bedrock", "vertex_ai"})


async def prepare_request(name: Endpoint, request: Untyped, outcome: CallOutcome) -> bool:
    """Keep what the provider gets of a request, and show LiteLLM the rest; return whether it streams.

    Invalid JSON is left to LiteLLM.

    With guardrails LiteLLM gets and sends the body itself: they may change it.
    """
    try:
        body = as_object(json.loads(await request.body()))
    except ValueError:
        return False
    if litellm_internals.has_guardrail():
        return body.get("stream") is True
    kept = {key: value for key, value in body.items() if key not in LITELLM_FIELDS}
    seen = body
    if name == "responses":
        seen = {key: value for key, value in body.items() if key not in PROVIDER_FIELDS}
    elif name == "generate_content":
        kept = {key: value for key, value in kept.items() if key not in IN_THE_PATH}
        seen = {key: value for key, value in body.items() if key not in kept or key == "contents"}
    outcome.native_body = json.dumps(kept).encode()
    litellm_internals.show_fields(request, seen)
    return body.get("stream") is True


def native_endpoints(params: Json, info: Json, model: str, provider: str | None) -> list[str]:
    """Return the names of the endpoints whose own protocol a deployment speaks, sorted.

    Args:
        params: Its `litellm_params`.
        info: Its `model_info`.
        model: The model's name at the provider.
        provider: The provider whose protocol is used, in LiteLLM's spelling.
    """
    cohere: list[Wire] = ["cohere_embed"] if provider == "cohere" and replaces_bodies() else []
    if not relays_native_calls():
        return sorted(cohere)
    stated = {str(one) for one in as_list(info.get(SUPPORTED_KEY))}
    own = {*_own_endpoints(params, model, provider or "")}
    found: list[Wire] = [
        name
        for name in NATIVE_ENDPOINTS
        if (name in own or ENDPOINTS[name].path in stated)
        and litellm_internals.passes_through(name, model, provider or "", info)
    ]
    return sorted([*found, *cohere])


def _own_endpoints(params: Json, model: str, provider: str) -> Iterator[Endpoint]:
    if provider == "azure":
        if _has_responses(params):
            yield "responses"
    elif provider in HOSTS_OF_CLAUDE and "claude" in model.lower():
        yield "messages"
    elif provider == "vertex_ai" and "gemini" in model.lower():
        yield "generate_content"
    elif provider in OWN_HOSTS and _is_own_address(params, provider):
        yield OWN_ENDPOINTS[provider]


def _has_responses(params: Json) -> bool:
    """Whether a version of Azure's API has Responses: every one without a date, and later ones."""
    version = str(params.get("api_version") or os.environ.get("AZURE_API_VERSION") or "")
    return not version[:1].isdigit() or version[: len(FIRST_AZURE_VERSION)] >= FIRST_AZURE_VERSION


def _is_own_address(params: Json, provider: str) -> bool:
    variables = (os.environ.get(name) for name in ADDRESS_VARIABLES[provider])
    address = next((one for one in (params.get("api_base"), params.get("base_url"), *variables) if one), None)
    if address is None:
        return True
    host = urlsplit(str(address)).hostname or ""
    return host == OWN_HOSTS[provider] or host.endswith("." + OWN_HOSTS[provider])
