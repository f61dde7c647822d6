"""What is kept in the operator's account at Google is read by no caller, in whatever words it is named."""

from base64 import urlsafe_b64encode
from typing import Any

import orjson
import pytest

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.messages.dialect import MessagesDialect
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request.kept_at_google import names_kept
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json

MODELS = ModelIndex(
    "d",
    {name: frozenset({name}) for name in ("openai", "vertex_ai", "gemini")}
    | {"safe": frozenset({"openai"}), "nick": frozenset({"gemini"})},
    wildcards={"gemini/*": frozenset({"gemini"})},
    aliases={"nick": "gemini"},
    fallback_providers=lambda group: frozenset({"gemini"}) if group == "safe" else frozenset(),
)
BUCKET, FILE = "gs://bucket/secret.pdf", "https://generativelanguage.googleapis.com/v1beta/files/abc"
MANAGED = urlsafe_b64encode(f"litellm_proxy:application/pdf;llm_output_file_id,{BUCKET};".encode()).decode()
ROUTED = "file-" + urlsafe_b64encode(f"litellm:{BUCKET};model,x".encode()).decode()


def parse(model: str, body: Json, endpoint: Endpoint = "chat.completions") -> Call:
    """The call of a body in OpenAI's words."""
    raw = orjson.dumps({"model": model, **body})
    return OPENAI.parse(endpoint, raw, NO_OPTIONS, MODELS, BodyLimits(private_urls=True))


def part(kind: str, value: Any) -> Json:
    """A chat with one part."""
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: value}]}]}


KEPT = [
    *(BUCKET, " gs://b/a", "GS://b/a", "gs:/b", "files/abc", "Files/a", "cachedContents/a", FILE),
    *(FILE + "?alt=media", FILE + "#a", FILE.upper(), FILE.replace("files", "%66iles"), "\u200bgs://b/a"),
    FILE.replace("https://", "https://storage.googleapis.com@"),
    FILE.replace(".com", ".com.:443"),
    "https://us-central1-aiplatform.googleapis.com/v1/projects/p",
    "https://www.googleapis.com/drive/v3/files/a?alt=media",
    "https:\\\\generativelanguage.googleapis.com\\v1beta\\files\\a",
]
OPEN = [
    *(
        "a text of gs://b/a",
        "filesystem",
        "files",
        "https://example.com/files/a.png",
        "data:image/png;base64,AA",
    ),
    *("https://storage.googleapis.com/b/files/a.png", "https://maps.googleapis.com/maps/api/staticmap?a=b"),
    *("https://generativelanguage.googleapis.com.example.com/a", "https://example.com/?u=" + FILE),
    *("https://example.com/generativelanguage.googleapis.com/a", "https://www.youtube.com/watch?v=a"),
]


def test_names() -> None:
    """By the most lenient reading; a public link is none."""
    assert [one for one in KEPT if not names_kept(one)] == []
    assert [one for one in OPEN if names_kept(one)] == []


class TestEmbeddings:
    """LiteLLM takes such an input for the file."""

    @pytest.mark.parametrize("model", ["gemini", "vertex_ai", "safe", "nick", "gemini/new"])
    @pytest.mark.parametrize("name", [BUCKET, "files/abc", FILE])
    def test_an_input_is_refused_where_google_may_be_reached(self, model: str, name: str) -> None:
        """By its place."""
        for given, path in ((name, "input"), (["a", name], "input[1]")):
            with pytest.raises(BadRequest) as caught:
                parse(model, {"input": given}, "embeddings")
            assert caught.value.param == path
            assert path in caught.value.message

    @pytest.mark.parametrize("name", [BUCKET, "files/abc", FILE])
    def test_elsewhere_it_is_a_text(self, name: str) -> None:
        """As it is."""
        assert parse("openai", {"input": [name]}, "embeddings").body["input"] == [name]
        assert parse("gemini", {"input": ["see " + name]}, "embeddings").body["input"] == ["see " + name]


CHATS = [
    (part("image_url", {"url": BUCKET, "format": "image/png"}), "messages[0].content[0].image_url.url"),
    (part("image_url", BUCKET), "messages[0].content[0].image_url"),
    (part("video_url", {"url": BUCKET}), "messages[0].content[0].video_url.url"),
    (part("file", {"file_data": BUCKET}), "messages[0].content[0].file.file_data"),
    *(
        (part("file", {"file_id": one}), "messages[0].content[0].file.file_id")
        for one in (BUCKET, FILE, "files/a", "file-abc", MANAGED, ROUTED)
    ),
    (part("text", "a") | {"cached_content": "cachedContents/a"}, "extra_body.cached_content"),
    (
        part("text", "a") | {"cachedContent": "projects/p/locations/l/cachedContents/a"},
        "extra_body.cachedContent",
    ),
    (
        part("text", "a") | {"contents": [{"parts": [{"fileData": {"fileUri": BUCKET}}]}]},
        "extra_body.contents[0].parts[0].fileData.fileUri",
    ),
    (
        part("text", "a") | {"generationConfig": {"routingConfig": {"manualMode": {"modelName": "m"}}}},
        "extra_body.generationConfig.routingConfig",
    ),
    (
        part("text", "a")
        | {"generation_config": {"model_selection_config": {"featureSelectionPreference": 1}}},
        "extra_body.generation_config.model_selection_config",
    ),
]


class TestChats:
    """A file in a chat."""

    @pytest.mark.parametrize(("body", "path"), CHATS)
    def test_it_is_refused_at_google(self, body: Json, path: str) -> None:
        """LiteLLM's own ids of files too, which hold the name of one."""
        for model in ("gemini", "vertex_ai"):
            with pytest.raises(BadRequest) as caught:
                parse(model, body)
            assert caught.value.param == path
        with pytest.raises(BadRequest):
            parse("safe", body)

    def test_what_a_caller_sends_passes(self) -> None:
        """Links, inline files, and texts about buckets."""
        links = ("https://example.com/a.pdf", "data:application/pdf;base64,AA")
        files = [part("file", {name: link}) for name in ("file_id", "file_data") for link in links]
        texts: list[Json] = [{"messages": [{"role": "user", "content": BUCKET}]}, part("text", BUCKET)]
        for chat in (*files, *texts):
            assert parse("gemini", chat).body == {"model": "gemini", **chat}
        config = {"generationConfig": {"topK": 4}}
        assert parse("gemini", texts[1] | config).body["extra_body"] == config
        chat = part("file", {"file_id": "file-abc"})
        assert parse("openai", chat).body == {"model": "openai", **chat}

    def test_a_translated_message(self) -> None:
        """Of Anthropic's API."""
        source = {"type": "image", "source": {"type": "url", "url": FILE}}
        body = {"model": "gemini", "max_tokens": 9, "messages": [{"role": "user", "content": [source]}]}
        with pytest.raises(BadRequest):
            MessagesDialect().parse("messages", orjson.dumps(body), NO_OPTIONS, MODELS, BodyLimits())


def test_images_of_an_edit() -> None:
    """Its links."""
    with pytest.raises(BadRequest) as caught:
        parse("gemini", {"prompt": "p", "images": [{"image_url": BUCKET}]}, "images.edits")
    assert caught.value.param == "images[0].image_url"
