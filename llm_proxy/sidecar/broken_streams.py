"""A stream that ended early is an error, not an answer.

LiteLLM takes the end of a provider's stream for its end of text: it invents a finish reason and [DONE],
logs a success and caches what there was. Its stream wrapper knows better, because it notes each finish
reason it is sent. Invariant: a stream without one, from any provider, ends as a failure: logged, not
cached, one error event; so does one with a frame that cannot be read, which LiteLLM would skip.
"""

import json
from importlib import import_module

from llm_proxy.sidecar import (
    anthropic_streams,
    gemini_streams,
    openai_wire,
    other_wires,
    outcome,
    provider_http,
    seams,
)
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping
from llm_proxy.sidecar.stated_failures import is_failed

OUT_OF_THE_CACHE = "cached_response"


def apply() -> None:
    """Patch the stream wrapper and the frame reader; before the first call."""
    provider_http.apply()
    _end_only_when_finished()
    _skip_no_garbage()
    gemini_streams.apply()
    anthropic_streams.apply()


def _end_only_when_finished() -> None:
    wrapper = seams.stream_wrapper()
    finish = wrapper._finalize_completed_stream  # noqa: SLF001 -- the one place where every stream ends

    async def finish_if_finished(self: Theirs, *, cache_hit: bool) -> Theirs:
        if not self.sent_last_chunk and not _finished(self):
            self._log_stream_failure_and_raise(cut(self))
        outcome.completed()
        return await finish(self, cache_hit=cache_hit)

    wrapper._finalize_completed_stream = finish_if_finished  # noqa: SLF001 -- the same


def _finished(stream: Theirs) -> bool:
    if stream.custom_llm_provider == OUT_OF_THE_CACHE:
        return True
    google = gemini_streams.finished(stream)
    if google is not None:
        return google
    reason = stream.received_finish_reason or stream.intermittent_finish_reason
    return bool(reason) and not is_failed(reason)


def cut(stream: Theirs) -> Exception:
    """The error a stream ends with that ended early."""
    error: Exception = seams.library().BadGatewayError(
        message="the provider's stream ended without a finish reason",
        llm_provider=stream.custom_llm_provider or "",
        model=stream.model or "",
    )
    return error


def _skip_no_garbage() -> None:
    frames = import_module("litellm.llms.base_llm.base_model_iterator").BaseModelResponseIterator
    read = frames._string_to_dict_parser  # noqa: SLF001 -- the one place where frames are parsed

    def read_or_fail(str_line: str) -> Theirs:
        found = read(str_line)
        if found is None and str_line[:5] != "data:" and not str_line.startswith("{"):
            return found
        if found is None and not _readable(str_line.removeprefix("data:").strip()):
            raise ValueError("a frame that is not JSON")
        if "choices" in (frame := mapping(found)):
            openai_wire.repair_frame(frame)
        elif "done" in frame:
            other_wires.repair_ollama(frame)
        return found

    frames._string_to_dict_parser = staticmethod(read_or_fail)  # noqa: SLF001 -- the same


def _readable(payload: str) -> bool:
    if not payload or "[DONE]" in payload:
        return True
    try:
        json.loads(payload)
    except ValueError:
        return False
    return True


PATCH = Patch(
    name="broken_streams",
    install=apply,
    reason=(
        "A provider's stream that ends early is heard as a whole answer: an invented finish reason, "
        "[DONE], a success, a cache entry."
    ),
    since="1.106.2",
    report="https://github.com/BerriAI/litellm/pull/42140 (opt-in strict completion, not merged)",
    until="LiteLLM raises on a stream without a terminal finish reason, for every provider.",
    tests=(
        "tests/stages/test_sidecar_broken_streams.py::test_a_broken_stream_is_never_a_finished_one",
        "tests/stages/test_sidecar_broken_streams.py::test_a_broken_text_completion_is_never_a_finished_one",
    ),
)
