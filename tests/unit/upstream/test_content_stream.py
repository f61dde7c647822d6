"""Google's own streams, filtered; and Google's usage, read."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.json_access import Json
from llm_proxy.upstream.content_stream import ContentStreamFilter
from llm_proxy.upstream.error_mapping import map_stream_error
from llm_proxy.upstream.token_usage import read_usage, usage_of_content

USAGE: Json = {
    "promptTokenCount": 17,
    "toolUsePromptTokenCount": 3,
    "candidatesTokenCount": 18,
    "thoughtsTokenCount": 5,
    "cachedContentTokenCount": 4,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}, {"modality": "AUDIO", "tokenCount": 7}],
}
COST = b": llmp-cost 0.000123\n\n"


def frame(text: str, finish: str | None = None, index: int = 0, **fields: object) -> bytes:
    """One frame with a piece of a candidate."""
    candidate: Json = {"content": {"parts": [{"text": text}]}, "index": index}
    if finish:
        candidate["finishReason"] = finish
    return b"data: " + orjson.dumps({"candidates": [candidate], **fields}) + b"\r\n\r\n"


def passed(raw: bytes, step: int = 9999) -> tuple[ContentStreamFilter, bytes]:
    """A filter that read a stream in steps, and what it let pass."""
    filtered = ContentStreamFilter()
    out = b"".join(filtered.feed(raw[at : at + step]) for at in range(0, len(raw), step))
    return filtered, out + filtered.close()


class TestContentStream:
    """What passes, what is kept apart, what is read."""

    @given(step=st.integers(1, 300))
    def test_any_chunking_gives_the_same(self, step: int) -> None:
        """The last frame waits for its cost."""
        first, last = (
            frame("a", usageMetadata={"promptTokenCount": 17}),
            frame("b", "STOP", usageMetadata=USAGE),
        )
        found, out = passed(first + last + COST, step)
        assert out == first.replace(b"\r", b"")
        assert found.last_event == last.replace(b"\r", b"")
        assert (found.done, found.is_malformed, found.error, found.content_frames) == (True, False, None, 2)
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (20, 23)
        assert (found.usage.cached_tokens, found.usage.reasoning_tokens) == (4, 5)
        assert found.usage.cost_nano_usd == 123_000

    def test_a_candidate_that_begins_late_must_end_too(self) -> None:
        """However many have ended before it."""
        late, out = passed(frame("a", "STOP") + frame("b", index=1))
        assert (late.done, late.last_event) == (False, b"")
        assert out.count(b"data: ") == 2
        ended, _ = passed(frame("a", "STOP") + frame("b", index=1) + frame("c", "STOP", index=1))
        assert ended.done
        assert b'"c"' in ended.last_event

    def test_it_ends_with_its_last_candidate(self) -> None:
        """A frame after the end of one passes; what follows the end of all too."""
        one, other, more = frame("a", "STOP", 0), frame("b", None, 1), frame("c", "STOP", 1)
        found, out = passed(frame("a", None, 1) + one)
        assert not found.done
        found, out = passed(frame("a", None, 0) + one + other + more)
        assert (found.done, found.last_event) == (True, more.replace(b"\r", b""))
        assert out.count(b"data: ") == 3

    def test_a_blocked_prompt_is_complete(self) -> None:
        """Without a candidate."""
        blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}
        found, _ = passed(b"data: " + orjson.dumps(blocked) + b"\n\n")
        assert found.done
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (9, 0)

    @pytest.mark.parametrize("raw", [frame("a") + b"data: {", frame("a") + b"data: x\n\n", b"hello\n\n"])
    def test_what_is_no_frame_is_malformed(self, raw: bytes) -> None:
        """It does not pass."""
        found, out = passed(raw)
        assert (found.is_malformed, found.done) == (True, False)
        assert out in {frame("a").replace(b"\r", b""), b""}

    def test_an_error_is_withheld(self) -> None:
        """With the status that its provider states."""
        error = {"error": {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}}
        found, out = passed(frame("a") + b"data: " + orjson.dumps(error) + b"\n\n")
        assert out == frame("a").replace(b"\r", b"")
        assert found.error is not None
        assert map_stream_error(found.error).status == 429

    def test_an_answer_without_usage_is_estimated(self) -> None:
        """By its text."""
        found, _ = passed(frame("word " * 40) * 3)
        assert found.usage is None
        assert 100 < found.content_tokens() < 200


def test_google_counts_thoughts_beside_the_answer() -> None:
    """In a chat they are part of it."""
    usage = read_usage(usage_of_content(USAGE))
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (20, 23)
    assert orjson.loads(usage.details or "") == {"prompt_text_tokens": 10, "prompt_audio_tokens": 7}
    assert read_usage(usage_of_content({})) is None
