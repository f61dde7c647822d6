"""Which calls may pass LiteLLM by, and when a template serves another call."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest

from llm_proxy.sidecar.direct_calls import MAX_TEMPLATE_BYTES, DirectCalls
from llm_proxy.sidecar.direct_requests import RequestTemplate
from llm_proxy.sidecar.direct_settings import are_settings_allowed
from llm_proxy.sidecar.direct_templates import DirectCall, learn_body, learn_headers, may_serve, read_call

Json = dict[str, Any]
CALL: Json = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5}
ALLOWED: Json = {"model_list": [{}], "router_settings": {"routing_strategy": "simple-shuffle"}}


def read(body: Json, optional: tuple[str, ...] = ()) -> DirectCall | None:
    """The call of a body."""
    return read_call("chat.completions", json.dumps(body).encode(), optional)


def form(messages: list[Json], **fields: Any) -> object:
    """The form of a call."""
    found = read(CALL | {"messages": messages} | fields)
    assert found is not None
    return found.form


def user(content: Any) -> list[Json]:
    """One message."""
    return [{"role": "user", "content": content}]


def picture(url: str) -> list[Json]:
    """One message with a picture."""
    return user([{"type": "image_url", "image_url": {"url": url}}])


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout": 3},
        {"num_retries": 0},
        {"metadata": {"a": "b"}},
        {"mock_response": "x"},
        {"messages": []},
        {"model": 3},
    ],
)
def test_other_calls_are_litellm_s(fields: Json) -> None:
    """Whatever field is not only translated."""
    assert read(CALL) is not None
    assert read(CALL | fields) is None


def native(fields: Json, *headers: tuple[bytes, bytes]) -> DirectCall | None:
    """A native call of Messages."""
    return read_call("messages", json.dumps(CALL | {"max_tokens": 3} | fields).encode(), (), headers)


@pytest.mark.parametrize(
    "fields",
    [
        {"mcp_servers": []},
        {"litellm_metadata": {}},
        {"tools": [{"type": "mcp", "server_url": "litellm_proxy"}]},
        {"tools": [{"name": "f"}, {"type": "advisor_20260301", "name": "advisor"}]},
        {"tools": [{"name": "f", "input_schema": {"maximum": 10**20}}]},
    ],
)
def test_other_native_calls_are_litellm_s(fields: Json) -> None:
    """Those with tools that LiteLLM may run, with fields of its own, with numbers that would be rounded."""
    assert native({"tools": [{"name": "f"}]}) is not None
    assert native(fields) is None


def test_a_native_call_s_version_and_betas_are_of_its_form() -> None:
    """The provider gets them; its system prompt and its user are of any form alike."""
    one, two = (
        native({"system": "a", "metadata": {"user_id": "u"}}),
        native({"system": "b", "metadata": {"user_id": "v"}}),
    )
    betas = [native({}, (b"anthropic-beta", value), (b"host", value)) for value in (b"a", b"b")]
    plain = native({}, (b"host", b"h"))
    forms = [found.form for found in (one, two, *betas, plain) if found is not None]
    assert forms[0] == forms[1]
    assert len({*forms}) == 4


@pytest.mark.parametrize("depth", [150, 300, 900])
def test_what_is_nested_deeply_is_litellm_s(depth: int) -> None:
    """In texts and in parameters: neither orjson nor a comparison of forms gets it."""
    nested: Any = "x"
    for _ in range(depth):
        nested = [nested]
    assert read_call("embeddings", json.dumps({"model": "m", "input": nested}).encode(), ()) is None
    assert read(CALL | {"messages": user(nested)}) is None
    assert read(CALL | {"user": nested}) is None
    assert (read(CALL | {"tools": nested}) is None) == (depth > 254)


def test_a_file_that_litellm_fetches_is_of_another_form() -> None:
    """It is sent as `file_data`; an id that the provider gave is passed on."""

    def file(name: str) -> object:
        return form(user([{"type": "file", "file": {"file_id": name}}]))

    assert file("file-abc") == file("file-def")
    assert all(file(address) != file("file-abc") for address in ("https://a/b", "http://a/b", "www.a/b"))


def test_texts_are_of_one_form() -> None:
    """The gateway's fields for LiteLLM, and values that LiteLLM only passes on, are in no form."""
    assert form(user("hello")) == form(user("another")) == form(user("another"), cache={"no-cache": True})
    assert form(user("a"), user="u", seed=1) == form(user("a"), user="v", seed=2)


@pytest.mark.parametrize(
    "other",
    [
        form(user("")),
        form(user(" ")),
        form(user(None)),
        form(user([{"type": "text", "text": "hello"}])),
        form([{"role": "system", "content": "hello"}]),
        form([{"role": "user", "content": "hello", "name": "n"}]),
        form(user("hello"), temperature=0.6),
        form(user("hello"), user="u"),
        form(user("hello"), user=3),
        form(user("hello"), tools=[{"type": "function", "function": {"name": "f" * 300}}]),
    ],
)
def test_what_litellm_may_treat_otherwise_is_another_form(other: object) -> None:
    """A blank text, a role, a name, a parameter, the type of a value."""
    assert other != form(user("hello"))


def test_an_address_is_of_the_form_of_its_ends() -> None:
    """LiteLLM treats files by their address."""
    assert form(picture("https://a/b.png")) == form(picture("https://c/d.png"))
    assert form(picture("https://a/b.png")) != form(picture("data:image/png;base64,AA"))
    assert form(picture("https://a/b.png")) != form(picture("https://a/b.pdf"))


def test_a_template_fills_in_texts_and_free_values() -> None:
    """In LiteLLM's own fields; a value that LiteLLM drops is dropped."""
    one, two = (
        read(CALL | {"user": "u", "seed": 1}),
        read(CALL | {"messages": user("b"), "user": "v", "seed": 2}),
    )
    assert one is not None
    assert two is not None
    sent = {"model": "gpt", "messages": one.content, "max_completion_tokens": 3, "seed": 1}
    template = learn_body(json.dumps(sent).encode(), one, "messages")
    assert template is not None
    assert orjson.loads(template.fill(one)) == sent
    assert orjson.loads(template.fill(two)) == sent | {"messages": user("b"), "seed": 2}


@pytest.mark.parametrize("changed", [{"messages": user("HELLO")}, {"user": "w"}])
def test_a_changed_text_makes_no_template(changed: Json) -> None:
    """Nor does a free value that LiteLLM replaces."""
    call = read(CALL | {"user": "u"})
    assert call is not None
    sent = {"model": "gpt", "messages": call.content, "user": "u"} | changed
    assert learn_body(json.dumps(sent).encode(), call, "messages") is None


def test_a_header_of_the_call_s_own_makes_no_template() -> None:
    """Only headers that are known to be the same for each call are sent again."""
    known = {"Authorization": "Bearer k", "x-stainless-lang": "python", "content-length": "3"}
    assert learn_headers(known) == {"authorization": "Bearer k", "x-stainless-lang": "python"}
    assert learn_headers(known | {"x-request-id": "1"}) is None
    assert learn_headers(known | {"cookie": "of another answer"}) == learn_headers(known)


@pytest.mark.parametrize(
    "more",
    [
        *({place: {"rpm": 3}} for place in ("litellm_params", "model_info")),
        *({place: {"otpm": 3}} for place in ("litellm_params", "model_info")),
        {"itpm": 3},
        {"litellm_params": {"max_parallel_requests": 1}},
        {"litellm_params": {"litellm_credential_name": "c"}},
        {"model_info": {"input_cost_per_second": 1}},
    ],
)
def test_a_deployment_with_limits_is_litellm_s(more: Json) -> None:
    """LiteLLM counts against them in code that a direct call does not run."""
    plain = {"litellm_params": {"model": "openai/m", "input_cost_per_token": 1, "rpm": None}}
    assert may_serve(plain | {"model_info": {"output_cost_per_second": 0}})
    assert not may_serve(plain | more)


@pytest.mark.parametrize(
    "config",
    [
        {"router_settings": {"routing_strategy": "least-busy"}},
        {"guardrails": ["one"]},
        {"litellm_settings": {"callbacks": ["langfuse"]}},
        {"litellm_settings": {"modify_params": True}},
        {"general_settings": {"setting_of_tomorrow": True}},
        {"section_of_tomorrow": {"a": 1}},
    ],
)
def test_an_unknown_setting_forbids_direct_calls(config: Json) -> None:
    """What a setting does to a call must be known."""
    assert are_settings_allowed(ALLOWED | {"litellm_settings": {"callbacks": [], "drop_params": True}})
    assert not are_settings_allowed(ALLOWED | config)


def test_templates_are_bounded_in_bytes() -> None:
    """Those of many tools give way; one that is larger than all may be is not kept."""
    call = read(CALL)
    assert call is not None
    body = learn_body(json.dumps(CALL | {"tools": ["t" * 1000]}).encode(), call, "messages")
    assert body is not None
    assert 1000 < body.size_bytes < 1200

    def template(size_bytes: int) -> RequestTemplate:
        return RequestTemplate(replace(body, size_bytes=size_bytes), "", None, None, {}, None, None, ())

    kept = DirectCalls(frozenset())
    for number in range(5):
        kept.keep(number, template(MAX_TEMPLATE_BYTES // 2))
    kept.keep("none", None)
    assert list(kept.templates) == [3, 4, "none"]
    kept.keep("large", template(MAX_TEMPLATE_BYTES + 1))
    assert (list(kept.templates), kept.size_bytes) == ([], 0)
