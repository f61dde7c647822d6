"""A chat whose settings are known is the one that is built without knowing them."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects import Call
from llm_proxy.dialects.call import CacheControl
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.request import ParseContext, build_call
from llm_proxy.dialects.request.repeated_settings import MAX_KEPT_SETTINGS, build_chat
from llm_proxy.dialects.request_options import NO_OPTIONS, RequestOptions
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError, BadRequest
from llm_proxy.identity import Caller
from llm_proxy.json_access import Json
from llm_proxy.upstream.catalog import CurrentCatalog, parse_sidecar_catalog

GROUPS = {"m": frozenset({"openai"}), "own": frozenset({"hosted_vllm"}), "g": frozenset({"gemini"})}
KEPT = ModelIndex("m", GROUPS, (), {"nick": "own"}, default_chosen=True)
LIMITS = BodyLimits(max_messages=3)
TEXT = {"role": "user", "content": "Hello"}
ODD: list[Any] = [None, True, False, 0, 1, 1.0, -0.0, 0.5, 2, 3, -1, 1e300, 2**40, "x", "", [], {}, [1]]
MESSAGES: list[Any] = [
    TEXT, {"role": "system", "content": ""}, {"role": "tool", "content": "x"}, {"role": "user"}, "x", {},
    {"content": "x", "role": "user"}, {"role": "user", "content": "x", "name": "n"},
    {"role": "user", "content": None}, {"role": ["user"], "content": "x"}, {"role": "x", "content": "x"},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]},
    {"role": "user", "content": [{"type": "text", "text": "x"}]},
]  # fmt: skip
NUMBERS = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "logprobs", "top_logprobs", "stream",
    "store", "presence_penalty", "frequency_penalty", "parallel_tool_calls", "user", "stop", "odd_one",
)  # fmt: skip
bodies = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(st.sampled_from(MESSAGES), max_size=4) | st.sampled_from(ODD),
        "model": st.sampled_from(["m", "m", "own", "g", "nick", "unknown", *ODD]),
        **{name: st.sampled_from(ODD) for name in NUMBERS},
    },
)
plain_bodies = st.fixed_dictionaries(
    {
        "messages": st.lists(st.just(TEXT), min_size=1, max_size=3),
        "model": st.sampled_from(["m", "own", "g"]),
    },
    optional={name: st.sampled_from(ODD[:12]) for name in NUMBERS},
)


def outcome(
    body: Json, models: ModelIndex, options: RequestOptions = NO_OPTIONS, limits: BodyLimits = LIMITS,
    endpoint: Endpoint = "chat.completions", size: int = 100,
) -> tuple[Any, ...]:  # fmt: skip
    """The call of a body, its order of fields too; or the error."""
    build = build_chat if models is KEPT else build_call
    given_body, context = orjson.dumps(body), ParseContext("openai", endpoint, size)
    try:
        call = build(body, context, options, models, limits)
    except APIError as error:
        return type(error), error.message, error.param, error.code
    finally:
        assert orjson.dumps(body) == given_body
    return call._replace(body={}), orjson.dumps(call.body)


@given(st.lists(bodies | plain_bodies, min_size=1, max_size=6), st.integers(1, 9999))
def test_any_body_is_read_as_without_what_is_kept(some: list[Json], size: int) -> None:
    """Whatever came before it: 1, 1.0 and True are three settings; only the messages and the size differ."""
    for body in some * 2:
        alone = ModelIndex("m", GROUPS, (), {"nick": "own"}, default_chosen=True)
        assert outcome(body, KEPT, size=size) == outcome(body, alone, size=size)
        assert outcome({**body, "messages": [TEXT]}, KEPT) == outcome({**body, "messages": [TEXT]}, alone)
        assert len(KEPT.repeated_settings) <= MAX_KEPT_SETTINGS


@pytest.mark.parametrize(
    ("options", "limits", "endpoint"),
    [
        (replace(NO_OPTIONS, cache=CacheControl(no_store=True)), LIMITS, "chat.completions"),
        (replace(NO_OPTIONS, model="own"), LIMITS, "chat.completions"),
        (NO_OPTIONS, replace(LIMITS, max_tokens_cap=3), "chat.completions"),
        (NO_OPTIONS, replace(LIMITS, max_messages=1), "chat.completions"),
        (NO_OPTIONS, LIMITS, "completions"),
    ],
)
def test_headers_caps_and_other_endpoints_are_heeded(
    options: RequestOptions, limits: BodyLimits, endpoint: Endpoint
) -> None:
    """After the same body without them."""
    body = {"model": "m", "messages": [TEXT, TEXT], "max_tokens": 9}
    alone = ModelIndex("m", GROUPS, (), {"nick": "own"}, default_chosen=True)
    plain = outcome(body, KEPT)
    found = outcome(body, KEPT, options, limits, endpoint)
    assert found == outcome(body, alone, options, limits, endpoint) != plain
    assert outcome(body, KEPT) == plain


def test_no_message_is_kept_and_no_settings_without_end() -> None:
    """Nor a setting that was rejected."""
    models, context = ModelIndex("m", GROUPS), ParseContext("openai", "chat.completions", 9)
    for at in range(3 * MAX_KEPT_SETTINGS):
        body = {"model": "m", "messages": [{"role": "user", "content": "secret"}], "max_tokens": at + 1}
        build_chat(body, context, NO_OPTIONS, models, LIMITS)
        kept = len(models.repeated_settings)
        with pytest.raises(BadRequest):
            build_chat(body | {"temperature": 3}, context, NO_OPTIONS, models, LIMITS)
        assert "secret" not in repr(models.repeated_settings)
        assert 0 < len(models.repeated_settings) == kept <= MAX_KEPT_SETTINGS


def test_what_is_kept_of_settings_ends_with_the_catalog() -> None:
    """Another group behind the name, other endpoints, no such group: the next call has it."""
    current, caller = CurrentCatalog(), Caller("a", "virtual", models=("m",))

    def built(by: Caller = caller) -> Call:
        context = ParseContext("openai", "chat.completions", 9)
        body = {"model": "m", "messages": [TEXT]}
        return [build_chat(body, context, NO_OPTIONS, current.models_for(by), LIMITS) for _ in range(3)][-1]

    current.update(parse_sidecar_catalog({"groups": [{"name": "m"}, {"name": "n"}]}))
    assert built().group == "m"
    with pytest.raises(APIError, match="does not exist"):
        built(replace(caller, models=("n",)))
    with pytest.raises(APIError, match="does not exist"):
        built(replace(caller, outer_models=(("n",),)))
    current.update(parse_sidecar_catalog({"groups": [{"name": "m", "alias_of": "n"}, {"name": "n"}]}))
    assert built().group == "n"
    current.update(parse_sidecar_catalog({"groups": [{"name": "m", "endpoints": ["rerank"]}]}))
    with pytest.raises(BadRequest, match="not served by this endpoint"):
        built()
    current.update(parse_sidecar_catalog({"groups": [{"name": "n"}]}))
    with pytest.raises(APIError, match="does not exist"):
        built()
