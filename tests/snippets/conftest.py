"""A stack as `make run` leaves it, before the scripted provider, in a folder where pages' snippets run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from page_session import Folder
from sidecars import Provider, deployment, run_provider
from up_command import run_up

from llm_proxy.stack.probe import free_port

CHAT = ("smollm2", "gpt-4o", "gpt-4o-mini", "gpt-5", "claude-sonnet-4-6", "gemini-2.5-flash")
EMBEDDING = "all-minilm-l6-v2"
ROOT = Path(__file__).parents[2]


def configuration(provider: Provider) -> str:
    """Returns LiteLLM's configuration with the models that pages name."""
    price = {"input_cost_per_token": 2.5e-6, "output_cost_per_token": 1e-5}
    models = [deployment(name, f"openai/{name}--helpful", provider, api_key="none", **price) for name in CHAT]
    models.append(deployment(EMBEDDING, f"openai/{EMBEDDING}", provider, api_key="none"))
    for model in models:
        model["model_info"] = model.get("model_info", {}) | {"id": model["model_name"]}
    models[-1]["model_info"]["mode"] = "embedding"
    return yaml.safe_dump({"model_list": models})


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """The scripted provider."""
    with run_provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Folder]:
    """The folder of a running `llm-proxy up`, its console too."""
    path = tmp_path_factory.mktemp("reader")
    (path / "litellm-config.yaml").write_text(configuration(provider), encoding="utf-8")
    (path / ".venv").symlink_to(ROOT / ".venv")
    console = free_port()
    with run_up(path, "--no-local-model", console_port=console) as up:
        up.wait_for("Ctrl-C stops everything")
        yield Folder(path, {7007: up.port, 7070: console})
