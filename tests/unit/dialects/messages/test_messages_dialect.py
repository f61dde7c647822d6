"""The dialect of Messages: native or translated by the group, and what else it renders."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, ListedModel, ModelIndex, ResponseMeta
from llm_proxy.dialects.messages.dialect import MESSAGES, MessagesDialect
from llm_proxy.dialects.messages.models import model_page
from llm_proxy.dialects.request_options import NO_OPTIONS, RequestOptions
from llm_proxy.endpoints import Wire
from llm_proxy.errors import BadRequest, ModelNotFound, RateLimited, UnsupportedMediaType
from llm_proxy.json_access import Json

BETAS = ("claude-code-20250219", "own-2026-01-01")


def _speaks(group: str, endpoint: Wire) -> bool:
    return (group, endpoint) == ("claude", "messages")


MODELS = ModelIndex(
    "gpt",
    {"gpt": frozenset({"openai"}), "claude": frozenset({"anthropic"})},
    aliases={"sonnet": "claude"},
    speaks_natively=_speaks,
)


def body(model: str = "gpt", **fields: Any) -> bytes:
    """A body that says hello."""
    said = {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
    return orjson.dumps({name: value for name, value in {**said, **fields}.items() if value is not None})


def parse(raw: bytes, options: RequestOptions = NO_OPTIONS, dialect: MessagesDialect = MESSAGES) -> Call:
    """The call of a body."""
    return dialect.parse("messages", raw, options, MODELS, BodyLimits(max_tokens_cap=50))


def test_a_translated_call_is_a_chat() -> None:
    call = parse(body(stream=True, metadata={"user_id": "ann"}, thinking={"type": "adaptive"}))
    assert (call.endpoint, call.dialect, call.model, call.group) == (
        "chat.completions",
        "messages",
        "gpt",
        "gpt",
    )
    assert (call.streaming, call.wants_usage, call.max_tokens, call.attribution.user) == (
        True,
        True,
        10,
        "ann",
    )
    assert call.body["messages"] == [{"role": "user", "content": "Hi"}]
    assert "reasoning_effort" in call.optional_fields
    assert call.provider_headers == ()


def test_a_translated_call_asks_for_no_more_than_the_model_can_write() -> None:
    models = replace(MODELS, max_output_tokens={"gpt": 4}.get)
    call = MESSAGES.parse("messages", body("gpt"), NO_OPTIONS, models, BodyLimits())
    assert (call.body["max_tokens"], call.max_tokens) == (4, 4)
    call = MESSAGES.parse("messages", body("claude"), NO_OPTIONS, models, BodyLimits())
    assert call.body["max_tokens"] == 10


def test_a_group_that_falls_back_to_claude_keeps_signatures() -> None:
    thinking: Json = {"type": "thinking", "thinking": "so", "signature": "c2ln"}
    said = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [thinking, {"type": "text", "text": "Hi"}]},
        {"role": "user", "content": "on"},
    ]
    models = replace(MODELS, fallback_providers={"gpt": frozenset({"anthropic"})}.__getitem__)
    call = MESSAGES.parse("messages", body(messages=said), NO_OPTIONS, models, BodyLimits())
    assert call.body["messages"][1]["thinking_blocks"] == [thinking]
    assert "thinking_blocks" in call.optional_fields
    assert "thinking_blocks" not in parse(body(messages=said)).body["messages"][1]


def test_a_native_call_is_its_body() -> None:
    options = RequestOptions(anthropic_version="2026-10-21", anthropic_betas=BETAS)
    raw = body("claude", temperature=1, new_beta={"a": 1}, stream=True, metadata={"user_id": "ann"})
    call = parse(raw, options)
    assert (call.endpoint, call.dialect, call.group, call.streaming) == (
        "messages",
        "messages",
        "claude",
        True,
    )
    assert call.body == {name: value for name, value in orjson.loads(raw).items() if name != "temperature"}
    assert call.provider_headers == (("anthropic-version", "2026-10-21"), ("anthropic-beta", BETAS[0]))
    assert call.attribution.user == "ann"
    widened = parse(raw, options, MessagesDialect(betas=frozenset({"own"})))
    assert widened.provider_headers[1] == ("anthropic-beta", ",".join(BETAS))


def test_what_betas_add_within_a_native_body_is_the_provider_s_to_judge() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Hi", "new": 1}]},
        {"role": "system", "content": "s", "clear_at": {"type": "x"}},
        {"role": "user", "content": "on"},
    ]
    call = parse(body("claude", messages=turns, max_tokens=0))
    assert call.body["messages"] == turns
    assert call.body["max_tokens"] == 0
    with pytest.raises(BadRequest, match=r"^messages\.0\.content\.0\.new: Extra inputs are not permitted"):
        parse(body("gpt", messages=turns))
    with pytest.raises(BadRequest, match=r"^metadata\.tags: Extra inputs are not permitted"):
        parse(body("claude", metadata={"tags": ["x"]}))
    with pytest.raises(BadRequest, match=r"^messages\.0\.content\.0\.text: Field required"):
        parse(body("claude", messages=[{"role": "user", "content": [{"type": "text"}]}]))


def test_a_native_answer_and_its_events_pass() -> None:
    call = parse(body("claude"))
    stream = MESSAGES.open_stream(call)
    assert MESSAGES.render(call, b"{}", ResponseMeta()) == b"{}"
    assert (stream.feed(b"event: x\n\n"), stream.end(ResponseMeta())) == (b"event: x\n\n", b"")
    assert stream.fail(RateLimited("x")).startswith(b"event: error\n")
    assert stream.ping().startswith(b"event: ping\n")


@pytest.mark.parametrize("model", ["gpt", "claude"])
def test_both_ways_have_the_same_checks(model: str) -> None:
    wrong: list[Json] = [
        {"max_tokens": None},
        {"messages": []},
        {"workspace_id": "w"},
        {"api_base": "http://x"},
    ]
    for fields in wrong:
        with pytest.raises(BadRequest):
            parse(body(model, **fields))
    assert parse(body(model, max_tokens=500)).max_tokens == 50
    with pytest.raises(ModelNotFound):
        parse(body("none"))
    with pytest.raises(BadRequest, match="anthropic-version"):
        parse(body(model), RequestOptions(anthropic_version="1"))


def test_what_is_counted() -> None:
    def count(raw: bytes) -> Json:
        return MESSAGES.parse_count(raw, NO_OPTIONS, MODELS, BodyLimits()).body

    tool = {"name": "f", "input_schema": {"type": "object"}}
    asked = {"system": "s", "tools": [tool], "max_tokens": None}
    assert count(body("gpt", **asked)) == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    }
    native = count(body("claude", **asked))
    assert (native["native"], native["system"], native["tools"]) == (True, "s", [tool])
    with pytest.raises(BadRequest):
        count(body("gpt", messages=[]))


def test_headers_say_what_repeating_cannot_mend() -> None:
    own = ("request-id", "r")
    assert MESSAGES.headers("r") == (own,)
    for final in (BadRequest("x"), UnsupportedMediaType("x")):
        assert MESSAGES.headers("r", final) == (own, ("x-should-retry", "false"))
    assert MESSAGES.headers("r", RateLimited("x", retry_after_s=1)) == (own,)
    assert MESSAGES.error(BadRequest("x"), "r")["request_id"] == "r"


class TestModels:
    """Anthropic's pages."""

    LISTED = tuple(ListedModel(name, created=86400, context_window=9) for name in "abcde")

    def test_a_page(self) -> None:
        page = MESSAGES.render_models(self.LISTED)
        assert (page["has_more"], page["first_id"], page["last_id"]) == (False, "a", "e")
        assert page["data"][0] == {
            "type": "model", "id": "a", "display_name": "a", "created_at": "1970-01-02T00:00:00Z",
            "lifecycle": "active", "max_input_tokens": 9,
        }  # fmt: skip
        assert MESSAGES.render_models([]) == {
            "data": [],
            "has_more": False,
            "first_id": None,
            "last_id": None,
        }

    @pytest.mark.parametrize(
        ("query", "names", "has_more"),
        [
            ({"limit": "2"}, "ab", True),
            ({"limit": "2", "after_id": "b"}, "cd", True),
            ({"limit": "2", "after_id": "c"}, "de", False),
            ({"after_id": "e"}, "", False),
            ({"limit": "2", "before_id": "e"}, "cd", True),
            ({"limit": "9", "before_id": "c"}, "ab", False),
        ],
    )
    def test_pages(self, query: dict[str, str], names: str, *, has_more: bool) -> None:
        page = model_page(self.LISTED, query)
        assert ("".join(model["id"] for model in page["data"]), page["has_more"]) == (names, has_more)

    @pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "x"}, {"limit": "1001"}, {"after_id": "z"}])
    def test_a_wrong_page(self, query: dict[str, str]) -> None:
        with pytest.raises(BadRequest):
            model_page(self.LISTED, query)
