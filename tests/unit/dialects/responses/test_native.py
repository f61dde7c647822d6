"""Native Responses: the same checks; body, answer and events pass as they came."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.dialects.responses.chat_frames import parsed

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.dialects.response_ids import ResponseIds
from llm_proxy.dialects.responses import responses_dialect
from llm_proxy.dialects.responses.native import require_own
from llm_proxy.dialects.responses.stream import NativeStream
from llm_proxy.errors import BadRequest, ModelNotFound, NotFound, ProviderFailed
from llm_proxy.identity import Caller
from llm_proxy.sealing import Sealer, SealingKey

MODELS = ModelIndex("gpt", {"gpt": frozenset({"openai"})}, speaks_natively=lambda _group, _endpoint: True)
SEALER = Sealer([SealingKey("k1", "s" * 40)])
DIALECT = responses_dialect(SEALER)
ANN = Caller("key", "virtual", tenant="acme")
PREVIOUS = ResponseIds(SEALER).seal(ANN, "gpt", "one", "resp_0")
ITEM = ResponseIds(SEALER).seal_item(ANN, "gpt", "one", "msg_1")
EVENTS: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"id": "resp_1", "output": []}, "sequence_number": 0},
    {"type": "response.queued", "response": {"id": "resp_1", "output": []}, "sequence_number": 1},
    {"type": "response.new_thing", "sequence_number": 2, "added": True},
]
RAW = b"".join(b"event: %s\ndata: %s\n\n" % (str(one["type"]).encode(), orjson.dumps(one)) for one in EVENTS)


def parse(**body: Any) -> Call:
    encoded = orjson.dumps({"model": "gpt", "input": "hi", **body})
    return DIALECT.parse("responses", encoded, NO_OPTIONS, MODELS, BodyLimits())


def test_what_only_the_provider_knows_passes() -> None:
    body: dict[str, Any] = {
        "input": [
            {"type": "new_item", "of": 2027},
            {"role": "user", "content": [{"type": "new_part"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        ],
        "tools": [{"type": "web_search"}, {"type": "new_tool"}],
        "previous_response_id": PREVIOUS,
        "background": True,
        "prompt_cache_key": "k",
        "text": {"verbosity": "low"},
    }
    call = parse(**body)
    assert (call.endpoint, call.context) == ("responses", None)
    assert call.body == {"model": "gpt", **body, "previous_response_id": "resp_0"}
    assert call.response is not None
    assert (call.response.deployment, call.response.token) == ("one", PREVIOUS)


def test_items_of_our_answers_are_the_providers_own_again() -> None:
    """A reference is asked of the account that keeps it; an item that says all itself of any."""
    message = {
        "type": "message",
        "id": ITEM,
        "role": "assistant",
        "content": [{"type": "output_text", "text": "x"}],
    }
    call = parse(input=[message, {"role": "user", "content": "on"}], store=False)
    assert call.body["input"][0]["id"] == "msg_1"
    assert call.response is None
    call = parse(input=[{"type": "item_reference", "id": ITEM}])
    assert call.body["input"] == [{"type": "item_reference", "id": "msg_1"}]
    assert call.response is not None
    assert (call.response.deployment, call.response.own_id) == ("one", "msg_1")
    require_own(call, ANN, MODELS)
    with pytest.raises(NotFound, match=re.escape(f"Item with id '{ITEM}' not found.")):
        require_own(call, replace(ANN, tenant="other"), MODELS)
    with pytest.raises(BadRequest, match="'input': only the tokens"):
        DIALECT.parse_count(
            orjson.dumps({"model": "gpt", "input": [{"id": ITEM}]}), NO_OPTIONS, MODELS, BodyLimits()
        )


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input[1].id"),
        ({"id": "msg_1"}, "input[1].id"),
        ({"type": "item_reference", "id": ITEM + "AAAA"}, "input[1].id"),
        ({"type": "reasoning", "id": "rs_1", "summary": []}, "input[1].id"),
        ({"type": "image_generation_call", "id": "ig_1"}, "input[1].id"),
        (
            {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
            "input[1].approval_request_id",
        ),
    ],
)
def test_an_item_that_only_the_provider_knows_needs_our_id(item: dict[str, Any], param: str) -> None:
    """Its own would be anybody's who knows it."""
    with pytest.raises(NotFound) as error:
        parse(input=[{"role": "user", "content": "hi"}, item])
    assert (error.value.param, error.value.code) == (param, "item_not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "store"),
        ({"store": True}, "store"),
        ({"store": False, "background": True}, "background"),
        ({"store": False, "previous_response_id": PREVIOUS}, "previous_response_id"),
    ],
)
def test_without_a_key_nothing_is_stored(body: dict[str, Any], param: str) -> None:
    keyless = responses_dialect(None)
    encoded = orjson.dumps({"model": "gpt", "input": "hi", **body})
    with pytest.raises(BadRequest) as error:
        keyless.parse("responses", encoded, NO_OPTIONS, MODELS, BodyLimits())
    assert error.value.param == param
    assert "LLM_PROXY__SEALING_KEYS" in error.value.message
    stateless = orjson.dumps({"model": "gpt", "input": "hi", "store": False})
    call = keyless.parse("responses", stateless, NO_OPTIONS, MODELS, BodyLimits())
    assert call.body["store"] is False


def test_a_conversation_is_nobodys_own() -> None:
    """Nothing says whose it is."""
    with pytest.raises(BadRequest) as error:
        parse(conversation="conv_1")
    assert error.value.param == "conversation"


def test_what_a_chat_has_no_place_for_is_counted_as_its_text() -> None:
    items: list[Any] = [
        {"type": "new_item", "of": 2027},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "see"}, {"type": "new", "image_url": "data:,x"}],
        },
    ]
    encoded = orjson.dumps({"model": "gpt", "input": items, "instructions": "be"})
    counted = DIALECT.parse_count(encoded, NO_OPTIONS, MODELS, BodyLimits())
    native = counted.body.pop("responses")
    assert native == {"model": "gpt", "input": items, "instructions": "be"}
    assert counted.body == {"model": "gpt", "messages": [{"role": "user", "content": "be see"}]}
    plain = DIALECT.parse_count(b'{"model": "gpt", "input": "hi"}', NO_OPTIONS, MODELS, BodyLimits())
    assert plain.body["messages"] == [{"role": "user", "content": "hi"}]


def test_a_prompt_template_needs_no_input() -> None:
    assert parse(input=None, prompt={"id": "pmpt_1"}).body == {"model": "gpt", "prompt": {"id": "pmpt_1"}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "n"}]}, "input[0].arguments"),
        ({"api_base": "http://a.example"}, "api_base"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_the_same_checks_hold(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as raised:
        parse(**body)
    assert raised.value.param == param


def test_the_answer_is_the_providers() -> None:
    assert (
        DIALECT.render(parse(), b'{"id": "resp_1", "new": 1}', ResponseMeta())
        == b'{"id": "resp_1", "new": 1}'
    )


@given(st.lists(st.integers(0, len(RAW)), max_size=6))
def test_events_pass_in_any_chunking(cuts: list[int]) -> None:
    stream = DIALECT.open_stream(parse(stream=True))
    edges = [0, *sorted(cuts), len(RAW)]
    assert b"".join(stream.feed(RAW[start:end]) for start, end in pairwise(edges)) == RAW
    assert stream.end(ResponseMeta()) == stream.ping() == b""


def test_a_stream_that_breaks_has_failed_with_the_next_number() -> None:
    stream = NativeStream()
    stream.feed(RAW)
    (event,) = parsed(stream.fail(ProviderFailed("It broke.")))
    assert event["sequence_number"] == 3
    assert event["response"] == {
        "id": "resp_1",
        "output": [],
        "status": "failed",
        "error": {"code": "server_error", "message": "It broke."},
    }
    assert parsed(NativeStream().fail(ProviderFailed("At once.")))[0]["sequence_number"] == 0


def test_who_may_not_use_the_model_may_not_use_its_responses() -> None:
    """The owner's own, too; a stranger is not even told of the model."""
    call = parse(previous_response_id=PREVIOUS)
    owner, stranger = (Caller("key", "virtual", tenant=tenant) for tenant in ("acme", "other"))
    require_own(call, owner, MODELS)
    refusing = replace(MODELS, is_allowed=frozenset[str]().__contains__)
    with pytest.raises(ModelNotFound):
        require_own(call, owner, refusing)
    with pytest.raises(BadRequest) as error:
        require_own(call, stranger, refusing)
    assert error.value.code == "previous_response_not_found"
