"""The configurations of other services' documents, word for word: checked without faults, and answering."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sidecars import Provider, Sidecar, run_sidecar_from_file

from llm_proxy.cli.config import check_text

FILES = Path(__file__).parents[2] / "owners_files"
NOTES = {
    "commented_key.yaml": {"general_settings.master_key"},
    "one_provider.yaml": {"general_settings.master_key"},
    "ollama.yaml": {"general_settings.master_key"},
    "several_providers.yaml": {
        "general_settings.master_key",
        "general_settings.database_url",
        "router_settings.fallbacks.gpt-4",
        "router_settings.rate_limit",
        "router_settings.retry_policy.delay",
        "router_settings.retry_policy.max_retries",
    },
    "described.yaml": {"general_settings.database_url"},
}
KEYS = {
    f"{name}_API_KEY": "sk-of-a-test"
    for name in ("OPENAI", "ANTHROPIC", "GEMINI", "GROQ", "OPENROUTER", "CEREBRAS", "VOYAGE")
}


@pytest.mark.parametrize(("name", "expected"), NOTES.items())
def test_it_is_checked_without_faults(name: str, expected: set[str]) -> None:
    """Keys in the file, and settings that LiteLLM does not have, are notes."""
    found = check_text((FILES / name).read_text("utf-8"), KEYS, FILES)
    assert not [one for one in found if one.is_fault]
    assert {one.path for one in found} == expected


def test_a_note_says_what_to_write() -> None:
    """For each setting that LiteLLM does not have."""
    text = (FILES / "several_providers.yaml").read_text("utf-8")
    notes = {one.path: one.message for one in check_text(text, {}, FILES)}
    assert "os.environ/LITELLM_MASTER_KEY" in notes["general_settings.master_key"]
    assert "rpm and tpm" in notes["router_settings.rate_limit"]
    assert "num_retries" in notes["router_settings.retry_policy.max_retries"]
    assert "router_settings.retry_after" in notes["router_settings.retry_policy.delay"]


@pytest.fixture(scope="module", params=sorted(NOTES))
def started(
    request: pytest.FixtureRequest, provider: Provider, service_folder: Path
) -> Iterator[tuple[str, Sidecar]]:
    """Each file's name, and a sidecar with it; OpenAI and Anthropic are the scripted provider."""
    name = str(request.param)
    bases = {"OPENAI_API_BASE": provider.base("openai"), "ANTHROPIC_API_BASE": provider.base("anthropic")}
    with run_sidecar_from_file(FILES / name, provider, service_folder, **KEYS, **bases) as sidecar:
        yield name, sidecar


GROUPS = {
    "commented_key.yaml": ({"gpt-3.5-turbo", "gpt-4"}, set[str]()),
    "one_provider.yaml": ({"gpt-3.5-turbo"}, set[str]()),
    "ollama.yaml": ({"gpt-3.5-turbo"}, {"llama2", "mistral"}),
    "several_providers.yaml": ({"gpt-4", "claude-3-haiku"}, {"azure-gpt-4", "local-llama"}),
    "described.yaml": (
        {"gpt-4o", "claude-3-5-sonnet"},
        {"gemini-2.0-flash", "llama-3.1-8b", "mistral", "llama-4-scout", "voyage-3"},
    ),
}
"""The groups that OpenAI and Anthropic answer, and those on addresses that nobody has here."""


async def test_it_starts_and_answers(started: tuple[str, Sidecar]) -> None:
    """Every group is served, retired models among them."""
    name, sidecar = started
    answering, others = GROUPS[name]
    served = {one["id"] for one in (await sidecar.get("/v1/models")).json["data"]}
    assert served == answering | others
    for group in answering:
        answer = await sidecar.chat(group, str(uuid4()), do="ok", text="an answer")
        assert answer.status == 200, answer.text
        assert answer.json["choices"][0]["message"]["content"] == "an answer"
