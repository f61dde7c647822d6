"""`llm-proxy up` with an owner's file as it is: LiteLLM's clients go on with the key they have."""

import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from dotenv import dotenv_values
from running_stack import say, script
from sidecars import Provider, run_provider
from up_command import UpCommand, run_up

pytestmark = pytest.mark.timeout(200)
FILES = Path(__file__).parents[1] / "owners_files"


@pytest.fixture(scope="module")
def provider(service_folder: Path) -> Iterator[Provider]:
    """The scripted provider, who sees the keys it is sent."""
    with run_provider(service_folder) as running:
        yield running


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[UpCommand]:
    """A stack without stores; a provider's key is in a file, one variable is misspelt."""
    folder = tmp_path_factory.mktemp("owners")
    (folder / "key").write_text("sk-ant-of-a-file\n")
    lines = {
        "OPENAI_API_BASE": provider.base("openai"),
        "ANTHROPIC_API_BASE": provider.base("anthropic"),
        "ANTHROPIC_API_KEY_FILE": folder / "key",
        "LLM_PROXY__AGENT_RMP": "5",
    }
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    text = (FILES / "several_providers.yaml").read_text("utf-8")
    (folder / "config.yaml").write_text(text.replace('"sk-ant-..."', "os.environ/ANTHROPIC_API_KEY"))
    words = ("--no-stores", "--no-local-model", "--config", str(folder / "config.yaml"))
    with run_up(folder, *words) as started:
        started.wait_for("Ctrl-C stops everything")
        yield started


def ask(up: UpCommand, key: str, model: str) -> httpx.Response:
    body = {"model": model, "messages": say(script(do="ok", text="an answer"))}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"http://127.0.0.1:{up.port}/chat/completions", json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("model", ["gpt-4", "claude-3-haiku"])
def test_the_file_s_master_key_calls_its_models(up: UpCommand, model: str) -> None:
    """As its clients do today."""
    answer = ask(up, "sk-1234", model)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "an answer"


def test_it_is_an_admin_s_nowhere(up: UpCommand) -> None:
    """Nor is another key a caller's."""
    admin = httpx.get(f"http://127.0.0.1:{up.port}/admin/keys", headers={"Authorization": "Bearer sk-1234"})
    assert admin.status_code in {401, 403}
    assert ask(up, "sk-12345", "gpt-4").status_code == 401


def test_the_key_between_gateway_and_sidecar_is_drawn_apart(up: UpCommand) -> None:
    """In `.env`, which only its owner reads; no caller's credential."""
    created = dotenv_values(up.folder / ".env")
    between = created["LLM_PROXY__LITELLM_API_KEY"]
    assert between is not None
    assert "LITELLM_MASTER_KEY" not in created
    assert ask(up, between, "gpt-4").status_code == 401
    assert stat.S_IMODE((up.folder / ".env").stat().st_mode) == 0o600


async def test_a_key_in_a_file_reaches_the_provider(up: UpCommand, provider: Provider) -> None:
    """Without the line's end."""
    ask(up, "sk-1234", "claude-3-haiku")
    sent = [call["headers"].get("x-api-key") for call in await provider.calls("claude-3-haiku")]
    assert sent
    assert set(sent) == {"sk-ant-of-a-file"}


def test_a_misspelt_setting_is_told(up: UpCommand) -> None:
    """By the launcher."""
    assert "LLM_PROXY__AGENT_RMP is no setting: did you mean LLM_PROXY__AGENT_RPM?" in up.output
