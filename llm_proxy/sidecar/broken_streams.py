"""A stream that ended early is an error, not an answer.

LiteLLM takes the end of a provider's stream for its end of text: it invents a finish reason and [DONE], logs a
success and caches what there was. Its stream wrapper knows better, because it notes each finish reason it is sent.
Invariant: a stream without one, from any provider, ends as a failure: logged, not cached, one error event.
"""

from typing import Any

from llm_proxy.sidecar import seams

OUT_OF_THE_CACHE = "cached_response"


def apply() -> None:
    """Patch the stream wrapper; before the first call."""
    wrapper = seams.stream_wrapper()
    finish = wrapper._finalize_completed_stream  # noqa: SLF001 -- the one place where every stream ends

    async def finish_if_finished(self: Any, cache_hit: bool) -> Any:  # noqa: ANN401, FBT001 -- LiteLLM's own signature
        if not self.sent_last_chunk and not _finished(self):
            self._log_stream_failure_and_raise(_cut(self))  # noqa: SLF001 -- logs as for any other broken stream
        return await finish(self, cache_hit=cache_hit)

    wrapper._finalize_completed_stream = finish_if_finished  # noqa: SLF001 -- the same


def _finished(stream: Any) -> bool:  # noqa: ANN401 -- LiteLLM's CustomStreamWrapper
    if stream.custom_llm_provider == OUT_OF_THE_CACHE:
        return True
    return stream.received_finish_reason is not None or stream.intermittent_finish_reason is not None


def _cut(stream: Any) -> Exception:  # noqa: ANN401 -- the same
    error: Exception = seams.library().APIConnectionError(
        message="the provider's stream ended without a finish reason",
        llm_provider=stream.custom_llm_provider or "",
        model=stream.model or "",
    )
    return error
