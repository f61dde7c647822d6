"""Every inference path, its dialect and its endpoint: dispatch, `/v1/explain` and OpenAPI read the table.

The dialects that need nothing are constants; `app/` builds the others and hands them to `inference_routes`.
Invariants: paths are exact (compared undecoded, never normalised) but for a model's name in a fixed table of
patterns, and aliases: `/openai/v1/` and `/openai/` for `/v1/`; one trailing slash, but below `_NO_ALIASES`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llm_proxy.dialects import Dialect
from llm_proxy.dialects.cohere import COHERE
from llm_proxy.dialects.cohere_embed import EMBED_V1, EMBED_V2
from llm_proxy.dialects.gemini.dialect import GENERATE_CONTENT, STREAM_GENERATE_CONTENT
from llm_proxy.dialects.gemini.embeddings import BATCH_EMBED_CONTENTS, EMBED_CONTENT
from llm_proxy.dialects.generate import GENERATE, GENERATE_STREAM
from llm_proxy.dialects.internal import INTERNAL
from llm_proxy.dialects.model_paths import MODEL, ModelPaths
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.responses.dialect import ResponsesDialect
from llm_proxy.dialects.responses.native import OPERATIONS
from llm_proxy.dialects.responses.operations import compacting, on_stored
from llm_proxy.endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class InferenceRoute:
    """A route that calls a model.

    Attributes:
        paths: Its paths; the documented one first. In one with `{model}` a request names its model.
        endpoint: The OpenAI endpoint that serves it.
        dialect: What parses its requests and renders its responses.
        summary: One line for the OpenAPI page.
        required: The fields that its body needs; None for those of the endpoint, and `model`.
        methods: The HTTP methods that it takes.
        model: The name that stood in a request's path, still encoded; None where the path has none.
        query: The query of such a request, as it was sent.
    """

    paths: tuple[str, ...]
    endpoint: Endpoint
    dialect: Dialect
    summary: str
    required: tuple[str, ...] | None = None
    methods: tuple[str, ...] = ("POST",)
    model: str | None = None
    query: str = ""


_AZURE = f"/openai/deployments/{MODEL}"
"""Azure OpenAI's paths below a deployment; its name is a model's here."""

_GEMINI = (f"/v1beta/models/{MODEL}", f"/v1/models/{MODEL}")
"""Google's paths of a model."""

_FIXED_ROUTES = (
    InferenceRoute(
        ("/v1/chat/completions", "/chat/completions", f"{_AZURE}/chat/completions"),
        "chat.completions",
        OPENAI,
        "Create a chat completion, whole or streamed.",
    ),
    InferenceRoute(
        ("/v1/completions", "/completions", f"{_AZURE}/completions"),
        "completions",
        OPENAI,
        "Create a text completion, whole or streamed.",
    ),
    InferenceRoute(
        ("/v1/embeddings", "/embeddings", f"{_AZURE}/embeddings"),
        "embeddings",
        OPENAI,
        "Create embedding vectors.",
    ),
    InferenceRoute(
        tuple(f"{one}:generateContent" for one in _GEMINI),
        "generate_content",
        GENERATE_CONTENT,
        "Generate content in Google's API, whole.",
    ),
    InferenceRoute(
        tuple(f"{one}:streamGenerateContent" for one in _GEMINI),
        "generate_content",
        STREAM_GENERATE_CONTENT,
        "Generate content in Google's API, streamed.",
    ),
    InferenceRoute(
        tuple(f"{one}:embedContent" for one in _GEMINI),
        "embeddings",
        EMBED_CONTENT,
        "Create an embedding vector in Google's API.",
        ("content",),
    ),
    InferenceRoute(
        tuple(f"{one}:batchEmbedContents" for one in _GEMINI),
        "embeddings",
        BATCH_EMBED_CONTENTS,
        "Create embedding vectors in Google's API.",
        ("requests",),
    ),
    InferenceRoute(
        ("/v1/rerank", "/v2/rerank", "/rerank"),
        "rerank",
        COHERE,
        "Rank documents by a query, as Cohere and Jina do.",
    ),
    InferenceRoute(
        ("/v1/embed",),
        "embeddings",
        EMBED_V1,
        "Create embedding vectors in Cohere's API, version 1.",
        ("model", "texts"),
    ),
    InferenceRoute(
        ("/v2/embed",),
        "embeddings",
        EMBED_V2,
        "Create embedding vectors in Cohere's API, version 2.",
        ("model", "texts"),
    ),
    InferenceRoute(
        ("/v1/moderations", "/moderations"),
        "moderations",
        OPENAI,
        "Moderate texts and images.",
        ("input",),
    ),
    InferenceRoute(
        ("/v1/audio/transcriptions", "/audio/transcriptions", f"{_AZURE}/audio/transcriptions"),
        "audio.transcriptions",
        OPENAI,
        "Transcribe an audio file, whole or streamed.",
    ),
    InferenceRoute(
        ("/v1/audio/translations", "/audio/translations", f"{_AZURE}/audio/translations"),
        "audio.translations",
        OPENAI,
        "Translate an audio file into English text.",
    ),
    InferenceRoute(
        ("/v1/images/generations", "/images/generations", f"{_AZURE}/images/generations"),
        "images.generations",
        OPENAI,
        "Generate images, whole or streamed.",
    ),
    InferenceRoute(
        ("/v1/audio/speech", "/audio/speech", f"{_AZURE}/audio/speech"),
        "audio.speech",
        OPENAI,
        "Turn text into speech: audio, or events that hold it, streamed.",
    ),
    InferenceRoute(
        ("/v1/images/edits", "/images/edits", f"{_AZURE}/images/edits"),
        "images.edits",
        OPENAI,
        "Edit images, whole or streamed.",
    ),
    InferenceRoute(
        ("/internal/llm/proxy",),
        "chat.completions",
        INTERNAL,
        "Chat in the internal proxy's vocabulary.",
        ("messages",),
    ),
    InferenceRoute(
        ("/llm-proxy/generate",),
        "chat.completions",
        GENERATE,
        "Chat in the camelCase vocabulary, whole.",
        ("messages",),
    ),
    InferenceRoute(
        ("/llm-proxy/stream",),
        "chat.completions",
        GENERATE_STREAM,
        "Chat in the camelCase vocabulary, streamed.",
        ("messages",),
    ),
)

_NO_ALIASES = ("/admin", "/internal")
"""Paths below these have no aliases, so that a proxy's rules for them hold."""


def canonical_path(path: str) -> str:
    """Returns the path that an alias stands for; any other path unchanged."""
    if path.startswith("/openai/v1/"):
        path = path.removeprefix("/openai")
    return path[:-1] if path.endswith("/") and path != "/" and not path.startswith(_NO_ALIASES) else path


def _with_aliases(path: str) -> Iterator[str]:
    spellings = [path]
    if path.startswith("/v1/"):  # Azure's, newer and older
        spellings += [f"/openai{path}", f"/openai{path.removeprefix('/v1')}"]
    for spelling in spellings:
        yield spelling
        if not path.startswith(_NO_ALIASES):
            yield f"{spelling}/"


_RESPONSES = ("/v1/responses", "/responses", f"{_AZURE}/responses")
_OWN_WORDS = frozenset({"compact", "input_tokens"})
_STORED = re.compile(
    r"(?:/openai/deployments/.+|(?:/openai)?(?:/v1)?)/responses/([^/?]+)(/cancel|/input_items)?/?"
)


class RouteTable:
    """The inference routes of one gateway.

    Attributes:
        routes: In the order of the documentation.
    """

    __slots__ = ("_by_model_path", "_by_path", "_responses", "routes")

    def __init__(self, routes: tuple[InferenceRoute, ...], responses: ResponsesDialect | None = None) -> None:
        """Takes the routes by exact path; with `responses`, those of stored responses too."""
        self.routes = routes
        self._responses = responses
        found = [(alias, route) for route in routes for path in route.paths for alias in _with_aliases(path)]
        self._by_path = {alias.encode(): route for alias, route in found if MODEL not in alias}
        self._by_model_path = ModelPaths((alias, route) for alias, route in found if MODEL in alias)

    def find(self, method: str, raw_path: bytes, query: bytes = b"") -> InferenceRoute | None:
        """Returns the route of a path as it was sent, an alias included, whatever methods it takes.

        Where the path names a model, or a stored response, the route is this request's own.
        """
        return self._by_path.get(raw_path) or self._find_named(method, raw_path, query)

    def _find_named(self, method: str, raw_path: bytes, query: bytes) -> InferenceRoute | None:
        named = self._by_model_path.find(raw_path)
        if named is not None:
            return replace(named[0], model=named[1], query=query.decode("latin-1"))
        match = _STORED.fullmatch(raw_path.decode("latin-1"))
        if self._responses is None or match is None or match[1] in _OWN_WORDS:
            return None
        known = [one for one in OPERATIONS if one.suffix == (match[2] or "")]
        chosen = next((one for one in known if one.method == method), known[0])
        dialect = on_stored(self._responses, chosen, match[1], query.decode("latin-1"))
        methods = tuple(one.method for one in known)
        return InferenceRoute((), "responses", dialect, chosen.summary, methods=methods)


def inference_routes(responses: ResponsesDialect, messages: Dialect) -> RouteTable:
    """Returns the routes of a gateway, with the dialects that were built for it."""
    compact = tuple(f"{path}/compact" for path in _RESPONSES)
    built = (
        InferenceRoute(_RESPONSES, "responses", responses, "Create a response, whole or streamed."),
        InferenceRoute(compact, "responses", compacting(responses), "Compact a conversation."),
        InferenceRoute(
            ("/v1/messages", "/messages"),
            "messages",
            messages,
            "Create a message in Anthropic's API, whole or streamed.",
        ),
    )
    return RouteTable((*_FIXED_ROUTES, *built), responses)
