"""`llm-proxy import config`: older gateways' files, word for word, become what the sidecar serves."""

import stat
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from dotenv import dotenv_values
from sidecars import Json, Provider, run_sidecar_from_file

from llm_proxy.cli.config import check_text

FILES = Path(__file__).parents[2] / "owners_files"
MODELS, VARIABLES = "litellm-config.imported.yaml", ".env.imported"


def import_file(file: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "llm_proxy", "import", "config", str(file), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def imported(file: Path, folder: Path) -> tuple[list[Json], dict[str, str | None], str]:
    """The model list, the variables and what the command said."""
    done = import_file(file, folder)
    assert done.returncode == 0, done.stderr
    text = (folder / MODELS).read_text("utf-8")
    variables = dotenv_values(folder / VARIABLES)
    given = {name: value or "set" for name, value in variables.items()} | {"OPENAI_API_KEY": "sk-x"}
    assert not [one for one in check_text(text, given, folder) if one.is_fault]
    return yaml.safe_load(text)["model_list"], variables, done.stdout


def test_providers_and_models_of_a_yaml(tmp_path: Path) -> None:
    """Prices are a token's; the key stays in its variable; a provider without a model is reported."""
    models, variables, said = imported(FILES / "config.yaml", tmp_path)
    assert models == [
        {
            "model_name": "gpt-4.1-mini",
            "litellm_params": {
                "model": "openai/gpt-4-1106-preview",
                "api_key": "os.environ/OPENAI_API_KEY",
            },
            "model_info": {"input_cost_per_token": 0.00001, "output_cost_per_token": 0.00003},
        }
    ]
    assert variables == {}
    assert "# OPENAI_API_KEY=" in (tmp_path / VARIABLES).read_text()
    assert "providers.local: left out: no model uses it" in said


def test_an_added_provider_is_asked_as_a_server_with_openai_s_api(tmp_path: Path) -> None:
    """At its address, with the key of its variable."""
    models, _, said = imported(FILES / "added_provider.yaml", tmp_path)
    assert models[0]["litellm_params"] == {
        "model": "openai/my-model-v1",
        "api_key": "os.environ/MY_PROVIDER_KEY",
        "api_base": "https://api.myprovider.com",
    }
    assert "providers.my_provider: called as an OpenAI-compatible server" in said


def test_node_config_s_file(tmp_path: Path) -> None:
    """Each secret goes into a file that only its owner reads, and is not printed."""
    models, variables, said = imported(FILES / "local.yml", tmp_path)
    assert [one["model_name"] for one in models] == ["openai/*", "anthropic/*", "vertex_ai/*"]
    assert variables == {
        "OPENAI_API_KEY": "your-openai-api-key-here",
        "ANTHROPIC_API_KEY": "your-anthropic-api-key-here",
        "VERTEX_AI_PROJECT_ID": "your-gcp-project-id",
        "VERTEX_AI_LOCATION": "us-central1",
        "LANGFUSE_SECRET_KEY": "your-langfuse-secret-key-here",
        "LANGFUSE_PUBLIC_KEY": "your-langfuse-public-key-here",
        "LANGFUSE_BASE_URL": "https://cloud.langfuse.com",
        "LLM_PROXY__PORT": "54011",
        "LLM_PROXY__HOST": "0.0.0.0",  # noqa: S104 -- the file's
    }
    assert stat.S_IMODE((tmp_path / VARIABLES).stat().st_mode) == 0o600
    assert "your-" not in said
    assert "PUBLIC_BIND_OK" in said


OLLAMA = """
providers:
  local: {base_url: "http://localhost:11434", retries: 2}
  groq: {base_url: "https://api.groq.com/openai/v1", api_key: "g$k 'q' \\\\n"}
models:
  dagi-local-8b: {provider: local, physical_name: "qwen2.5:8b", max_tokens: 4096}
  fast: {provider: groq, physical_name: llama-3.1-8b-instant, cost_per_1k_prompt: 0.00005, tier: low}
rate_limits: {per_agent: 10}
"""


def test_other_providers_and_keys_without_a_counterpart(tmp_path: Path) -> None:
    """Ollama by its port; a key in the file moves into a variable, whatever it holds."""
    (tmp_path / "config.yaml").write_text(OLLAMA)
    models, variables, said = imported(tmp_path / "config.yaml", tmp_path)
    local, fast = models
    assert local["litellm_params"] == {
        "model": "ollama_chat/qwen2.5:8b",
        "api_base": "http://localhost:11434",
    }
    assert local["model_info"] == {"max_output_tokens": 4096}
    assert fast["litellm_params"] == {
        "model": "groq/llama-3.1-8b-instant",
        "api_key": "os.environ/GROQ_API_KEY",
    }
    assert variables == {"GROQ_API_KEY": "g$k 'q' \\n"}
    for path in ("rate_limits", "providers.local.retries", "models.fast.tier"):
        assert f"note   {path}: no counterpart" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model_list: []", "is a LiteLLM configuration"),
        ("a: b", "has neither"),
        ("models: {m: {provider: nobody}}", "models.m: there is no provider nobody"),
        ("models: [", "cannot be read"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    """Nothing is written."""
    (tmp_path / "f.yaml").write_text(text)
    done = import_file(tmp_path / "f.yaml", tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / MODELS).exists()


def test_no_file_is_replaced(tmp_path: Path) -> None:
    """The second run is told of the first one's."""
    imported(FILES / "config.yaml", tmp_path)
    again = import_file(FILES / "config.yaml", tmp_path)
    assert again.returncode == 2
    assert f"{MODELS} exists" in again.stderr


@pytest.mark.parametrize(
    ("name", "group"), [("config.yaml", "gpt-4.1-mini"), ("local.yml", "anthropic/claude-3-sonnet")]
)
async def test_a_sidecar_answers_with_it(
    name: str, group: str, tmp_path: Path, provider: Provider, service_folder: Path
) -> None:
    """OpenAI and Anthropic are the scripted provider."""
    _, variables, _ = imported(FILES / name, tmp_path)
    env = {"OPENAI_API_KEY": "sk-x"} | {key: value or "" for key, value in variables.items()}
    env = {key: value for key, value in env.items() if not key.startswith(("LANGFUSE", "LLM_PROXY"))}
    env |= {"OPENAI_API_BASE": provider.base("openai"), "ANTHROPIC_API_BASE": provider.base("anthropic")}
    with run_sidecar_from_file(tmp_path / MODELS, provider, service_folder, **env) as sidecar:
        answer = await sidecar.chat(group, str(uuid4()), do="ok", text="an answer")
    assert answer.status == 200, answer.text
    assert answer.json["choices"][0]["message"]["content"] == "an answer"
