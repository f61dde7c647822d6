"""From a name and perhaps a provider to the group that serves it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request.model_resolution import MAX_KEPT_NAMES, providers_for, resolve
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.errors import APIError, BadRequest, ModelNotFound

GROUPS = {
    "chat": frozenset({"openai"}),
    "gpt-4o": frozenset({"openai", "azure"}),
    "team/claude": frozenset({"anthropic"}),
    "a model, with signs": frozenset({"openai"}),
    "house-8b": frozenset({"ollama_chat"}),
    "gpt-3.5-turbo-instruct": frozenset({"text-completion-openai"}),
    "toy": frozenset({"local"}),
}
WILD = ("openai/*", "anthropic/*", "gemini/*", "vertex_ai/*", "ollama/*", "groq/*", "openrouter/*", "local-*")
MODELS = ModelIndex("chat", GROUPS, WILD)


@pytest.mark.parametrize(
    ("model", "provider", "group"),
    [
        ("chat", None, "chat"),
        ("team/claude", None, "team/claude"),
        ("a model, with signs", None, "a model, with signs"),
        ("openai/gpt-5", None, "openai/gpt-5"),
        ("local-7b", None, "local-7b"),
        ("gpt-5", None, "openai/gpt-5"),
        ("chatgpt-4o-latest", None, "openai/chatgpt-4o-latest"),
        ("o1", None, "openai/o1"),
        ("o1-mini", None, "openai/o1-mini"),
        ("o3", None, "openai/o3"),
        ("o4-mini", None, "openai/o4-mini"),
        ("claude-3-5-sonnet-20241022", None, "anthropic/claude-3-5-sonnet-20241022"),
        ("gemini-1.5-pro", None, "vertex_ai/gemini-1.5-pro"),
        ("llama2", None, "ollama/llama2"),
        ("mistral", None, "ollama/mistral"),
        ("gpt-4o", "openai", "gpt-4o"),
        ("gpt-4o", "azure", "gpt-4o"),
        ("gpt-5", "openai", "openai/gpt-5"),
        ("openai/gpt-5", "openai", "openai/gpt-5"),
        ("claude-3-sonnet", "anthropic", "anthropic/claude-3-sonnet"),
        ("gemini-1.5-flash", "vertexai", "vertex_ai/gemini-1.5-flash"),
        ("gemini-1.5-flash", "google", "gemini/gemini-1.5-flash"),
        ("house-8b", "ollama", "house-8b"),
        ("house-8b", "local", "house-8b"),
        ("toy", "local", "toy"),
        ("llama3", "ollama", "ollama/llama3"),
        ("gpt-3.5-turbo-instruct", "openai", "gpt-3.5-turbo-instruct"),
        ("llama-3.1-8b-instant", "groq", "groq/llama-3.1-8b-instant"),
        ("meta-llama/llama-3:free", "openrouter", "openrouter/meta-llama/llama-3:free"),
    ],
)
def test_a_name_finds_its_group(model: str, provider: str | None, group: str) -> None:
    """Its own group first, then wildcards, then the provider its spelling implies."""
    assert resolve(model, provider, MODELS) == group


def test_an_alias_is_sent_unchanged_and_limited_as_its_group() -> None:
    """Limits, switches and allowed models hold for the group; the sidecar knows the alias."""
    models = ModelIndex("chat", {**GROUPS, "nickname": frozenset({"openai"})}, WILD, {"nickname": "gpt-4o"})
    body = b'{"model": "nickname", "messages": [{"role": "user", "content": "x"}]}'
    call = OPENAI.parse("chat.completions", body, NO_OPTIONS, models, BodyLimits())
    assert (call.model, call.group, call.body["model"]) == ("nickname", "gpt-4o", "nickname")


@pytest.mark.parametrize(
    ("model", "provider"),
    [("unknown", None), ("chat", "groq-2"), ("gpt-4o", "mistral"), ("o1x", None), ("mygpt-4", None)],
)
def test_a_name_that_is_not_served_is_not_found(model: str, provider: str | None) -> None:
    """404 with OpenAI's code, naming the model."""
    with pytest.raises(ModelNotFound) as caught:
        resolve(model, provider, MODELS)
    assert (caught.value.status, caught.value.code, caught.value.param) == (
        404,
        "model_not_found",
        "model",
    )
    assert f"`{model}`" in caught.value.message


@pytest.mark.parametrize(
    "model",
    [
        "openai/../secrets", "gemini/x?key=1", "openai//x", "openai/a,b", "gemini/%2e%2e", "openai/a b",
        "openai/*", "gemini/x#y", "openai/x\n", "openai/", "*",
    ],
)  # fmt: skip
def test_a_name_not_spelled_like_a_models_reaches_no_wildcard(model: str) -> None:
    """It could become part of a provider's URL, or two models in one."""
    with pytest.raises(ModelNotFound):
        resolve(model, None, MODELS)
    with pytest.raises(ModelNotFound):
        resolve(model, None, ModelIndex("chat", None))


def test_the_catch_all_wildcard_is_last() -> None:
    """`*` serves what nothing else does, under the requested name or under the chosen provider."""
    everything = ModelIndex("chat", GROUPS, ("*", "openai/*"))
    assert resolve("gpt-5", None, everything) == "openai/gpt-5"
    assert resolve("whatever", None, everything) == "whatever"
    assert resolve("x", "groq", everything) == "groq/x"


def test_without_a_catalog_names_pass() -> None:
    """The sidecar rejects what it does not know."""
    assert resolve("anything", None, ModelIndex("chat", None)) == "anything"
    assert resolve("gemini-pro", "google", ModelIndex("chat", None)) == "gemini/gemini-pro"


def test_an_empty_catalog_serves_nothing() -> None:
    """Read and empty is not the same as not read."""
    with pytest.raises(ModelNotFound):
        resolve("gpt-4o", None, ModelIndex("chat", {}))


def test_a_very_long_name_is_rejected_without_repeating_it() -> None:
    """The message stays short."""
    with pytest.raises(BadRequest) as caught:
        resolve("x" * 10_000, None, MODELS)
    assert len(caught.value.message) < 200


def test_the_providers_of_a_group_come_from_the_catalog_or_its_prefix() -> None:
    """They decide where a model's own fields are sent."""
    assert providers_for("team/claude", MODELS) == {"anthropic"}
    assert providers_for("anthropic/claude-3", MODELS) == {"anthropic"}
    index = ModelIndex("chat", GROUPS, {"*": frozenset({"openai"}), "claude/*": frozenset({"anthropic"})})
    assert providers_for("claude/3-haiku", index) == {"anthropic"}
    assert providers_for("anything", index) == {"openai"}
    assert resolve("claude/3-haiku", None, index) == "claude/3-haiku"


def test_of_any_number_of_names_only_some_are_kept() -> None:
    """A wildcard serves names without end; a name that is rejected is not kept."""
    models = ModelIndex("chat", GROUPS, WILD)
    for at in range(3 * MAX_KEPT_NAMES):
        assert resolve(f"local-{at}", None, models) == f"local-{at}"
        with pytest.raises(ModelNotFound):
            resolve(f"unknown-{at}", None, models)
        assert (f"unknown-{at}", None) not in models.resolved_names
        assert len(models.resolved_names) <= MAX_KEPT_NAMES


@given(st.text(max_size=300), st.none() | st.text(max_size=20))
def test_any_name_is_served_or_rejected(model: str, provider: str | None) -> None:
    """Never an exception, and never a control character in a message."""
    assert _outcome(model, provider).isprintable()


def _outcome(model: str, provider: str | None) -> str:
    """The group, or the error's code."""
    try:
        return resolve(model, provider, MODELS)
    except APIError as caught:
        return caught.message
