"""The operations behind the gateway's inference routes; gateway and sidecar read this table.

Invariant: a name is what records, metrics and clients call the operation; it never changes.
"""

from collections.abc import Iterable
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


class FilePart(NamedTuple):
    """A file that an operation takes in a multipart form.

    Attributes:
        name: The form's field; where several may come, `name[]` too.
        required: The operation needs it.
        max_count: How many may come.
    """

    name: str
    required: bool = True
    max_count: int = 1


class EndpointSpec(NamedTuple):
    """One operation.

    Attributes:
        path: Its path at the sidecar, as in OpenAI's API, or Anthropic's; of Google's without the model.
        required: The body's fields it needs beside `model` and files.
        litellm_route: LiteLLM's function that serves the path, in `litellm_module`.
        litellm_call_type: LiteLLM's name of the call in its hooks and caches.
        files: The files it takes: its body is a multipart form; none for JSON.
        callers_path: Its path here, where that is another than at the sidecar.
        litellm_stream_route: Its function for a streamed call, where that is another.
        linked_files: The field that links to the files in a JSON body; empty where it takes forms alone.
    """

    path: str
    required: tuple[str, ...]
    litellm_route: str
    litellm_call_type: str
    litellm_module: str = "litellm.proxy.proxy_server"
    files: tuple[FilePart, ...] = ()
    callers_path: str | None = None
    litellm_stream_route: str | None = None
    linked_files: str = ""


ENDPOINTS: dict[Endpoint, EndpointSpec] = {
    "chat.completions": EndpointSpec("/v1/chat/completions", ("messages",), "chat_completion", "acompletion"),
    "completions": EndpointSpec("/v1/completions", ("prompt",), "completion", "atext_completion"),
    "embeddings": EndpointSpec("/v1/embeddings", ("input",), "embeddings", "aembedding"),
    "responses": EndpointSpec(
        "/v1/responses",
        ("input",),
        "responses_api",
        "aresponses",
        "litellm.proxy.response_api_endpoints.endpoints",
    ),
    "messages": EndpointSpec(
        "/v1/messages",
        ("messages",),
        "anthropic_response",
        "anthropic_messages",
        "litellm.proxy.anthropic_endpoints.endpoints",
    ),
    "generate_content": EndpointSpec(
        "/v1beta/generateContent",
        ("contents",),
        "google_generate_content",
        "agenerate_content",
        "litellm.proxy.google_endpoints.endpoints",
        callers_path="/v1beta/models/{model}:generateContent",
        litellm_stream_route="google_stream_generate_content",
    ),
    "images.generations": EndpointSpec(
        "/v1/images/generations",
        ("prompt",),
        "image_generation",
        "image_generation",
        "litellm.proxy.image_endpoints.endpoints",
    ),
    "images.edits": EndpointSpec(
        "/v1/images/edits",
        ("prompt",),
        "image_edit_api",
        "aimage_edit",
        "litellm.proxy.image_endpoints.endpoints",
        files=(
            FilePart("image", max_count=16),
            FilePart("mask", required=False),
            FilePart("markup", required=False),
        ),
        linked_files="images",
    ),
    "rerank": EndpointSpec(
        "/v1/rerank",
        ("documents", "query"),
        "rerank",
        "arerank",
        "litellm.proxy.rerank_endpoints.endpoints",
    ),
    "moderations": EndpointSpec("/v1/moderations", ("input",), "moderations", "amoderation"),
    "audio.transcriptions": EndpointSpec(
        "/v1/audio/transcriptions",
        (),
        "audio_transcriptions",
        "atranscription",
        files=(FilePart("file"),),
    ),
    "audio.translations": EndpointSpec(
        "/v1/audio/translations",
        (),
        "audio_transcriptions",
        "atranscription",
        files=(FilePart("file"),),
    ),
    "audio.speech": EndpointSpec("/v1/audio/speech", ("input", "voice"), "audio_speech", "aspeech"),
}

IMAGES: frozenset[Endpoint] = frozenset({"images.generations", "images.edits"})
"""Operations that make images."""
TRANSCRIPTS: frozenset[Endpoint] = frozenset({"audio.transcriptions", "audio.translations"})
"""Operations that write down audio: their answers may be texts, and whole where a stream was requested."""
BYTE_ENDPOINTS: frozenset[Endpoint] = frozenset({"audio.speech"})
"""Operations whose answers are bytes, unless events are requested; always a stream."""
OPAQUE_ENDPOINTS: frozenset[Endpoint] = frozenset(
    {"rerank", "moderations", *IMAGES, *TRANSCRIPTS, *BYTE_ENDPOINTS}
)
"""Operations whose answers the gateway does not parse: the sidecar states their usage beside them.

Their streams are OpenAI's of images and audio: named events, a last one, no `[DONE]`.
"""
NATIVE_ENDPOINTS: frozenset[Endpoint] = frozenset({"responses", "messages", "generate_content"})
"""Operations that reach a provider only in its own protocol; elsewhere a call is a chat, translated."""

Wire = Endpoint | Literal["cohere_embed"]
"""What a deployment may speak itself: an endpoint's protocol, or Cohere's of embeddings."""
COHERE_BODY = "llmp_cohere_body"
"""Field of a call of embeddings, from the gateway to its sidecar: the body that Cohere gets."""

CONVERSATIONS: frozenset[Endpoint] = frozenset(
    {"chat.completions", "responses", "messages", "generate_content"}
)
"""Operations that any model of conversations serves, natively or translated."""
COMPLETIONS: frozenset[Endpoint] = frozenset({"completions"})
_NONE: frozenset[Endpoint] = frozenset()
MODES: dict[str, frozenset[Endpoint]] = {
    "chat": CONVERSATIONS,
    "responses": CONVERSATIONS,
    "completion": CONVERSATIONS | COMPLETIONS,
    "embedding": frozenset({"embeddings"}),
    "rerank": frozenset({"rerank"}),
    "moderation": frozenset({"moderations"}),
    "image_generation": IMAGES,
    "image_edit": frozenset({"images.edits"}),
    "audio_speech": frozenset({"audio.speech"}),
    "audio_transcription": TRANSCRIPTS,
    **dict.fromkeys(
        ("realtime", "video_generation", "ocr", "search", "vector_store", "evaluation", "extraction"), _NONE
    ),
}
"""The operations of a model's mode, in the words of LiteLLM's price list."""


def endpoints_of_mode(mode: str | None, supported_paths: Iterable[str] = ()) -> frozenset[Endpoint] | None:
    """Returns what a model serves; None where that is unknown, and it may be anything.

    Args:
        mode: LiteLLM's word for it.
        supported_paths: LiteLLM's `supported_endpoints` of it, which add to those of the mode: its price list
            leaves out some that a model has.
    """
    paths = frozenset(supported_paths)
    stated = frozenset[Endpoint](name for name, spec in ENDPOINTS.items() if spec.path in paths)
    if not stated and mode not in MODES:
        return None
    found = stated | MODES.get(mode or "", _NONE)
    return found | CONVERSATIONS if found & CONVERSATIONS else found


def endpoint_paths(served: Iterable[Endpoint]) -> list[str]:
    """Returns the paths of endpoints here, in the order of the table."""
    known = frozenset(served)
    return [spec.callers_path or spec.path for name, spec in ENDPOINTS.items() if name in known]


_FURTHER_PATHS: dict[Endpoint, tuple[str, ...]] = {
    "embeddings": (
        "/v1/embed",
        "/v2/embed",
        "/v1beta/models/{model}:embedContent",
        "/v1beta/models/{model}:batchEmbedContents",
    ),
    "rerank": ("/v2/rerank",),
    "generate_content": ("/v1beta/models/{model}:streamGenerateContent",),
}
"""Paths of an endpoint in other dialects, or in other versions."""


def served_paths(served: Iterable[Endpoint]) -> list[str]:
    """Returns every path of endpoints that is no alias: first their own, then those of other dialects."""
    known = frozenset(served)
    further = [path for name, paths in _FURTHER_PATHS.items() if name in known for path in paths]
    return [*endpoint_paths(known), *further]
