"""Anthropic's streams, whose end LiteLLM invents: it reads a missing stop reason as "stop".

Invariant: a stream has come to its end when a `message_delta` named a stop reason, or with `message_stop`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from llm_proxy.json_access import Json
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping

REASON_STATED = "_llmp_reason_stated"


def apply() -> None:
    """Patch the reader of events; before the first call."""
    reader = import_module("litellm.llms.anthropic.chat.handler").ModelResponseIterator
    read_delta: Callable[..., Any] = reader._handle_message_delta  # noqa: SLF001 -- it alone knows the reason
    parse: Callable[..., Any] = reader.chunk_parser

    def read_delta_as_stated(self: Theirs, chunk: Json) -> Theirs:
        reason, *rest = read_delta(self, chunk)
        if not mapping(chunk.get("delta")).get("stop_reason"):
            return ("", *rest)
        setattr(self, REASON_STATED, True)
        return (reason, *rest)

    def parse_to_the_end(self: Theirs, chunk: Json) -> Theirs:
        parsed = parse(self, chunk)
        if chunk.get("type") == "message_stop" and not getattr(self, REASON_STATED, False):
            parsed.choices[0].finish_reason = "stop"
        return parsed

    reader._handle_message_delta = read_delta_as_stated  # noqa: SLF001 -- the same
    reader.chunk_parser = parse_to_the_end
