"""`litellm-config.yaml` as shipped: every deployment answers a call, with any keys and with none."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import vertex_account
import yaml
from loopback import NO_TLS
from sidecars import KEY, Answer, Json, Provider, Sidecar, run_sidecar

from llm_proxy.sidecar.config import build_effective_config
from llm_proxy.sidecar.config_check import check_config
from llm_proxy.sidecar.environment import referenced_variables
from llm_proxy.sidecar.model_substitution import FALLBACK_KEYS

FILE = Path(__file__).parents[3] / "litellm-config.yaml"
TEXT = FILE.read_text(encoding="utf-8")
CONFIG: Json = yaml.safe_load(TEXT)
BASES = {"anthropic": "", "azure": "", "gemini": "/v1beta", "vertex_ai": "", "ollama_chat": "", "cohere": ""}
ASKED: dict[str, tuple[str, Json, str]] = {
    "embedding": ("/v1/embeddings", {"input": "a cat"}, '"embedding":'),
    "rerank": ("/v1/rerank", {"query": "a cat", "documents": ["a cat", "a dog"]}, '"relevance_score":'),
    "moderation": ("/v1/moderations", {"input": "a cat"}, '"flagged":'),
    "image_generation": ("/v1/images/generations", {"prompt": "a cat"}, '"b64_json":'),
    "audio_speech": ("/v1/audio/speech", {"input": "a cat", "voice": "alloy"}, "mp3"),
}
"""A mode -> where its models are called, with what, and what the answer holds."""
BASES_OF_MODES = {("cohere", "embedding"): "/v2/embed", ("voyage", "rerank"): ""}
OLD_NAMES = (
    *(
        "gpt-4",
        "gpt-4-turbo",
        "gpt-3.5-turbo",
        "gpt-4.1-mini",
        "o1",
        "claude-3-sonnet",
        "claude-3-haiku",
        "claude-3",
    ),
    *("gemini-pro", "gemini-1.5-pro", "gemini-1.5-flash", "azure-gpt-4", "llama2", "mistral", "local-llama"),
    *("dagi-local-8b", "deepseek-r1", "local-chat", "local-embed", "gpt-4-1106-preview", "gpt-4o", "o3"),
    *("claude-3-opus-20240229", "claude-3-haiku-20240307", "claude-3-5-sonnet-20241022", "gemini-2.0-flash"),
    *("groq-llama-3.1-70b", "groq-llama-3.1-8b", "cerebras-llama-3.1-8b", "cerebras-llama-3.3-70b"),
    *("cerebras-llama-4-scout", "openrouter-mistral", "openrouter-qwen", "openrouter-deepseek"),
    *("openrouter-llama", "gemini-2.5-pro", "gpt-4.1"),
)


def deployment_id(deployment: Json) -> str:
    """The id in `model_info`."""
    return str(deployment["model_info"]["id"])


IDS = [deployment_id(deployment) for deployment in CONFIG["model_list"]]


def at_provider(deployment: Json, provider: Provider) -> Json:
    """The deployment with the scripted provider's address, alone under its id; a wildcard keeps its name."""
    family = deployment["litellm_params"]["model"].partition("/")[0]
    base = BASES_OF_MODES.get(
        (family, deployment["model_info"].get("mode", "chat")), BASES.get(family, "/v1")
    )
    params = deployment["litellm_params"] | {"api_base": provider.url + base}
    wildcard = "*" in deployment["model_name"]
    name = deployment["model_name"] if wildcard else deployment_id(deployment)
    return deployment | {"model_name": name, "litellm_params": params}


@pytest.fixture(scope="module")
def credentials(provider: Provider, service_folder: Path) -> Path:
    """A service account's file; the scripted provider issues its tokens."""
    file = service_folder / "service-account.json"
    file.write_text(vertex_account.made(provider.url), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def every_deployment(provider: Provider, service_folder: Path, credentials: Path) -> Iterator[Sidecar]:
    """A sidecar with all deployments, dummy keys, and the scripted provider's address."""
    keys = {name: f"dummy-{name.lower()}" for name in referenced_variables(TEXT)}
    keys |= {
        "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
        "VERTEX_AI_LOCATION": "",
        "AZURE_API_VERSION": "",
    }
    config = CONFIG | {"model_list": [at_provider(one, provider) for one in CONFIG["model_list"]]}
    config["router_settings"] = {"num_retries": 0}
    with run_sidecar(config, provider, service_folder, **keys) as started:
        yield started


async def transcribe(sidecar: Sidecar, model: str) -> Answer:
    """The sidecar's transcription of a file."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=40) as client:
        reply = await client.post(
            f"{sidecar.url}/v1/audio/transcriptions",
            data={"model": model},
            files={"file": ("a.mp3", b"ID3 a sound")},
            headers={"authorization": f"Bearer {KEY}"},
        )
    return Answer(reply.status_code, reply.headers, reply.text)


@pytest.mark.parametrize("deployment", CONFIG["model_list"], ids=IDS)
async def test_every_deployment_answers_a_call(every_deployment: Sidecar, deployment: Json) -> None:
    """With a dummy key, in its own provider's format."""
    wildcard = "*" in deployment["model_name"]
    model = (
        deployment["model_name"].replace("*", "gemini-any-name") if wildcard else deployment_id(deployment)
    )
    mode = deployment["model_info"].get("mode", "chat")
    if mode in ASKED:
        path, fields, words = ASKED[mode]
        answer = await every_deployment.post(path, {"model": model, **fields})
        assert answer.status == 200, answer.text
        assert words in answer.text
    elif mode == "audio_transcription":
        answer = await transcribe(every_deployment, model)
        assert answer.status == 200, answer.text
        assert answer.json["text"]
    else:
        answer = await every_deployment.chat(model, f"shipped-{model}", do="ok", text="an answer")
        assert answer.status == 200, answer.text
        assert answer.json["choices"][0]["message"]["content"] == "an answer"
    assert answer.headers["x-litellm-model-id"] == deployment_id(deployment)


def test_without_any_key_nothing_is_served() -> None:
    """Everything is left out, each with a note; no name leads to a missing group."""
    found = build_effective_config(CONFIG, {})
    assert found.config["model_list"] == []
    assert found.config["router_settings"]["model_group_alias"] == {}
    assert found.config["router_settings"]["fallbacks"] == []
    assert len([note for note in found.notes if "not set" in note]) == len(CONFIG["model_list"])


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OLLAMA_API_BASE"])
def test_with_one_key_only_its_deployments_are_served(name: str) -> None:
    """Every remaining alias and fallback leads to a group."""
    config = build_effective_config(CONFIG, {name: "x"}).config
    groups = {deployment["model_name"] for deployment in config["model_list"]}
    assert groups
    assert set(config["router_settings"]["model_group_alias"].values()) <= groups
    for rule in config["router_settings"]["fallbacks"]:
        for source, targets in rule.items():
            assert {source, *targets} <= groups | set(config["router_settings"]["model_group_alias"])


def test_the_file_has_no_faults() -> None:
    """No ignored key, no unknown name, no key in the file."""
    assert [found for found in check_config(CONFIG, {}) if found.is_fault] == []


def test_no_fallback_is_remote_or_the_test_model() -> None:
    """With any keys: private prompts stay local, and the test model answers for no real one."""
    assert not [found for found in check_config(CONFIG, {}) if "remote" in found.message]
    router = CONFIG["router_settings"]
    lists = [router.get(key, []) for key in FALLBACK_KEYS] + [[{"*": router.get("default_fallbacks", [])}]]
    targets = {target for rules in lists for rule in rules for group in rule.values() for target in group}
    toys = {one["model_name"] for one in CONFIG["model_list"] if one["model_info"].get("provider") == "local"}
    assert "smollm2" in toys
    assert not targets & (toys | {"local-chat", "local-embed"})


@pytest.mark.parametrize("name", OLD_NAMES)
def test_names_of_the_older_documents_exist(name: str) -> None:
    """As groups or as aliases."""
    groups = {deployment["model_name"] for deployment in CONFIG["model_list"]}
    assert name in groups | set(CONFIG["router_settings"]["model_group_alias"])


def test_deployment_ids_are_unique() -> None:
    """Logs and bills name a deployment by its id."""
    assert len(set(IDS)) == len(IDS)
    assert "key" not in json.dumps(IDS)
