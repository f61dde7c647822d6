"""Chat answers as Google's, whole and streamed; errors; the framings of streams."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy import sse
from llm_proxy.dialects.dialect import ResponseMeta
from llm_proxy.dialects.gemini.answer import render_answer
from llm_proxy.dialects.gemini.error_body import render_error
from llm_proxy.dialects.gemini.request import GeminiContext
from llm_proxy.dialects.gemini.signatures import open_blocks
from llm_proxy.dialects.gemini.stream import GeminiStream, NativeGeminiStream
from llm_proxy.dialects.gemini.structured import Unwraps
from llm_proxy.errors import (
    APIError,
    BadRequest,
    BudgetExceeded,
    ProviderFailed,
    RateLimited,
    Unauthorized,
    UpstreamTimeout,
)
from llm_proxy.json_access import Json

META = ResponseMeta()
USAGE: Json = {
    "prompt_tokens": 20,
    "completion_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
COUNTED = {
    "promptTokenCount": 20,
    "candidatesTokenCount": 6,
    "thoughtsTokenCount": 4,
    "totalTokenCount": 30,
    "cachedContentTokenCount": 8,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 15}, {"modality": "AUDIO", "tokenCount": 5}],
    "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 6}],
    "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 8}],
}
CALLS = [
    {"index": 0, "id": "c0", "type": "function", "function": {"name": "look_up", "arguments": '{"a":"b"}'}},
    {
        "index": 1,
        "id": "c1__thought__QUI=",
        "type": "function",
        "function": {"name": "write", "arguments": ""},
    },
]
PARTS: list[Json] = [
    {"functionCall": {"id": "c0", "name": "look_up", "args": {"a": "b"}}},
    {"functionCall": {"id": "c1", "name": "write", "args": {}}, "thoughtSignature": "QUI="},
]
PLAIN, SHOWN = GeminiContext(), GeminiContext(shows_thoughts=True)


def choice(message: Json, finish: str | None = "stop", index: int = 0, **fields: Any) -> Json:
    """One choice of a whole answer."""
    return {"index": index, "message": {"role": "assistant", **message}, "finish_reason": finish, **fields}


def answer(*choices: Json, usage: Json | None = None) -> bytes:
    """A whole chat answer."""
    return orjson.dumps({"id": "x", "model": "m", "choices": list(choices), "usage": usage or USAGE})


def frames(*deltas: Json, finish: str = "stop", usage: Json | None = None, index: int = 0) -> bytes:
    """A chat stream."""
    chunks: list[Json] = [
        {"choices": [{"index": index, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"index": index, "delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": usage or USAGE})
    return b"".join(sse.encode_event(orjson.dumps({"id": "x", "model": "m", **one})) for one in chunks)


def streamed(raw: bytes, context: GeminiContext = PLAIN, step: int = 7) -> list[Json]:
    """The chunks of a stream, fed in steps."""
    stream = GeminiStream("asked", context)
    out = b"".join(stream.feed(raw[at : at + step]) for at in range(0, len(raw), step)) + stream.end(META)
    if context.is_array:
        items: list[Json] = orjson.loads(out)
        return items
    return [orjson.loads(sse.parse_event(one).data or b"") for one in sse.SSEDecoder().feed(out)]


def first(reply: bytes, context: GeminiContext = PLAIN) -> Json:
    """The first candidate of an answer."""
    found: Json = render_answer(reply, "asked", context)["candidates"][0]
    return found


def all_parts(chunks: list[Json], index: int = 0) -> list[Json]:
    """The parts of a candidate's chunks."""
    mine = [one for chunk in chunks for one in chunk.get("candidates", []) if one["index"] == index]
    return [part for one in mine for part in one["content"]["parts"]]


class TestWhole:
    """Whole answers."""

    def test_an_answer(self) -> None:
        """Text, why it ended, usage in Google's way."""
        assert render_answer(answer(choice({"content": "Hi"})), "asked", GeminiContext()) == {
            "candidates": [
                {"content": {"parts": [{"text": "Hi"}], "role": "model"}, "index": 0, "finishReason": "STOP"}
            ],
            "usageMetadata": COUNTED,
            "modelVersion": "asked",
            "responseId": "x",
        }

    def test_calls(self) -> None:
        """With their ids, and Google's signature out of one."""
        found = first(answer(choice({"content": "ok", "tool_calls": CALLS}, "tool_calls")))
        assert found["content"]["parts"] == [{"text": "ok"}, *PARTS]
        assert found["finishReason"] == "STOP"

    def test_thoughts_show_where_they_are_wanted(self) -> None:
        """Their signature goes with the first call, or alone, in any case."""
        blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
        message = {"content": "ok", "thinking_blocks": blocks}
        hidden = first(answer(choice(message)))["content"]["parts"]
        assert hidden[0] == {"text": "ok"}
        assert open_blocks(hidden[1]["thoughtSignature"]) == blocks
        assert first(answer(choice(message)), SHOWN)["content"]["parts"][0] == {"text": "hm", "thought": True}
        called = first(answer(choice({**message, "tool_calls": CALLS})))["content"]["parts"]
        assert open_blocks(called[1]["thoughtSignature"]) == blocks
        assert called[2]["thoughtSignature"] == "QUI="
        text_alone = first(answer(choice({"content": "ok", "reasoning_content": "hm"})))["content"]["parts"]
        assert text_alone == [{"text": "ok"}]

    @pytest.mark.parametrize(
        ("finish", "fields", "reason"),
        [
            ("stop", {}, "STOP"),
            ("length", {}, "MAX_TOKENS"),
            ("content_filter", {}, "SAFETY"),
            ("malformed_function_call", {}, "MALFORMED_FUNCTION_CALL"),
            (
                "content_filter",
                {"provider_specific_fields": {"native_finish_reason": "RECITATION"}},
                "RECITATION",
            ),
            ("made_up", {}, "STOP"),
            (None, {}, "STOP"),
        ],
    )
    def test_why_it_ended(self, finish: str | None, fields: Json, reason: str) -> None:
        """Google's own reasons pass; OpenAI's have one each."""
        assert first(answer(choice({"content": "a"}, finish, **fields)))["finishReason"] == reason

    def test_a_refusal(self) -> None:
        """Its text stays readable."""
        found = first(answer(choice({"content": None, "refusal": "No."})))
        assert (found["content"]["parts"], found["finishReason"], found["finishMessage"]) == (
            [{"text": "No."}],
            "SAFETY",
            "No.",
        )

    def test_a_blocked_prompt(self) -> None:
        """Filtered before a token was written: no candidate."""
        blocked = answer(
            choice({"content": None}, "content_filter"), usage={"prompt_tokens": 9, "completion_tokens": 0}
        )
        found = render_answer(blocked, "asked", GeminiContext())
        assert found["promptFeedback"] == {"blockReason": "SAFETY"}
        assert "candidates" not in found
        assert found["usageMetadata"]["promptTokenCount"] == 9

    @pytest.mark.parametrize(
        ("finish", "reason"), [("tool_calls", "MALFORMED_FUNCTION_CALL"), ("length", "MAX_TOKENS")]
    )
    def test_arguments_that_are_no_object(self, finish: str, reason: str) -> None:
        """They are reported, not called."""
        broken = {"id": "c", "type": "function", "function": {"name": "write", "arguments": '{"a":'}}
        found = first(answer(choice({"content": None, "tool_calls": [broken]}, finish)))
        assert (found["finishReason"], found["content"]["parts"]) == (reason, [])
        assert found["finishMessage"] == 'Malformed function call: write({"a":)'

    def test_several_candidates(self) -> None:
        """Each with its index, in any order of theirs."""
        reply = answer(choice({"content": "b"}, "length", 1), choice({"content": "a"}))
        found = render_answer(reply, "asked", GeminiContext(candidates=2))["candidates"]
        assert [(one["index"], one["content"]["parts"][0]["text"], one["finishReason"]) for one in found] == [
            (0, "a", "STOP"),
            (1, "b", "MAX_TOKENS"),
        ]

    def test_log_probabilities_sources_and_images(self) -> None:
        """In Google's fields."""
        token = {"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Ho", "logprob": -1}]}
        cited = {
            "type": "url_citation",
            "url_citation": {"url": "https://a.example", "start_index": 0, "end_index": 2},
        }
        image = {"image_url": {"url": "data:image/png;base64,AA=="}}
        message = {"content": "Hi", "annotations": [cited], "images": [image]}
        found = first(answer(choice(message, logprobs={"content": [token]})))
        assert found["logprobsResult"] == {
            "chosenCandidates": [{"token": "Hi", "logProbability": -0.5}],
            "topCandidates": [{"candidates": [{"token": "Ho", "logProbability": -1}]}],
        }
        assert found["avgLogprobs"] == -0.5
        assert found["citationMetadata"] == {
            "citationSources": [{"startIndex": 0, "endIndex": 2, "uri": "https://a.example"}]
        }
        assert found["content"]["parts"][1] == {"inlineData": {"mimeType": "image/png", "data": "AA=="}}

    @pytest.mark.parametrize("reply", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}'])
    def test_what_is_no_answer_is_the_providers_error(self, reply: bytes) -> None:
        """Never an empty answer."""
        with pytest.raises(ProviderFailed):
            render_answer(reply, "asked", GeminiContext())


class TestStreamed:
    """Streams."""

    DELTAS: tuple[Json, ...] = (
        {"role": "assistant", "content": ""},
        {"thinking_blocks": [{"type": "thinking", "thinking": "h"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "m", "signature": "s"}]},
        {"content": "He"},
        {"content": "llo \u00fc"},
        {"tool_calls": [{**CALLS[0], "function": {"name": "look_up", "arguments": '{"a":'}}]},
        {"tool_calls": [CALLS[1]]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"b"}'}}]},
    )

    @given(step=st.integers(1, 400), array=st.booleans(), shows=st.booleans())
    def test_any_chunking_gives_the_same_chunks(self, step: int, *, array: bool, shows: bool) -> None:
        """In both framings, and the parts are those of the whole answer."""
        raw = frames(*self.DELTAS, finish="tool_calls")
        context = GeminiContext(is_array=array, shows_thoughts=shows)
        chunks = streamed(raw, context, step)
        assert chunks == streamed(raw, GeminiContext(shows_thoughts=shows), len(raw))
        thinking = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
        message = {"content": "Hello \u00fc", "thinking_blocks": thinking, "tool_calls": CALLS}
        whole = render_answer(
            answer(choice(message, "tool_calls")), "asked", GeminiContext(shows_thoughts=shows)
        )
        texts = "".join(part["text"] for part in all_parts(chunks) if "text" in part)
        assert texts == "".join(part["text"] for part in all_parts([whole]) if "text" in part)
        calls = [part for part in all_parts(chunks) if "functionCall" in part]
        assert calls == [part for part in all_parts([whole]) if "functionCall" in part]
        last, *before = reversed(chunks)
        assert last["candidates"][0]["finishReason"] == "STOP"
        assert last["usageMetadata"] == whole["usageMetadata"] == COUNTED
        assert all(
            "finishReason" not in one["candidates"][0] and "usageMetadata" not in one for one in before
        )
        assert {(one["responseId"], one["modelVersion"]) for one in chunks} == {("x", "asked")}

    def test_candidates_side_by_side(self) -> None:
        """Each chunk says whose it is."""
        raw = b"".join(
            sse.encode_event(
                orjson.dumps({"id": "x", "choices": [{"index": at, "delta": {"content": text}}]})
            )
            for at, text in ((1, "b"), (0, "a"), (1, "B"))
        )
        chunks = streamed(raw, GeminiContext(candidates=2))
        texts = ["".join(part["text"] for part in all_parts(chunks, index)) for index in (0, 1)]
        assert texts == ["a", "bB"]
        assert [one["index"] for one in chunks[-1]["candidates"]] == [0, 1]

    def test_a_blocked_prompt(self) -> None:
        """One chunk, without a candidate."""
        raw = frames(finish="content_filter", usage={"prompt_tokens": 9, "completion_tokens": 0})
        (chunk,) = streamed(raw)
        assert chunk["promptFeedback"] == {"blockReason": "SAFETY"}

    @pytest.mark.parametrize("array", [True, False])
    def test_a_failed_stream_ends_in_its_error(self, array: bool) -> None:  # noqa: FBT001 -- a parameter
        """In place of the last chunk; an array is closed."""
        stream = GeminiStream("asked", GeminiContext(is_array=array))
        raw = frames({"content": "a"})
        out = stream.feed(raw[: raw.index(b"\n\n") + 2]) + stream.fail(UpstreamTimeout("Too late."))
        chunks = (
            orjson.loads(out)
            if array
            else [orjson.loads(sse.parse_event(one).data or b"") for one in sse.SSEDecoder().feed(out)]
        )
        assert [one["text"] for one in all_parts(chunks[:-1])] == ["a"]
        assert chunks[-1] == render_error(UpstreamTimeout("Too late."))

    def test_native_chunks_pass_or_become_items(self) -> None:
        """Byte for byte."""
        raw = b'data: {"a": 1}\n\ndata: {"b":2}\n\n'
        events = NativeGeminiStream(GeminiContext(is_native=True))
        assert events.feed(raw) + events.end(META) == raw
        for step in (1, 5, 100):
            items = NativeGeminiStream(GeminiContext(is_native=True, is_array=True))
            out = b"".join(items.feed(raw[at : at + step]) for at in range(0, len(raw), step)) + items.end(
                META
            )
            assert out == b'[{"a": 1},\r\n{"b":2}]'


class TestUnwrapped:
    """Structured output whose root is no object."""

    VALUES = st.recursive(
        st.booleans() | st.integers(-9, 9) | st.text('ab} {"\\:', max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab}", max_size=2), inner),
        max_leaves=6,
    )

    @given(value=VALUES, step=st.integers(1, 9), spaces=st.sampled_from(["", " ", "\n  "]))
    def test_any_value_in_any_chunking(self, value: Any, step: int, spaces: str) -> None:
        """The same JSON, streamed and whole."""
        text = f'{spaces}{{{spaces}"value"{spaces}:{spaces}{orjson.dumps(value).decode()}{spaces}}}{spaces}'
        context = GeminiContext(unwraps="json")
        raw = frames(*({"content": text[at : at + step]} for at in range(0, len(text), step)))
        joined = "".join(part["text"] for part in all_parts(streamed(raw, context)))
        assert orjson.loads(joined) == value
        assert first(answer(choice({"content": text})), context)["content"]["parts"] == [{"text": joined}]

    @pytest.mark.parametrize(
        ("unwraps", "text", "shown"),
        [
            ("word", '{"value": "Oslo"}', "Oslo"),
            ("word", '"Oslo"', "Oslo"),
            ("word", "Oslo", "Oslo"),
            ("json", '{"value": [1, {"a": 2', '[1, {"a": 2'),
            ("json", "I cannot.", "I cannot."),
            ("json", "[1]", "[1]"),
            ("", '{"value": 1}', '{"value": 1}'),
        ],
    )
    def test_what_a_model_says_else(self, unwraps: Unwraps, text: str, shown: str) -> None:
        """Passes as it is; what was cut off stays readable."""
        context = GeminiContext(unwraps=unwraps)
        assert first(answer(choice({"content": text})), context)["content"]["parts"] == [{"text": shown}]
        assert (
            "".join(part["text"] for part in all_parts(streamed(frames({"content": text}), context))) == shown
        )


class TestErrors:
    """Google's envelope."""

    @pytest.mark.parametrize(
        ("error", "state"),
        [
            (BadRequest("No."), "INVALID_ARGUMENT"),
            (Unauthorized("No."), "UNAUTHENTICATED"),
            (RateLimited("Slow down."), "RESOURCE_EXHAUSTED"),
            (UpstreamTimeout("Late."), "DEADLINE_EXCEEDED"),
            (ProviderFailed("Broken."), "UNAVAILABLE"),
        ],
    )
    def test_states(self, error: APIError, state: str) -> None:
        """One for each status, beside it."""
        body = render_error(error)["error"]
        assert (body["code"], body["status"]) == (error.status, state)
        assert body["message"].startswith(error.message)

    def test_details(self) -> None:
        """When to come back, which field, which budget."""
        kinds = [
            {one["@type"].rpartition(".")[2]: one for one in render_error(error)["error"]["details"]}
            for error in (
                RateLimited("Slow down.", retry_after_s=12.2),
                BadRequest("Invalid 'max_tokens': no.", param="max_tokens", code="x"),
                BudgetExceeded("Spent."),
            )
        ]
        assert kinds[0]["RetryInfo"]["retryDelay"] == "13s"
        violation = kinds[1]["BadRequest"]["fieldViolations"][0]
        assert violation["field"] == "generationConfig.maxOutputTokens"
        assert violation["description"] == "Invalid 'generationConfig.maxOutputTokens': no."
        assert kinds[2]["QuotaFailure"]["violations"][0]["description"] == "Spent."

    def test_a_key_has_its_place(self) -> None:
        """Not in an address."""
        assert "x-goog-api-key" in render_error(Unauthorized("No key."))["error"]["message"]
