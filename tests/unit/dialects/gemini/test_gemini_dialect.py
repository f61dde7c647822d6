"""The dialect of Google's API: a body, its path and its query, as a call."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta
from llm_proxy.dialects.gemini.dialect import GENERATE_CONTENT, STREAM_GENERATE_CONTENT, GeminiDialect
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.endpoints import Wire
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json

HELLO = [{"role": "user", "parts": [{"text": "Hi"}]}]
MODELS = ModelIndex("d", {"gpt": frozenset({"openai"})})


class TestTranslated:
    """Where a provider speaks chat."""

    @staticmethod
    def parse(dialect: GeminiDialect, query: str = "", **fields: Any) -> Any:
        """The call of a body for `gpt`."""
        body = orjson.dumps({"contents": HELLO, **fields})
        options = RequestOptions(model="gpt", query=query)
        return dialect.parse("generate_content", body, options, MODELS, BodyLimits(max_tokens_cap=50))

    def test_the_path_names_the_model(self) -> None:
        """The body's name does not count; a key's cap holds."""
        call_ = self.parse(GENERATE_CONTENT, model="models/other")
        assert (call_.endpoint, call_.model, call_.body["model"]) == ("chat.completions", "gpt", "gpt")
        assert (call_.max_tokens, call_.body["max_tokens"], call_.streaming) == (50, 50, False)

    @pytest.mark.parametrize(
        ("query", "content_type"),
        [
            ("alt=sse", "text/event-stream; charset=utf-8"),
            ("key=x&%24alt=sse", "text/event-stream; charset=utf-8"),
            ("", "application/json; charset=utf-8"),
            ("alt=json", "application/json; charset=utf-8"),
        ],
    )
    def test_a_stream_has_two_forms(self, query: str, content_type: str) -> None:
        """Events, or one array."""
        call_ = self.parse(STREAM_GENERATE_CONTENT, query)
        assert (call_.streaming, call_.stream_type) == (True, content_type)
        assert call_.body["stream_options"] == {"include_usage": True}

    def test_another_form_is_refused(self) -> None:
        """Google has no third that is JSON."""
        with pytest.raises(BadRequest) as caught:
            self.parse(STREAM_GENERATE_CONTENT, "alt=proto")
        assert caught.value.param == "alt"

    def test_what_clients_send_unasked_is_optional(self) -> None:
        """A model that has no such field is called without it."""
        usual = self.parse(GENERATE_CONTENT, generationConfig={"temperature": 1, "topP": 0.95})
        assert {"temperature", "top_p"} <= set(usual.optional_fields)
        call = self.parse(GENERATE_CONTENT, generationConfig={"temperature": 0.2, "topP": 0.5})
        assert not {"temperature", "top_p"} & set(call.optional_fields)


def _natively(_group: str, _wire: Wire) -> bool:
    return True


class TestNative:
    """Where every provider speaks Google's API."""

    @staticmethod
    def parse(
        dialect: GeminiDialect = GENERATE_CONTENT, query: str = "", cap: int | None = None, **fields: Any
    ) -> Call:
        """The call of a body for `gpt`, which is native here."""
        body = orjson.dumps({"contents": HELLO, **fields})
        models = replace(MODELS, speaks_natively=_natively)
        options = RequestOptions(model="gpt", query=query)
        return dialect.parse("generate_content", body, options, models, BodyLimits(max_tokens_cap=cap))

    def test_a_body_passes(self) -> None:
        """But for the model, which the path names; below the top its spelling stays."""
        fields: Json = {"tools": [{"google_search": {}}], "labels": {"a_b": "c"}, "newField": 1}
        call = self.parse(model="models/other", system_instruction={"parts": []}, **fields)
        assert call.endpoint == "generate_content"
        own: Json = {"contents": HELLO, "systemInstruction": {"parts": []}, **fields, "model": "gpt"}
        assert (call.body, call.streaming) == (own, False)

    @pytest.mark.parametrize(
        ("config", "sent", "most"),
        [
            ({}, {"maxOutputTokens": 50}, 50),
            ({"max_output_tokens": "20", "topK": 2}, {"maxOutputTokens": 20, "topK": 2}, 20),
            ({"maxOutputTokens": 70.0}, {"maxOutputTokens": 50}, 50),
        ],
    )
    def test_a_keys_cap_holds(self, config: dict[str, Any], sent: dict[str, Any], most: int) -> None:
        """In either spelling."""
        call = self.parse(cap=50, generationConfig=config)
        assert (call.body["generationConfig"], call.max_tokens) == (sent, most)
        assert self.parse(cap=50).body["generationConfig"] == {"maxOutputTokens": 50}

    @pytest.mark.parametrize(
        "fields",
        [
            {"cachedContent": "cachedContents/a"},
            {"cached_content": "cachedContents/a"},
            {"contents": [{"parts": [{"file_data": {"file_uri": "files/abc"}}]}]},
            {"contents": [{"parts": {"fileData": {"fileUri": "http://10.0.0.1/a"}}}]},
            {"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}},
            {"generationConfig": {"maxOutputTokens": -1}},
            {"generationConfig": {"routing_config": {"autoMode": {}}}},
            {"tools": [{"file_search": {"fileSearchStoreNames": ["fileSearchStores/a"]}}]},
            {"tools": {"retrieval": {"vertexRagStore": {}}}},
            {"generationConfig": {"candidateCount": 900}},
            {"stream": True},
            {"api_base": "https://a.example"},
            {"litellm_params": {}},
        ],
    )
    def test_what_no_caller_may_send(self, fields: dict[str, Any]) -> None:
        """The provider is not called."""
        with pytest.raises(BadRequest):
            self.parse(**fields)

    def test_what_a_tool_was_given_is_no_link(self) -> None:
        """Arguments and responses are the caller's own."""
        given = {"fileUri": "http://10.0.0.1/a", "url": "http://10.0.0.1/"}
        parts = [{"functionCall": {"name": "f", "args": given}}, {"text": "http://10.0.0.1/"}]
        answered = [{"functionResponse": {"name": "f", "response": given}}]
        contents = [{"role": "model", "parts": parts}, {"role": "user", "parts": answered}]
        assert self.parse(contents=contents).body["contents"] == contents

    def test_files_count_little_as_a_prompt(self) -> None:
        """Their bytes are no text."""
        data = {"inlineData": {"mimeType": "image/png", "data": "A" * 5000}}
        assert self.parse(contents=[{"parts": [data]}]).prompt_bytes < 500

    @pytest.mark.parametrize(("query", "is_array"), [("alt=sse", False), ("", True)])
    def test_a_stream(self, query: str, is_array: bool) -> None:  # noqa: FBT001 -- a parameter
        """Its answers pass in the form that was requested; candidates are reserved for."""
        call = self.parse(STREAM_GENERATE_CONTENT, query, generationConfig={"candidateCount": 3})
        assert (call.streaming, call.body["stream"], call.choices) == (True, True, 3)
        assert call.stream_type.startswith("application/json" if is_array else "text/event-stream")
        stream = STREAM_GENERATE_CONTENT.open_stream(call)
        out = stream.feed(b'data: {"a":1}\n\n') + stream.end(ResponseMeta())
        assert out == (b'[{"a":1}]' if is_array else b'data: {"a":1}\n\n')
        assert GENERATE_CONTENT.render(call, b"{ }", ResponseMeta()) == b"{ }"
