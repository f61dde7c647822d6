"""Every route of the gateway in one table: dispatch, 405 with `Allow`, and OpenAPI come from it.

Invariants: paths are exact (no trailing slash, no normalising, compared undecoded); a path that is not here
does not exist; hot doors are plain ASGI endpoints, the rest are FastAPI's.
"""

from dataclasses import dataclass

from llm_proxy.dialects import GENERATE, GENERATE_STREAM, INTERNAL, OPENAI, Dialect, Door


@dataclass(frozen=True, slots=True)
class HotDoor:
    """A door that leads to a model.

    Attributes:
        paths: Every spelling it answers to; the first is the one documented.
        door: The OpenAI endpoint behind it.
        dialect: The vocabulary it speaks.
        streams: True or False when the path decides whether the answer streams; None when the body does.
        summary: One line for the OpenAPI page.
    """

    paths: tuple[str, ...]
    door: Door
    dialect: Dialect
    summary: str


HOT_DOORS = (
    HotDoor(
        ("/v1/chat/completions", "/chat/completions"),
        "chat.completions",
        OPENAI,
        "Create a chat completion, whole or streamed.",
    ),
    HotDoor(
        ("/v1/completions", "/completions"),
        "completions",
        OPENAI,
        "Create a text completion, whole or streamed.",
    ),
    HotDoor(("/v1/embeddings", "/embeddings"), "embeddings", OPENAI, "Create embedding vectors."),
    HotDoor(
        ("/internal/llm/proxy",), "chat.completions", INTERNAL, "Chat in the internal proxy's vocabulary."
    ),
    HotDoor(
        ("/llm-proxy/generate",), "chat.completions", GENERATE, "Chat in the camelCase vocabulary, whole."
    ),
    HotDoor(
        ("/llm-proxy/stream",),
        "chat.completions",
        GENERATE_STREAM,
        "Chat in the camelCase vocabulary, streamed.",
    ),
)

BY_PATH: dict[bytes, HotDoor] = {path.encode(): door for door in HOT_DOORS for path in door.paths}
