"""Any body is a call or an error of ours, and any answer Google's or an error: never another exception."""

import random
from contextlib import suppress
from dataclasses import replace

import orjson
import pytest
from unit.dialects.test_mutated_bodies import MODELS, ODD, changed, places

from llm_proxy.dialects import Dialect
from llm_proxy.dialects.dialect import BodyLimits, ResponseMeta
from llm_proxy.dialects.gemini.dialect import GENERATE_CONTENT, STREAM_GENERATE_CONTENT
from llm_proxy.dialects.gemini.embeddings import BATCH_EMBED_CONTENTS
from llm_proxy.dialects.gemini.request import GeminiContext
from llm_proxy.dialects.gemini.stream import GeminiStream
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json
from llm_proxy.upstream.content_stream import ContentStreamFilter

PNG = {"mimeType": "image/png", "data": "iVBORw0KGgo=", "displayName": "n"}
EVERYTHING: Json = {
    "model": "models/m",
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "hi", "partMetadata": {"a": 1}},
                {"inlineData": PNG, "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"}},
                {"inlineData": {"mimeType": "text/plain", "data": "aGk="}},
                {"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.org/a.pdf"}},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "t", "thought": True},
                {"text": "a"},
                {"functionCall": {"id": "c", "name": "f", "args": {"a": [1]}}, "thoughtSignature": "QUJD"},
            ],
        },
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "id": "c",
                        "name": "f",
                        "response": {"output": {"a": 1}},
                        "parts": [{"inlineData": PNG}],
                    }
                }
            ],
        },
    ],
    "systemInstruction": {"role": "system", "parts": [{"text": "s"}]},
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "f",
                    "description": "d",
                    "behavior": "BLOCKING",
                    "parameters": {
                        "type": "OBJECT",
                        "properties": {
                            "a": {"type": "STRING", "enum": ["x"], "nullable": True, "format": "enum"},
                            "b": {"anyOf": [{"type": "INTEGER", "minimum": 1}, {"type": "NULL"}]},
                        },
                        "propertyOrdering": ["b", "a"],
                        "required": ["a"],
                        "example": {"a": "x"},
                        "defs": {"x": {"type": "STRING"}},
                    },
                    "response": {"type": "ARRAY", "items": {"type": "NUMBER"}, "minItems": "1"},
                },
                {"name": "g", "parametersJsonSchema": {"type": "object"}, "responseJsonSchema": {}},
            ]
        }
    ],
    "toolConfig": {
        "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]},
        "includeServerSideToolInvocations": False,
    },
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
    "generationConfig": {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 5,
        "maxOutputTokens": 100,
        "candidateCount": 2,
        "stopSequences": ["S"],
        "seed": 1,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.1,
        "responseLogprobs": True,
        "logprobs": 2,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
        "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 2000},
        "mediaResolution": "MEDIA_RESOLUTION_LOW",
        "responseModalities": ["TEXT", "IMAGE"],
    },
    "serviceTier": "FLEX",
    "store": False,
}
BATCH: Json = {
    "requests": [
        {
            "model": "models/m",
            "content": {"role": "user", "parts": [{"text": "a"}]},
            "taskType": "RETRIEVAL_QUERY",
            "title": "t",
            "outputDimensionality": 8,
        }
    ]
}
ANSWER: Json = {
    "id": "x",
    "model": "m",
    "created": 1,
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": "a",
                "refusal": "r",
                "reasoning_content": "t",
                "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
                "tool_calls": [
                    {"id": "c", "index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
                "annotations": [{"type": "url_citation", "url_citation": {"url": "u", "start_index": 1}}],
                "images": [{"image_url": {"url": "data:image/png;base64,AA=="}}],
            },
            "logprobs": {"content": [{"token": "a", "logprob": -1, "top_logprobs": [{"token": "b"}]}]},
            "provider_specific_fields": {"native_finish_reason": "STOP"},
        }
    ],
    "usage": {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    },
}
CHUNK: Json = {
    "candidates": [
        {"content": {"parts": [{"text": "a"}], "role": "model"}, "finishReason": "STOP", "index": 0}
    ],
    "promptFeedback": {"blockReason": "SAFETY"},
    "usageMetadata": {
        "promptTokenCount": 1,
        "candidatesTokenCount": 2,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1}],
    },
}
SHOWN = GeminiContext(shows_thoughts=True)


@pytest.mark.parametrize("model", ["m", "claude", "native"])
@pytest.mark.parametrize(
    ("dialect", "endpoint", "body"),
    [(GENERATE_CONTENT, "generate_content", EVERYTHING), (BATCH_EMBED_CONTENTS, "embeddings", BATCH)],
    ids=["contents", "embeddings"],
)
def test_any_odd_value_at_any_place(dialect: Dialect, endpoint: Endpoint, body: Json, model: str) -> None:
    """A call, which can be sent, or an error, which can be rendered."""
    options = replace(NO_OPTIONS, model=model)
    if body is BATCH:
        body = {"requests": [one | {"model": f"models/{model}"} for one in body["requests"]]}
    refused, sent = list[bytes](), list[bytes]()
    for place in places(body):
        for value in ODD:
            raw = orjson.dumps(changed(body, place, value))
            try:
                call = dialect.parse(endpoint, raw, options, MODELS, BodyLimits(max_tokens_cap=50))
            except APIError as error:
                refused.append(orjson.dumps(dialect.error(error)))
            else:
                sent.append(orjson.dumps(call.body))
            if dialect is GENERATE_CONTENT:
                counted(raw, model)
    assert len(sent) > 5
    assert len(refused) > 25


def counted(raw: bytes, model: str) -> None:
    """A count, or an error."""
    try:
        count = GENERATE_CONTENT.parse_count(raw, replace(NO_OPTIONS, model=model), MODELS, BodyLimits())
    except APIError:
        return
    assert orjson.dumps(count.body)


def test_any_odd_value_in_an_answer() -> None:
    """Whole, or as a frame."""
    call = STREAM_GENERATE_CONTENT.parse(
        "generate_content",
        b'{"contents":[{"parts":[{"text":"a"}]}]}',
        replace(NO_OPTIONS, model="m"),
        MODELS,
        BodyLimits(),
    )
    for context in (SHOWN, GeminiContext(candidates=2, is_array=True)):
        requested = call._replace(context=context)
        for place in places(ANSWER):
            for value in ODD:
                odd = changed(ANSWER, place, value)
                raw = orjson.dumps(odd)
                with suppress(APIError):
                    assert orjson.loads(GENERATE_CONTENT.render(requested, raw, ResponseMeta()))
                frame = raw.replace(b'"message":', b'"delta":')
                stream = GeminiStream("m", context)
                assert stream.feed(b"data: " + frame + b"\n\n") + stream.end(ResponseMeta())


def test_any_odd_value_in_a_chunk() -> None:
    """It passes, or the stream is malformed."""
    for place in places(CHUNK):
        for value in ODD:
            filtered = ContentStreamFilter()
            frame = b"data: " + orjson.dumps(changed(CHUNK, place, value)) + b"\n\n"
            out = filtered.feed(frame) + filtered.last_event
            assert (out == frame) is not filtered.is_malformed


def test_any_bytes_in_any_chunking() -> None:
    """As a stream of chats, and as one of Google's."""
    made = random.Random(20261127)  # noqa: S311 -- not for a secret
    pieces = [
        b"data: ",
        b"{",
        b"}",
        b"\n\n",
        b"\r\n",
        b'"choices"',
        b":",
        b"[",
        b"]",
        b'"error"',
        b"\xff",
        b"0",
    ]
    for _ in range(300):
        raw = b"".join(made.choices(pieces, k=40))
        stream, filtered = GeminiStream("m", SHOWN), ContentStreamFilter()
        for at in range(0, len(raw), 3):
            stream.feed(raw[at : at + 3])
            filtered.feed(raw[at : at + 3])
        assert stream.end(ResponseMeta())
        assert filtered.close() == b""
