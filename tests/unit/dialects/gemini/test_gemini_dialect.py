"""The dialect of Google's API: a body, its path and its query, as a call."""

from typing import Any

import orjson
import pytest

from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.gemini.dialect import GENERATE_CONTENT, STREAM_GENERATE_CONTENT, GeminiDialect
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.errors import BadRequest

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
        asked = self.parse(GENERATE_CONTENT, generationConfig={"temperature": 0.2, "topP": 0.5})
        assert not {"temperature", "top_p"} & set(asked.optional_fields)
