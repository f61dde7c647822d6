"""OpenAI's own vocabulary: what goes on, what is refused, and what is told about it."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects import (
    GENERATE,
    INTERNAL,
    NO_HINTS,
    OPENAI,
    Bounds,
    CacheControl,
    Call,
    Dialect,
    Door,
    Hints,
    Models,
)
from llm_proxy.dialects.fields import FIELDS
from llm_proxy.errors import BadRequest, Refused

MODELS = Models(
    "the-default", {"gpt": frozenset({"openai"}), "claude": frozenset({"anthropic"})}, ("openai/*",)
)
HELLO = [{"role": "user", "content": "Hello"}]
LEAST: dict[Door, dict[str, Any]] = {
    "chat.completions": {"messages": HELLO},
    "completions": {"prompt": "x"},
    "embeddings": {"input": "x"},
}
DOORS: tuple[Door, ...] = ("chat.completions", "completions", "embeddings")


def read(door: Door = "chat.completions", hints: Hints = NO_HINTS, /, **body: Any) -> Call:
    """The call for a chat that says hello, or for these fields."""
    least = LEAST[door]
    asked = {"model": "gpt", **least, **body}
    given = json.dumps({name: value for name, value in asked.items() if value != ...}).encode()
    return OPENAI.read(door, given, hints, MODELS, Bounds(max_messages=50))


def refused(door: Door = "chat.completions", /, **body: Any) -> BadRequest:
    """The refusal of these fields."""
    with pytest.raises(BadRequest) as caught:
        read(door, **body)
    assert caught.value.message
    return caught.value


def test_a_plain_chat_goes_on_as_it_came() -> None:
    """Nothing is added to it and nothing is lost."""
    call = read(temperature=0.5)
    assert call.body == {"model": "gpt", "messages": HELLO, "temperature": 0.5}
    assert (call.model, call.group, call.streaming, call.choices) == ("gpt", "gpt", False, 1)


def test_every_field_of_every_door_goes_on_in_one_order() -> None:
    """The order they came in does not reach the sidecar's cache key."""
    one = read(seed=1, temperature=1.0, user="u", n=2, zzz=1, aaa=2)
    other = read(aaa=2, zzz=1, n=2, user="u", temperature=1, seed=1)
    assert orjson.dumps(one.body) == orjson.dumps(other.body)
    assert list(one.body) == ["model", "messages", "n", "seed", "temperature", "user", "extra_body"]


def test_keys_inside_messages_have_one_order_too() -> None:
    """`content` before `role` is the same request."""
    one = read(
        messages=[{"content": [{"text": "x", "type": "text"}], "role": "user", "zzz": 1, "name": "bob"}]
    )
    other = read(
        messages=[{"role": "user", "name": "bob", "content": [{"type": "text", "text": "x"}], "zzz": 1}]
    )
    assert orjson.dumps(one.body) == orjson.dumps(other.body)


def test_the_order_of_a_schema_is_not_touched() -> None:
    """Models answer structured output in the order of its properties."""
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert orjson.dumps(read(response_format=wanted).body["response_format"]) == orjson.dumps(wanted)


def test_null_means_absent() -> None:
    """Clients that send every field they know do no harm."""
    fields = dict.fromkeys(FIELDS["chat.completions"])
    assert read(**{**fields, "model": "gpt", "messages": HELLO}).body == {"model": "gpt", "messages": HELLO}


def test_a_stream_always_asks_for_usage_and_remembers_who_wanted_it() -> None:
    """Upstream always; the caller sees it only when it asked."""
    assert read(stream=True).body["stream_options"] == {"include_usage": True}
    assert read(stream=True).wants_usage is False
    asked = read(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert asked.wants_usage is True
    assert asked.body["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert read(stream=True, stream_options={"include_usage": False}).wants_usage is False
    assert refused(stream_options={"include_usage": True}).param == "stream_options"
    assert "stream" not in read(stream=False).body


def test_what_admission_needs_is_on_the_call() -> None:
    """Tokens asked for, choices, size without files, whom it names, the cache, the deadline."""
    call = read(
        "chat.completions",
        Hints(cache=CacheControl(no_store=True), timeout_s=3.5),
        max_tokens=10,
        max_completion_tokens=20,
        n=3,
        user="u-1",
        metadata={"agent_id": "a", "microdao_id": "t", "session_id": "s", "channel_id": "c", "other": "x"},
    )
    assert (call.max_tokens, call.choices, call.timeout_s, call.cache.no_store) == (20, 3, 3.5, True)
    named = call.named
    assert (named.agent, named.tenant, named.session, named.channel, named.user) == (
        "a",
        "t",
        "s",
        "c",
        "u-1",
    )
    assert read("completions", best_of=4, n=2).choices == 4


def test_a_file_in_a_message_is_not_a_prompt_of_its_size() -> None:
    """A megabyte of picture does not count as a quarter million tokens."""
    url = "data:image/png;base64," + "A" * 1_000_000
    picture = {"type": "image_url", "image_url": {"url": url}}
    call = read(messages=[{"role": "user", "content": [{"type": "text", "text": "what?"}, picture]}])
    assert call.prompt_bytes < 10_000
    assert call.body["messages"][0]["content"][1] == picture


@pytest.mark.parametrize("own", ["max_output_tokens", "num_predict", "max_new_tokens"])
def test_a_length_in_a_providers_own_words_counts(own: str) -> None:
    """A cap on `max_tokens` cannot be walked around; below zero means without end."""
    assert read(**{own: 500}).max_tokens == 500
    assert read(options={own: 500}, max_tokens=10).max_tokens == 500
    assert (read(**{own: -1}).max_tokens or 0) > 10**9


class TestTheBodyRule:
    """Published fields on top, LiteLLM's names refused, the rest for the model."""

    def test_other_names_travel_inside_extra_body_untouched(self) -> None:
        """Whatever they hold."""
        own = {"top_k": 5, "chat_template_kwargs": {"z": 1, "a": [None, 1.5]}, "guided_json": None}
        assert read(**own).body["extra_body"] == own
        assert read(extra_body={"top_k": 5}, min_p=0.1).body["extra_body"] == {"min_p": 0.1, "top_k": 5}

    def test_for_anthropic_they_travel_at_top_level(self) -> None:
        """Its API refuses an object of that name; LiteLLM passes unknown names on."""
        assert read(model="claude", top_k=5).body == {"model": "claude", "messages": HELLO, "top_k": 5}

    @pytest.mark.parametrize(
        "name",
        [
            "api_base",
            "api_key",
            "fallbacks",
            "cache",
            "num_retries",
            "timeout",
            "mock_response",
            "custom_llm_provider",
            "extra_headers",
            "litellm_metadata",
            "_litellm_anything",
            "guardrails",
            "no-log",
            "models",
            "user_api_key_hash",
        ],
    )
    def test_a_name_litellm_owns_is_refused_wherever_it_stands(self, name: str) -> None:
        """At top level, in `extra_body`; named in full."""
        assert (refused(**{name: "x"}).param, refused(**{name: "x"}).code) == (name, "unknown_parameter")
        assert refused(extra_body={name: "x"}).param == f"extra_body.{name}"

    @pytest.mark.parametrize(
        "name", ["api_base", "user_api_key", "litellm_x", "guardrails", "applied_guardrails"]
    )
    def test_litellms_controls_are_refused_inside_metadata(self, name: str) -> None:
        """Though it would not see them."""
        assert refused(metadata={name: "x"}).param == f"metadata.{name}"

    def test_metadata_never_reaches_litellm(self) -> None:
        """It goes to the provider beside `store`, where OpenAI keeps it, and nowhere else."""
        labels = {"team": "a", "tags": "x"}
        assert "metadata" not in read(metadata=labels).body
        stored = read(metadata=labels, store=True).body
        assert "metadata" not in stored
        assert stored["extra_body"]["metadata"] == labels
        assert read(model="claude", metadata=labels, store=True).body == {
            "model": "claude",
            "messages": HELLO,
            "store": True,
        }

    @pytest.mark.parametrize("name", ["model", "messages", "n", "stream", "max_tokens", "metadata"])
    def test_a_published_field_inside_extra_body_is_refused(self, name: str) -> None:
        """There it would overrule the one that was checked."""
        assert refused(extra_body={name: 1}).param == f"extra_body.{name}"

    def test_extra_body_itself_is_an_object_or_absent(self) -> None:
        """And a name stands once."""
        assert "extra_body" not in read(extra_body=None).body
        assert "extra_body" not in read(extra_body={}).body
        assert refused(extra_body=[]).code == "invalid_type"
        assert refused(top_k=1, extra_body={"top_k": 2}).param == "extra_body.top_k"


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": ...}, "messages", "missing_required_parameter"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": "x"}, "messages", "invalid_type"),
    ({"messages": HELLO * 51}, "messages", "array_above_max_length"),
    ({"messages": [1]}, "messages[0]", "invalid_type"),
    ({"messages": [*HELLO, {"content": "x"}]}, "messages[1].role", "missing_required_parameter"),
    ({"messages": [*HELLO, {"role": "boss", "content": "x"}]}, "messages[1].role", "invalid_value"),
    ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty_array"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "invalid_type"),
    (
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        "messages[0].content[0].type",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "messages[0].content[0].image_url",
        "invalid_type",
    ),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "missing_required_parameter"),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": {}}]},
        "messages[0].content",
        "missing_required_parameter",
    ),
    ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "messages[0].tool_calls[0]", "invalid_type"),
    (
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}],
                }
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
        "missing_required_parameter",
    ),
    ({"model": ...}, "model", "missing_required_parameter"),
    ({"model": 5}, "model", "invalid_type"),
    ({"model": ""}, "model", "empty_string"),
    ({"model": "x" * 300}, "model", "string_above_max_length"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": 3}, "temperature", "decimal_above_max_value"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 1.5}, "n", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 10**20}, "max_tokens", "integer_above_max_value"),
    ({"seed": 2**70}, "seed", "integer_above_max_value"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ["x", 5]}, "stop[1]", "invalid_type"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"tools": {}}, "tools", "invalid_type"),
    ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type", "missing_required_parameter"),
    (
        {"tools": [{"type": "function", "function": {}}]},
        "tools[0].function.name",
        "missing_required_parameter",
    ),
    ({"tool_choice": 5}, "tool_choice", "invalid_type"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1", "invalid_type"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "object_above_max_properties"),
    ({"metadata": {"agent_id": ""}}, "metadata.agent_id", "invalid_value"),
    ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
    ({"user": 5}, "user", "invalid_type"),
    ({"user": "a\nb"}, "user", "invalid_value"),
]


@pytest.mark.parametrize(("body", "param", "code"), WRONG)
def test_a_wrong_field_is_named(body: dict[str, Any], param: str, code: str) -> None:
    """400 with the place and a code, before anything is forwarded."""
    wrong = refused(**body)
    assert (wrong.param, wrong.code, wrong.status) == (param, code, 400)


OTHERS: list[tuple[Door, dict[str, Any], str]] = [
    ("completions", {"prompt": ...}, "prompt"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": ["x", 1]}, "prompt"),
    ("completions", {"prompt": [[1], ["x"]]}, "prompt[1]"),
    ("completions", {"prompt": [1, -1]}, "prompt"),
    ("completions", {"prompt": [[]]}, "prompt[0]"),
    ("completions", {"logprobs": 6}, "logprobs"),
    ("embeddings", {"input": ...}, "input"),
    ("embeddings", {"input": ""}, "input"),
    ("embeddings", {"input": ["x", ""]}, "input[1]"),
    ("embeddings", {"input": ["x"] * 2049}, "input"),
    ("embeddings", {"input": {"a": 1}}, "input"),
    ("embeddings", {"dimensions": 0}, "dimensions"),
    ("embeddings", {"encoding_format": "hex"}, "encoding_format"),
    ("embeddings", {"model": ...}, "model"),
]


@pytest.mark.parametrize(("door", "body", "param"), OTHERS)
def test_the_other_doors_name_their_fields_too(door: Door, body: dict[str, Any], param: str) -> None:
    """Completions and embeddings have schemas of their own."""
    assert refused(door, **body).param == param


@pytest.mark.parametrize("given", ["x", ["x", "y"], [1, 2], [[1, 2], [3]]])
def test_texts_and_tokens_go_on_as_they_came(given: Any) -> None:
    """In all four shapes."""
    assert read("completions", prompt=given).body["prompt"] == given
    assert read("embeddings", input=given).body["input"] == given


def test_a_default_model_is_for_those_who_may_omit_it() -> None:
    """Chats and completions only: there is no default for embeddings."""
    body = orjson.dumps({"messages": HELLO})
    call = OPENAI.read("chat.completions", body, Hints(may_omit_model=True), Models("the-default"), Bounds())
    assert (call.model, call.group) == ("the-default", "the-default")
    with pytest.raises(BadRequest):
        OPENAI.read("embeddings", b'{"input":"x"}', Hints(may_omit_model=True), Models("d"), Bounds())


def test_refusals_have_openais_envelope() -> None:
    """JSON and frame alike."""
    wrong = refused(n=0)
    envelope = {"message": wrong.message, "type": "invalid_request_error", "param": "n", "code": wrong.code}
    assert OPENAI.error(wrong) == {"error": envelope}
    assert OPENAI.stream_error(wrong) == b"data: " + orjson.dumps({"error": envelope}) + b"\n\n"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    sorted({name for door in FIELDS.values() for name in door} | {"extra_body", "provider", "maxTokens"})
)
roles = st.sampled_from(["user", "assistant", "tool", "system", "function"])
message_like = st.dictionaries(
    st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "name"]), roles | json_values
)
bodies = st.dictionaries(
    field_names | st.text(max_size=6), json_values | st.lists(message_like, max_size=3), max_size=6
)


@pytest.mark.parametrize("dialect", [OPENAI, INTERNAL, GENERATE], ids=lambda dialect: dialect.name)
@given(door=st.sampled_from(DOORS), body=bodies)
def test_no_body_is_an_exception(dialect: Dialect, door: Door, body: dict[str, Any]) -> None:
    """Any JSON is a call that can be sent on, or a refusal with a message; in every dialect."""
    try:
        sent = orjson.dumps(body)
    except (orjson.JSONEncodeError, TypeError):
        return
    call = _outcome(dialect, door, sent)
    if isinstance(call, Refused):
        assert call.message
        assert orjson.dumps(dialect.error(call))
    else:
        assert orjson.loads(orjson.dumps(call.body))["model"] == call.group
        assert "metadata" not in call.body


def _outcome(dialect: Dialect, door: Door, body: bytes) -> Call | Refused:
    """The call, or its refusal."""
    try:
        return dialect.read(door, body, Hints(), MODELS, Bounds())
    except Refused as wrong:
        return wrong
