"""Google's embeddings, as bodies and answers; and its lists of models."""

from typing import Any

import orjson
import pytest

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, ListedModel, ModelIndex, ResponseMeta
from llm_proxy.dialects.gemini.embeddings import BATCH_EMBED_CONTENTS, EMBED_CONTENT, GeminiEmbeddingsDialect
from llm_proxy.dialects.gemini.models import model_page
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.errors import BadRequest, ProviderFailed
from llm_proxy.json_access import Json

META = ResponseMeta()
MODELS = ModelIndex("d", {"vectors": frozenset({"openai"}), "google": frozenset({"gemini"})})


def parse(dialect: GeminiEmbeddingsDialect, model: str = "vectors", /, **body: Any) -> Call:
    """The call of a body."""
    raw = orjson.dumps(body)
    return dialect.parse("embeddings", raw, RequestOptions(model=model), MODELS, BodyLimits())


def content(*texts: str) -> Json:
    """A content of these texts."""
    return {"parts": [{"text": one} for one in texts]}


def answer(*vectors: list[float]) -> bytes:
    """An answer of OpenAI's, its vectors in another order."""
    data = [{"index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return orjson.dumps({"object": "list", "data": data[::-1], "usage": {"prompt_tokens": 3}})


FAULTS: list[tuple[Json, str]] = [
    ({}, "requests"),
    ({"requests": []}, "requests"),
    ({"requests": [{}]}, "requests[0].content"),
    ({"requests": [{"content": {"parts": []}}]}, "requests[0].content"),
    (
        {"requests": [{"content": {"parts": [{"inlineData": {"mimeType": "a/b", "data": "AA=="}}]}}]},
        "requests[0].content.parts[0]",
    ),
    (
        {"requests": [{"content": content("a")}, {"content": content("b"), "title": "t"}]},
        "requests[1].title",
    ),
    (
        {"requests": [{"content": content("a")}, {"content": content("b"), "model": "models/google"}]},
        "requests[1].model",
    ),
]


class TestBodies:
    """What becomes of a body."""

    def test_one_content(self) -> None:
        """Its parts are one text; the task goes to Google alone."""
        body = {"content": content("a", "b"), "task_type": "RETRIEVAL_QUERY", "outputDimensionality": 8}
        assert parse(EMBED_CONTENT, **body).body == {"model": "vectors", "input": ["a\nb"], "dimensions": 8}
        at_google = parse(EMBED_CONTENT, "google", **body, title="t").body
        assert (at_google["task_type"], at_google["title"]) == ("RETRIEVAL_QUERY", "t")

    @pytest.mark.parametrize(
        "text", ["files/abc", "https://generativelanguage.googleapis.com/v1beta/files/abc"]
    )
    def test_a_text_that_names_a_file_at_google(self, text: str) -> None:
        """LiteLLM would embed the operator's file; elsewhere it is a text."""
        with pytest.raises(BadRequest):
            parse(EMBED_CONTENT, "google", content=content(text))
        assert parse(EMBED_CONTENT, content=content(text)).body["input"] == [text]

    def test_a_batch(self) -> None:
        """One input a request; a request may name the path's model."""
        named: list[Json] = [{"model": "models/vectors"}, {"model": "vectors"}, {"model": ""}, {}]
        requests = [one | {"content": content(text)} for one, text in zip(named, "abcd", strict=True)]
        assert parse(BATCH_EMBED_CONTENTS, requests=requests).body["input"] == ["a", "b", "c", "d"]

    @pytest.mark.parametrize(("body", "path"), FAULTS)
    def test_what_is_refused(self, body: Json, path: str) -> None:
        """By its path."""
        with pytest.raises(BadRequest) as caught:
            parse(BATCH_EMBED_CONTENTS, **body)
        assert caught.value.param == path


class TestAnswers:
    """What becomes of an answer."""

    def test_vectors(self) -> None:
        """In the order of the requests."""
        call = parse(BATCH_EMBED_CONTENTS, requests=[{"content": content(one)} for one in "ab"])
        found = orjson.loads(BATCH_EMBED_CONTENTS.render(call, answer([0.1], [0.2]), META))
        assert found["embeddings"] == [{"values": [0.1]}, {"values": [0.2]}]
        assert found["usageMetadata"]["promptTokenCount"] == 3
        one = parse(EMBED_CONTENT, content=content("a"))
        assert orjson.loads(EMBED_CONTENT.render(one, answer([0.5]), META))["embedding"] == {"values": [0.5]}

    @pytest.mark.parametrize("reply", [b"", b"[]", b"{}", answer([0.1], [0.2]), b'{"data":[{}]}'])
    def test_what_is_no_answer_is_the_providers_error(self, reply: bytes) -> None:
        """Nor are too many vectors."""
        with pytest.raises(ProviderFailed):
            EMBED_CONTENT.render(parse(EMBED_CONTENT, content=content("a")), reply, META)


class TestModels:
    """Google's list."""

    LISTED = (
        ListedModel("a/b", context_window=9, max_output_tokens=4, endpoints=("/v1/chat/completions",)),
        ListedModel("c", endpoints=("/v1/embeddings",)),
        ListedModel("d", endpoints=("/v1/rerank",)),
    )

    def test_a_model(self) -> None:
        """With its sizes and what it can do."""
        chats, vectors, rerank = model_page(self.LISTED, {})["models"]
        assert (chats["name"], chats["inputTokenLimit"], chats["outputTokenLimit"]) == ("models/a/b", 9, 4)
        assert "streamGenerateContent" in chats["supportedGenerationMethods"]
        assert vectors["supportedGenerationMethods"] == ["embedContent", "batchEmbedContents"]
        assert rerank["supportedGenerationMethods"] == []

    def test_pages(self) -> None:
        """By size and token, until the last."""
        first = model_page(self.LISTED, {"pageSize": "2"})
        last = model_page(self.LISTED, {"pageSize": "2", "pageToken": first["nextPageToken"]})
        names = [one["name"] for page in (first, last) for one in page["models"]]
        assert names == ["models/a/b", "models/c", "models/d"]
        assert "nextPageToken" not in last

    @pytest.mark.parametrize("query", [{"pageSize": "x"}, {"pageToken": "-1"}])
    def test_a_wrong_page(self, query: dict[str, str]) -> None:
        """It names the field."""
        with pytest.raises(BadRequest):
            model_page(self.LISTED, query)
