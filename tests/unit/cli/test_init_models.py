"""The models that `llm-proxy init` writes: those of some providers, and nothing that leads to others."""

from pathlib import Path

import pytest
import yaml

from llm_proxy.cli.config import check_text
from llm_proxy.cli.init.folder import shipped_providers
from llm_proxy.cli.init.models import cut_config, default_model, read_providers
from llm_proxy.cli.printing import EXIT_WRONG_INPUT, CommandFailed
from llm_proxy.stack import environments

SHIPPED = (Path(__file__).parents[3] / "litellm-config.yaml").read_text("utf-8")
PROVIDERS = read_providers(SHIPPED)


def test_every_deployment_belongs_to_one_provider() -> None:
    """Named as people name it, with the variables that must be set."""
    counted = sum(len(one.deployments) for one in PROVIDERS.values())
    assert counted == len(yaml.safe_load(SHIPPED)["model_list"])
    assert PROVIDERS["openai"].variables == ("OPENAI_API_KEY",)
    assert PROVIDERS["ollama"].variables == ("OLLAMA_API_BASE",)
    assert set(PROVIDERS["azure"].variables) == {"AZURE_API_KEY", "AZURE_API_BASE", "AZURE_API_VERSION"}
    assert "gpt-5" in PROVIDERS["openai"].chat_models
    assert not PROVIDERS["voyage"].chat_models


@pytest.mark.parametrize("name", PROVIDERS)
def test_one_provider_alone_is_a_configuration_without_faults(name: str) -> None:
    """With its key it is served whole."""
    text = cut_config(SHIPPED, [name])
    known = dict.fromkeys(PROVIDERS[name].variables, "a-value-for-tests")
    assert [one.message for one in check_text(text, known)] == []
    assert yaml.safe_load(text)["model_list"] == list(PROVIDERS[name].deployments)


def test_fallbacks_and_aliases_lead_to_kept_models_only() -> None:
    """In the words of the shipped file, comments too."""
    text = cut_config(SHIPPED, ["anthropic", "gemini"])
    router = yaml.safe_load(text)["router_settings"]
    assert {"claude-haiku-4-5": ["gemini-2.5-flash"]} in router["fallbacks"]
    assert router["model_group_alias"]["claude-3-haiku"] == "claude-haiku-4-5"
    assert "gpt" not in str(router)
    assert "Names the older documents call" in text
    assert "fallbacks:" not in cut_config(SHIPPED, ["voyage"])


def test_an_edited_file_needs_no_more_than_a_name_and_a_model() -> None:
    """What LiteLLM does not require: `model_info`, aliases, fallbacks."""
    own = "  - model_name: own\n    litellm_params: {model: groq/own, api_key: os.environ/GROQ_API_KEY}\n"
    plain = f"model_list:\n{own}\nrouter_settings:\n  timeout: 5\n"
    assert read_providers(plain)["groq"].chat_models == ("own",)
    assert default_model(plain, "gpt-3.5-turbo", ["groq"]) == "own"
    edited = SHIPPED.replace("model_list:\n", f"model_list:\n{own}", 1)
    for text in (plain, edited):
        assert yaml.safe_load(cut_config(text, ["groq"]))["model_list"][0]["model_name"] == "own"


@pytest.mark.parametrize("text", ["model_list: [a]\n", "[]\n", "model_list:\n  - {\n"])
def test_a_file_in_another_style_ends_the_command_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """It names the file."""
    (tmp_path / "litellm-config.yaml").write_text(text)
    monkeypatch.setattr(environments, "shipped_file", tmp_path.joinpath)
    shipped_providers.cache_clear()
    with pytest.raises(
        CommandFailed, match=f"^{tmp_path}/litellm-config.yaml: it is not written as"
    ) as ended:
        shipped_providers()
    assert ended.value.code == EXIT_WRONG_INPUT


@pytest.mark.parametrize(
    ("kept", "model"),
    [
        (["openai", "groq"], None),
        (["anthropic"], "claude-haiku-4-5"),
        (["groq"], "groq-gpt-oss-120b"),
        (["voyage"], None),
    ],
)
def test_a_default_model_that_is_left_out_has_a_stand_in(kept: list[str], model: str | None) -> None:
    """Its first fallback that is kept, else the first chat model."""
    assert default_model(SHIPPED, "gpt-3.5-turbo", kept) == model
