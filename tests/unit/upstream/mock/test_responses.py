"""Mock mode answers every endpoint in OpenAI's shape, the same each time."""

import json
import struct
import wave
from base64 import b64decode
from io import BytesIO
from math import isclose
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy import sse
from llm_proxy.dialects import Call
from llm_proxy.dialects.cohere import COHERE
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.endpoints import Endpoint
from llm_proxy.quantities import USAGE_COMMENT, Quantities
from llm_proxy.uploads import UnnamedFile, UploadedFile
from llm_proxy.upstream.mock.responses import CannedReply, example_of_schema, reply_to
from llm_proxy.upstream.token_usage import stated_usage

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}},
        },
    },
}


def _call(endpoint: Endpoint = "chat.completions", **body: Any) -> Call:
    if endpoint == "chat.completions":
        body.setdefault("messages", [{"role": "user", "content": "Say hello"}])
    asked = orjson.dumps({"model": "mock", **body})
    return OPENAI.parse(endpoint, asked, RequestOptions(), ModelIndex(), BodyLimits())


def _json(reply: CannedReply) -> Any:
    return orjson.loads(reply.body)


def _events(reply: CannedReply) -> list[Any]:
    assert reply.frames[-1] == sse.DONE_EVENT
    return [orjson.loads(sse.parse_event(frame).data or b"") for frame in reply.frames[:-1]]


def test_an_answer_depends_on_the_call_alone() -> None:
    """The same call gets the same answer."""
    assert reply_to(_call()) == reply_to(_call())
    assert reply_to(_call()) != reply_to(_call(seed=1))


def test_a_chat_echoes_the_prompt_and_states_its_usage() -> None:
    """Text, finish reason and tokens are where OpenAI has them."""
    reply = _json(reply_to(_call()))
    assert reply["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Mock answer to: Say hello",
        "refusal": None,
    }
    assert reply["choices"][0]["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_a_stream_has_the_content_of_the_json() -> None:
    """The joined chunks are the message; the usage frame is last, without choices."""
    events = _events(reply_to(_call(stream=True)))
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"])
    whole = _json(reply_to(_call()))
    assert whole["choices"][0]["message"]["content"] == text
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_tool_is_called_with_valid_arguments(stream: bool) -> None:  # noqa: FBT001 -- parametrized
    """`tool_choice` naming a tool, or `required`, gives a call of it; `auto` does not."""
    for choice in ({"type": "function", "function": {"name": "weather"}}, "required"):
        reply = reply_to(_call(tools=[WEATHER], tool_choice=choice, stream=stream))
        if stream:
            deltas = [e["choices"][0]["delta"] for e in _events(reply) if e["choices"]]
            called = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
            name, arguments = called[0]["function"]["name"], called[1]["function"]["arguments"]
        else:
            function = _json(reply)["choices"][0]["message"]["tool_calls"][0]["function"]
            name, arguments = function["name"], function["arguments"]
        assert name == "weather"
        assert orjson.loads(arguments) == {"city": "mock", "unit": "celsius"}
    assert "tool_calls" not in _json(reply_to(_call(tools=[WEATHER])))["choices"][0]["message"]


def test_mock_tools_calls_once_and_then_answers() -> None:
    """The model `mock-tools` plays one round of an agent's loop by itself."""
    first = _json(reply_to(_call(model="mock-tools", tools=[WEATHER])))["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "12 degrees"}
    messages = [{"role": "user", "content": "Weather?"}, first, result]
    second = _json(reply_to(_call(model="mock-tools", tools=[WEATHER], messages=messages)))["choices"][0]
    assert second["finish_reason"] == "stop"


def test_structured_output_has_the_properties_of_its_schema() -> None:
    """Of `json_schema` the top level is filled; `json_object` is an object."""
    schema = {
        "type": "object",
        "properties": {
            "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}},
            "done": {"type": "boolean"},
            "why": {"type": ["string", "null"]},
        },
        "$defs": {"step": {"type": "object"}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "plan", "schema": schema}}
    content = _json(reply_to(_call(response_format=wanted)))["choices"][0]["message"]["content"]
    assert orjson.loads(content) == {"steps": [], "done": True, "why": None}
    content = _json(reply_to(_call(response_format={"type": "json_object"})))["choices"][0]["message"][
        "content"
    ]
    assert isinstance(orjson.loads(content), dict)


def test_max_tokens_and_n_are_respected() -> None:
    """A short answer ends in `length`; there are as many choices as requested."""
    choices = _json(reply_to(_call(max_tokens=2, n=3)))["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["length"] * 3


def test_embeddings_are_unit_vectors_that_depend_on_the_text() -> None:
    """`dimensions` and both encodings are honoured; equal texts are equal vectors."""
    plain = _json(reply_to(_call("embeddings", input=["a", "b", "a"], dimensions=16)))["data"]
    first, second, third = (item["embedding"] for item in plain)
    assert first == third != second
    assert len(first) == 16
    assert isclose(sum(x * x for x in first), 1.0, rel_tol=1e-6)
    packed = _json(reply_to(_call("embeddings", input="a", dimensions=16, encoding_format="base64")))["data"]
    unpacked = struct.unpack("<16f", b64decode(packed[0]["embedding"]))
    assert all(isclose(x, y, rel_tol=1e-5) for x, y in zip(first, unpacked, strict=True))


def test_completions_answer_every_prompt() -> None:
    """Each prompt, `n` times, streamed or not."""
    reply = _json(reply_to(_call("completions", prompt=["a", "b"], n=2)))
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    events = _events(reply_to(_call("completions", prompt="a", stream=True)))
    text = "".join(e["choices"][0]["text"] for e in events if e["choices"])
    assert text == "Mock completion of: a"


def test_models_with_a_fault_play_it() -> None:
    """429 with a wait, 500, a slow first byte, a truncated stream."""
    limited = reply_to(_call(model="mock-429"))
    assert (limited.status, dict(limited.headers)["x-llmp-retry-after"]) == (429, "2")
    assert reply_to(_call(model="mock-500")).status == 500
    assert reply_to(_call(model="mock-slow")).first_ms > 1000
    cut = reply_to(_call(model="mock-cut", stream=True))
    assert sse.DONE_EVENT not in cut.frames
    assert b"upstream_stream_cut" in cut.frames[-1]
    assert reply_to(_call(model="mock-cut")).status == 500
    spoken = _call("audio.speech", model="mock-cut", input="Hello!", voice="alloy")
    assert len(reply_to(spoken).frames) == 2, "a short text's only piece, then the cut"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9**15) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "$ref", "anyOf", "enum", "minItems", "minLength", "a"]
            )
            | st.text(max_size=3),
            inner | st.sampled_from(["object", "array", "string", "#", "#/a", "#/properties/a"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_no_schema_is_an_error(schema: Any) -> None:
    """Whatever stands where a schema should, the same JSON value is answered each time."""
    answered = example_of_schema(schema)
    assert orjson.loads(orjson.dumps(answered)) == answered == example_of_schema(schema)


def test_a_schema_that_refers_to_itself_stays_small() -> None:
    """A recursive, wide schema does not multiply."""
    node: dict[str, Any] = {"type": "array", "minItems": 100, "items": {"$ref": "#"}}
    assert len(orjson.dumps(example_of_schema(node))) < 100_000


def test_documents_are_ranked_by_the_query_s_words() -> None:
    """With documents if they are requested, and the search units of the request."""
    documents = ["a dog", {"text": "the red cat"}, "a cat"]
    call = COHERE.parse(
        "rerank",
        orjson.dumps({"model": "mock", "query": "Red cat", "documents": documents, "top_n": 2}),
        RequestOptions(),
        ModelIndex(),
        BodyLimits(),
    )
    reply = reply_to(call)
    assert [one["index"] for one in _json(reply)["results"]] == [1, 2]
    assert dict(reply.headers)["x-llmp-usage"] == '{"search_units":1,"cost":"0"}'


def test_a_text_is_flagged_by_a_word() -> None:
    """Each input has a result with every category."""
    results = _json(reply_to(_call("moderations", input=["fine", "mock-flagged"])))["results"]
    assert [one["flagged"] for one in results] == [False, True]
    assert len(results[0]["categories"]) == len(results[0]["category_scores"]) == 13


def test_images_are_real_and_the_same_for_the_same_prompt() -> None:
    """Whole and streamed, with their tokens."""
    whole = _json(reply_to(_call("images.generations", prompt="a cat", n=2)))
    pictures = [b64decode(one["b64_json"]) for one in whole["data"]]
    assert all(one.startswith(b"\x89PNG") for one in pictures)
    assert whole["usage"]["output_tokens"] == 544
    assert whole == _json(reply_to(_call("images.generations", prompt="a cat", n=2)))
    streamed = reply_to(_call("images.generations", prompt="a cat", stream=True, partial_images=1))
    *frames, comment = streamed.frames
    kinds = [orjson.loads(sse.parse_event(frame).data or b"")["type"] for frame in frames]
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]
    edited = reply_to(_call("images.edits", prompt="a hat", stream=True))
    assert edited.frames[0].startswith(b"event: image_edit.completed\n")
    assert stated_usage(comment.removeprefix(USAGE_COMMENT)) is not None


@pytest.mark.parametrize(
    ("form", "begin", "media"),
    [
        ("mp3", b"\xff\xfb", "audio/mpeg"),
        ("wav", b"RIFF", "audio/wav"),
        ("flac", b"RIFF", "audio/wav"),
        ("pcm", b"\0\0", "audio/pcm"),
    ],
)
def test_speech_is_silence_in_a_known_format(form: str, begin: bytes, media: str) -> None:
    """As long as the text; the media type is what it is."""
    reply = reply_to(_call("audio.speech", input="x" * 45, voice="alloy", response_format=form))
    assert b"".join(reply.frames).startswith(begin)
    assert dict(reply.headers)["content-type"] == media
    if form == "wav":
        with wave.open(BytesIO(b"".join(reply.frames))) as file:
            assert file.getnframes() == 3 * file.getframerate()


def test_speech_as_events_has_the_same_bytes() -> None:
    """And an end that states tokens."""
    fields = {"input": "x" * 45, "voice": "alloy", "response_format": "wav"}
    audio = b"".join(reply_to(_call("audio.speech", **fields)).frames)
    reply = reply_to(_call("audio.speech", **fields, stream_format="sse"))
    *events, done, _ = [orjson.loads(sse.parse_event(one).data or b"{}") for one in reply.frames]
    assert b"".join(b64decode(one["audio"]) for one in events) == audio
    assert done["type"] == "speech.audio.done"


def _transcription(tmp_path: Path, **fields: Any) -> Call:
    stored = UnnamedFile(tmp_path)
    stored.close()
    file = UploadedFile("file", "a.wav", "audio/wav", 32_000, b"", stored)
    call = _call("audio.transcriptions", **fields)
    return call._replace(files=(file,), quantities=Quantities(audio_ms=2000))


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("json", b'{"text":"Mock transcript of a.wav, 32000 bytes."'),
        ("verbose_json", b'{"text":"Mock'),
        ("diarized_json", b'{"text":"Mock'),
        ("text", b"Mock transcript"),
        ("srt", b"1\n00:00:00,000 --> 00:00:02,000\nMock"),
        ("vtt", b"WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nMock"),
    ],
)
def test_a_transcript_is_in_the_requested_format(tmp_path: Path, form: str, begins: bytes) -> None:
    """It names the file; the sidecar's header states its length."""
    reply = reply_to(_transcription(tmp_path, response_format=form))
    assert reply.body.startswith(begins)
    assert '"audio_ms":2000' in dict(reply.headers)["x-llmp-usage"]


def test_a_streamed_transcript_has_the_same_words(tmp_path: Path) -> None:
    """Deltas, then all of it."""
    *deltas, done, _comment = reply_to(_transcription(tmp_path)._replace(streaming=True)).frames
    spoken = "".join(json.loads(one.removeprefix(b"data: "))["delta"] for one in deltas)
    assert (
        json.loads(done.removeprefix(b"data: "))["text"] == spoken == "Mock transcript of a.wav, 32000 bytes."
    )
