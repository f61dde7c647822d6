"""Google's streams, whose end LiteLLM hides: it reads a missing finish reason as "stop", on every frame.

Invariants: a frame's own `finishReason` (or a blocked prompt) is noted on the stream that carried it; the
deployment's timeout holds between frames, which LiteLLM gives to every provider but this one.
"""

from importlib import import_module
from typing import Any

from llm_proxy.sidecar import other_wires
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import items, mapping

MODULE = "litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini"
NO_REASON = (None, "", "FINISH_REASON_UNSPECIFIED")
FINISHED = "_llmp_finished"


def apply() -> None:
    """Patch the reader of frames and the call; before the first call."""
    module = import_module(MODULE)
    _note_finish(module.ModelResponseIterator)
    _keep_timeout(module.VertexLLM)


def finished(stream: Theirs) -> bool | None:
    """Whether Google said that the answer is complete; None for another provider's stream."""
    frames = stream.completion_stream
    if type(frames).__module__ != MODULE:
        return None
    return bool(getattr(frames, FINISHED, False))


def _note_finish(frames: Theirs) -> None:
    parse = frames.chunk_parser

    def parse_and_note(self: Theirs, chunk: dict[str, Any]) -> Theirs:
        other_wires.repair_gemini(chunk)
        blocked = mapping(chunk.get("promptFeedback")).get("blockReason")
        if blocked or any(
            mapping(one).get("finishReason") not in NO_REASON for one in items(chunk.get("candidates"))
        ):
            setattr(self, FINISHED, True)
        return parse(self, chunk)

    frames.chunk_parser = parse_and_note


def _keep_timeout(handler: Theirs) -> None:
    open_stream = handler.async_streaming
    client_with = import_module("litellm.llms.custom_httpx.http_handler").get_async_httpx_client

    async def open_with_timeout(self: Theirs, **call: Theirs) -> Theirs:
        if call.get("client") is None and call.get("timeout") is not None:
            call["client"] = client_with("vertex_ai", params={"timeout": call["timeout"]})
        return await open_stream(self, **call)

    handler.async_streaming = open_with_timeout
