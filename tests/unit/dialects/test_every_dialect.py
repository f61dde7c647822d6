"""What holds in every dialect."""

import orjson
import pytest
from dialect_examples import ANSWERED, CALL, openai_answer, openai_frames, read, rendered
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy import sse
from llm_proxy.dialects import Dialect
from llm_proxy.dialects.dialect import ListedModel
from llm_proxy.dialects.generate import GENERATE, GENERATE_STREAM
from llm_proxy.dialects.internal import INTERNAL
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.errors import APIError, BadRequest, ProviderFailed, RateLimited, UpstreamTimeout


class TestEveryDialect:
    """What holds in every dialect."""

    @pytest.mark.parametrize("dialect", [OPENAI, INTERNAL, GENERATE], ids=lambda dialect: dialect.name)
    @pytest.mark.parametrize(
        "refused", [RateLimited("Slow down."), UpstreamTimeout("Too late."), BadRequest("No.")]
    )
    def test_any_error_can_be_rendered(self, dialect: Dialect, refused: APIError) -> None:
        """As JSON, and as one frame without an end mark where the dialect writes frames of its own."""
        assert refused.message in orjson.dumps(dialect.error(refused)).decode()
        stream = dialect.open_stream(CALL)
        if stream is not None:
            event = sse.parse_event(stream.fail(refused))
            assert orjson.loads(event.data or b"") == dialect.error(refused)
            assert stream.ping() == b""

    @pytest.mark.parametrize("dialect", [INTERNAL, GENERATE], ids=lambda dialect: dialect.name)
    @pytest.mark.parametrize("reply", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'{"choices":{}}'])
    def test_an_invalid_answer_is_the_provider_s_error(self, dialect: Dialect, reply: bytes) -> None:
        """Neither an empty text nor an exception of another class."""
        with pytest.raises(ProviderFailed):
            dialect.render(CALL, reply, ANSWERED)

    @pytest.mark.parametrize("dialect", [INTERNAL, GENERATE_STREAM], ids=lambda dialect: dialect.name)
    @given(words=st.lists(st.text(max_size=10), max_size=6), step=st.integers(1, 50))
    def test_the_joined_pieces_are_the_complete_text(
        self, dialect: Dialect, words: list[str], step: int
    ) -> None:
        """Old clients read the same text streamed and not, in any chunking."""
        try:
            "".join(words).encode()
        except UnicodeEncodeError:
            return
        stream = openai_frames(*({"content": word} for word in words))
        reported = rendered(dialect, stream, step)
        events = [sse.parse_event(raw).data or b"" for raw in sse.SSEDecoder().feed(reported)]
        assert events[-1] == b"[DONE]"
        whole = orjson.loads(dialect.render(CALL, openai_answer("".join(words)), ANSWERED))
        assert whole["content"] == "".join(orjson.loads(event)["content"] for event in events[:-1])
        assert whole["usage"] == orjson.loads(events[-2])["usage"]

    def test_openai_s_bytes_pass_unchanged(self) -> None:
        """Nothing is parsed, nothing is rendered again."""
        reply = openai_answer()
        assert OPENAI.render(CALL, reply, ANSWERED) is reply
        dialect: Dialect = OPENAI
        assert (
            dialect.open_stream(
                read(OPENAI, {"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]})
            )
            is None
        )
        assert OPENAI.render_models([ListedModel("a/b", "openai")]) == {
            "object": "list",
            "data": [{"id": "a/b", "object": "model", "created": 0, "owned_by": "openai"}],
        }
