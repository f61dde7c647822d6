"""Every route of the gateway in one table: dispatch, 405 with `Allow`, and OpenAPI come from it.

Invariants: paths are exact (no normalising, compared undecoded) but for two aliases: `/openai/v1/` for
`/v1/`, and one slash at the end, never below `/admin` and `/internal`; a path that is not here does not
exist; hot doors are plain ASGI endpoints, the rest are FastAPI's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llm_proxy.dialects import GENERATE, GENERATE_STREAM, INTERNAL, OPENAI, Dialect
from llm_proxy.endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class InferenceRoute:
    """A door that leads to a model.

    Attributes:
        paths: Every spelling it answers to; the first is the one documented.
        endpoint: The OpenAI endpoint behind it.
        dialect: The vocabulary it speaks.
        streams: True or False when the path decides whether the answer streams; None when the body does.
        summary: One line for the OpenAPI page.
    """

    paths: tuple[str, ...]
    endpoint: Endpoint
    dialect: Dialect
    summary: str


INFERENCE_ROUTES = (
    InferenceRoute(
        ("/v1/chat/completions", "/chat/completions"),
        "chat.completions",
        OPENAI,
        "Create a chat completion, whole or streamed.",
    ),
    InferenceRoute(
        ("/v1/completions", "/completions"),
        "completions",
        OPENAI,
        "Create a text completion, whole or streamed.",
    ),
    InferenceRoute(("/v1/embeddings", "/embeddings"), "embeddings", OPENAI, "Create embedding vectors."),
    InferenceRoute(
        ("/internal/llm/proxy",), "chat.completions", INTERNAL, "Chat in the internal proxy's vocabulary."
    ),
    InferenceRoute(
        ("/llm-proxy/generate",), "chat.completions", GENERATE, "Chat in the camelCase vocabulary, whole."
    ),
    InferenceRoute(
        ("/llm-proxy/stream",),
        "chat.completions",
        GENERATE_STREAM,
        "Chat in the camelCase vocabulary, streamed.",
    ),
)

_NO_ALIASES = ("/admin", "/internal")
"""Paths below these have one spelling each: a proxy's rule for them must hold."""


def canonical_path(path: str) -> str:
    """The path that an alias stands for; any other path as it is."""
    if path.startswith("/openai/v1/"):
        path = path.removeprefix("/openai")
    return path[:-1] if path.endswith("/") and not path.startswith(_NO_ALIASES) else path


def _spellings(path: str) -> Iterator[str]:
    for prefix in ("", "/openai") if path.startswith("/v1/") else ("",):
        yield prefix + path
        if not path.startswith(_NO_ALIASES):
            yield f"{prefix}{path}/"


ROUTES_BY_PATH: dict[bytes, InferenceRoute] = {
    spelling.encode(): door
    for door in INFERENCE_ROUTES
    for path in door.paths
    for spelling in _spellings(path)
}
