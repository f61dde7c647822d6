"""The operations behind the gateway's inference routes; gateway and sidecar read this table.

Invariant: a name is what records, metrics and clients call the operation; it never changes.
"""

from typing import Literal, NamedTuple

Endpoint = Literal[
    "chat.completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "rerank",
    "moderations",
    "images.generations",
    "images.edits",
    "audio.speech",
    "audio.transcriptions",
    "audio.translations",
    "generate_content",
]


class EndpointSpec(NamedTuple):
    """One operation.

    Attributes:
        path: Its path at the sidecar, as in OpenAI's API, or Anthropic's.
        required: The body's field it needs beside `model`.
        litellm_route: LiteLLM's function that serves the path, in `litellm_module`.
        litellm_call_type: LiteLLM's name of the call in its hooks and caches.
    """

    path: str
    required: str
    litellm_route: str
    litellm_call_type: str
    litellm_module: str = "litellm.proxy.proxy_server"


ENDPOINTS: dict[Endpoint, EndpointSpec] = {
    "chat.completions": EndpointSpec("/v1/chat/completions", "messages", "chat_completion", "acompletion"),
    "completions": EndpointSpec("/v1/completions", "prompt", "completion", "atext_completion"),
    "embeddings": EndpointSpec("/v1/embeddings", "input", "embeddings", "aembedding"),
    "responses": EndpointSpec(
        "/v1/responses",
        "input",
        "responses_api",
        "aresponses",
        "litellm.proxy.response_api_endpoints.endpoints",
    ),
    "messages": EndpointSpec(
        "/v1/messages",
        "messages",
        "anthropic_response",
        "anthropic_messages",
        "litellm.proxy.anthropic_endpoints.endpoints",
    ),
    "images.generations": EndpointSpec(
        "/v1/images/generations",
        "prompt",
        "image_generation",
        "image_generation",
        "litellm.proxy.image_endpoints.endpoints",
    ),
}

OPAQUE_ENDPOINTS: frozenset[Endpoint] = frozenset(
    {
        "rerank",
        "moderations",
        "images.generations",
        "images.edits",
        "audio.speech",
        "audio.transcriptions",
        "audio.translations",
    }
)
"""Operations whose answers the gateway does not parse: the sidecar states their usage beside them.

Their streams are OpenAI's of images and audio: named events, a last one, no `[DONE]`.
"""
NATIVE_ENDPOINTS: frozenset[Endpoint] = frozenset({"responses", "messages"})
"""Operations that reach a provider only in its own protocol; elsewhere a call is a chat, translated."""
