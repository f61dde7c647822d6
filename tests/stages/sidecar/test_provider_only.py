"""During a call the sidecar connects to the call's provider only: each of its connections is recorded."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sidecars import Json, Mode, Provider, Sidecar, deployment, run_sidecar

PICTURE = "https://pictures.example.com/large.png"
INLINE = frozenset({"gemini", "prompt", "prompts/*"})
"""Groups that are given pictures inline, so that the sidecar has to fetch them."""
MODELS = {
    "vllm": "hosted_vllm/meta-llama/Llama-3.1-8B-Instruct",
    "llama-2": "openai/llama-2-7b",
    "command-r": "openai/command-r-plus",
    "cerebras": "cerebras/llama-3.3-70b",
    "groq": "groq/llama-3.3-70b-versatile",
    "together": "together_ai/meta-llama/Llama-3-8b-chat-hf",
    "huggingface": "huggingface/meta-llama/Llama-3.1-8B-Instruct",
    "text": "text-completion-openai/meta-llama/Llama-3.1-8B",
    "ollama": "ollama_chat/unheard-of",
    "prompt": "ollama/unheard-of",
    "lemonade": "lemonade/unheard-of",
    "anthropic": "anthropic/claude-unheard-of",
    "openai": "openai/gpt-4o",
    "gemini": "gemini/gemini-unheard-of",
    "prompts/*": "ollama/*",
    "chats/*": "ollama_chat/*",
}
"""Names for which LiteLLM knows a tokenizer at a hub, and servers it would ask about their models."""
WATSONX, NLP_CLOUD = "watsonx_text/openai/gpt-oss-unheard-of", "nlp_cloud/unheard-of"
"""Whose prompt has a template at a hub; which LiteLLM calls by a client that blocks."""
MODEL_SERVER_PORTS = frozenset({8000, 11434})
"""Where LiteLLM looks for Lemonade and Ollama, and asks about models whose address it does not use."""
OWN_TOKENIZER: Json = {"identifier": "deepseek-ai/DeepSeek-V3-Base", "revision": "main", "auth_token": None}


@dataclass(frozen=True, slots=True)
class RecordedSidecar:
    """A sidecar without a route to other networks, and its connections."""

    sidecar: Sidecar
    file: Path

    def connections(self) -> list[Json]:
        """Return every connection and name look-up but those to the provider."""
        port = urlsplit(self.sidecar.provider.url).port
        lines = self.file.read_text(encoding="utf-8").splitlines()
        return [one for one in map(json.loads, lines) if (one["host"], one["port"]) != ("127.0.0.1", port)]


def unpriced(group: str, model: str, provider: Provider) -> Json:
    """A deployment without a price in the file."""
    info = {"id": group, "custom_tokenizer": OWN_TOKENIZER} if group == "openai" else {"id": group}
    return deployment(group, model, provider) | {"model_info": info}


@pytest.fixture(scope="module")
def recorded(provider: Provider, service_folder: Path) -> Iterator[RecordedSidecar]:
    """A sidecar with one group for each name."""
    file = service_folder / "watched-connections.jsonl"
    models = [unpriced(group, model, provider) for group, model in MODELS.items()]
    models.append(deployment("watsonx", WATSONX, provider, token="t", project_id="p"))
    models.append(deployment("nlp", NLP_CLOUD, provider, api_base=f"{provider.url}/"))
    config = {"model_list": models, "router_settings": {"num_retries": 0, "enable_pre_call_checks": True}}
    config["litellm_settings"] = {"disable_hf_tokenizer_download": False}
    with run_sidecar(config, provider, service_folder, WATCHED_FILE=str(file), HF_HUB_OFFLINE="0") as started:
        yield RecordedSidecar(started, file)


def content(*, picture: bool, counted: bool) -> str | list[Json]:
    """Return a prompt, with a large linked image on request."""
    directive = json.dumps({"do": "ok", "counted": counted})
    link = {"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}}
    return [{"type": "text", "text": directive}, link] if picture else directive


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "uncounted"])
@pytest.mark.parametrize("picture", [False, True], ids=["text", "picture"])
@pytest.mark.parametrize("mode", ["chat", "stream"])
@pytest.mark.parametrize("group", MODELS)
async def test_a_call_contacts_its_provider_only(
    recorded: RecordedSidecar, group: str, mode: Mode, *, picture: bool, counted: bool
) -> None:
    """No tokenizer, no limits, no image; one request, whoever states the tokens."""
    fetched = picture and group in INLINE
    before, calls = recorded.connections(), await recorded.sidecar.provider.requests()
    fields: Json = {"messages": [{"role": "user", "content": content(picture=picture, counted=counted)}]}
    answer = await recorded.sidecar.ask(mode, group.replace("*", "unheard-of"), "", fields=fields)
    assert answer.status == (400 if fetched else 200), answer.text
    new = recorded.connections()[len(before) :]
    assert [(one["kind"], one["host"]) for one in new] == [("lookup", "pictures.example.com")] * fetched
    assert await recorded.sidecar.provider.requests() - calls == (0 if fetched else 1)


async def test_the_template_of_a_prompt_is_not_loaded(recorded: RecordedSidecar) -> None:
    """The prompt is sent in LiteLLM's usual one."""
    before, calls = recorded.connections(), await recorded.sidecar.provider.requests()
    await recorded.sidecar.chat("watsonx", "hi")
    assert await recorded.sidecar.provider.requests() - calls == 1
    assert recorded.connections() == before


FAMILIES = ("openai", "vllm", "anthropic", "gemini", "ollama", "text", "huggingface")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(("group", "mode"), [*product(FAMILIES, ("chat", "stream")), ("nlp", "chat")])
async def test_a_provider_s_redirect_is_not_followed(
    recorded: RecordedSidecar, group: str, mode: Mode, status: int
) -> None:
    """The call fails as the provider's error; the prompt is sent nowhere else."""
    mark = str(uuid4())
    answer = await recorded.sidecar.ask(mode, group, mark, do=f"status-{status}")
    assert answer.status in {500, 502}, answer.text
    [call] = await recorded.sidecar.provider.calls(mark)
    assert not call["path"].startswith("/elsewhere")


def test_the_start_contacts_no_other_host(recorded: RecordedSidecar) -> None:
    """Nor a model server on this machine: all attempts so far were to an image's address, or a warm-up's."""
    found = recorded.connections()
    assert {one["host"] for one in found} <= {"127.0.0.1", "pictures.example.com"}
    assert MODEL_SERVER_PORTS.isdisjoint(one["port"] for one in found)
