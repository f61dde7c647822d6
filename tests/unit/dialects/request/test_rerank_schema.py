"""Rerank and moderations, parsed: the model that a body may omit, and what is reserved for a call."""

import json

import pytest

from llm_proxy.dialects import Call
from llm_proxy.dialects.cohere import COHERE
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request.file_bytes import linked_file_bytes
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest

SERVED: dict[str, frozenset[Endpoint]] = {
    "gpt": frozenset({"chat.completions"}),
    "omni": frozenset({"moderations"}),
    "ranker": frozenset({"rerank"}),
}


def index(*names: str, chosen: str | None = None, denied: str | None = None) -> ModelIndex:
    """A catalog of these groups."""
    return ModelIndex(
        groups={name: frozenset({"cohere"}) for name in names},
        default_models={} if chosen is None else {"moderations": chosen},
        endpoints=lambda name: SERVED.get(name.partition("-")[0]),
        is_allowed=lambda name: name != denied,
    )


def parse(endpoint: Endpoint, models: ModelIndex, cap: int | None = None, /, **body: object) -> Call:
    """The call of a body."""
    dialect = COHERE if endpoint == "rerank" else OPENAI
    limits = BodyLimits(max_tokens_cap=cap)
    return dialect.parse(endpoint, json.dumps(body).encode(), NO_OPTIONS, models, limits)


def test_a_moderation_without_a_model_is_the_operator_s_default_s() -> None:
    """Also where several models moderate."""
    models = index("gpt", "omni-a", "omni-b", chosen="omni-b")
    assert parse("moderations", models, input="x").group == "omni-b"


@pytest.mark.parametrize(
    ("endpoint", "body"), [("moderations", {"input": "x"}), ("rerank", {"query": "q", "documents": ["a"]})]
)
def test_without_a_default_it_is_the_only_model_that_serves_it(
    endpoint: Endpoint, body: dict[str, object]
) -> None:
    """The only one that the caller may use; with several the body must say which."""
    name = "omni" if endpoint == "moderations" else "ranker"
    assert parse(endpoint, index("gpt", f"{name}-a"), **body).group == f"{name}-a"
    several = index("gpt", f"{name}-a", f"{name}-b")
    with pytest.raises(BadRequest) as caught:
        parse(endpoint, several, **body)
    assert (caught.value.param, caught.value.code) == ("model", "missing_required_parameter")
    allowed = index("gpt", f"{name}-a", f"{name}-b", denied=f"{name}-a")
    assert parse(endpoint, allowed, **body).group == f"{name}-b"


@pytest.mark.parametrize(("documents", "units"), [(1, 1), (100, 1), (101, 2), (10_000, 100)])
def test_search_units_are_reserved_by_hundreds_begun(documents: int, units: int) -> None:
    """As Cohere bills them."""
    call = parse("rerank", index("ranker"), model="ranker", query="q", documents=["a"] * documents)
    assert call.quantities.search_units == units


def test_a_key_s_cap_on_tokens_adds_no_field_to_what_has_no_completion() -> None:
    """Neither to a rerank nor to a moderation."""
    call = parse("rerank", index("ranker"), 9, model="ranker", query="q", documents=["a"])
    assert "max_tokens" not in call.body
    assert "max_tokens" not in parse("moderations", index("omni"), 9, input="x").body


def test_an_image_counts_little_as_a_prompt() -> None:
    """Its size says nothing about tokens."""
    image = "data:image/png;base64," + "A" * 100_000
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": image}}]
    assert linked_file_bytes("moderations", {"input": parts}) > 90_000
    call = parse("moderations", index("omni"), input=parts)
    assert call.prompt_bytes < 10_000
    for texts in ("x", ["x"]):
        assert linked_file_bytes("moderations", {"input": texts}) == 0


def test_cohere_s_errors_have_the_message_where_its_clients_read_it() -> None:
    """And Jina's, and OpenAI's."""
    document = COHERE.error(BadRequest("No.", param="query"))
    assert document["message"] == document["detail"] == document["error"]["message"] == "No."
