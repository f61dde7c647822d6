"""A real sidecar with a deployment of each family, all played by the scripted provider."""

import json
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import vertex_account
import warm_sidecars
from warm_sidecars import passed_on

from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.endpoints import Endpoint
from llm_proxy.stack import probe, process
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.probe import is_up
from llm_proxy.stack.process_specs import SidecarBackends, sidecar_spec

Json = dict[str, Any]
KEY = "sk-fields-0123456789abcdef"
TESTS = Path(__file__).parent
DEPLOYMENTS = {
    "OpenAI": ("openai/gpt-4o-mini", "/v1"),
    "OpenAI-compatible": ("openai/plain", "/v1"),
    "Anthropic": ("anthropic/claude-sonnet-4-20250514", ""),
    "Gemini": ("gemini/gemini-2.5-flash", ""),
    "Ollama": ("ollama_chat/llama3", ""),
    "Ollama's prompts": ("ollama/llama3", ""),
    "gpt-5": ("openai/gpt-5", "/v1"),
    "gpt-5.1": ("openai/gpt-5.1", "/v1"),
    "o3": ("openai/o3", "/v1"),
    "opus": ("anthropic/claude-opus-4-7", ""),
    "groq": ("groq/llama-3.3-70b-versatile", "/v1"),
    "mistral": ("mistral/mistral-large-latest", "/v1"),
    "cerebras": ("cerebras/gpt-oss-120b", "/v1"),
    "xai": ("xai/grok-4", "/v1"),
    "vllm": ("hosted_vllm/qwen", "/v1"),
    "openrouter": ("openrouter/anthropic/claude-sonnet-4", "/v1"),
    "azure": ("azure/gpt-4o", ""),
    "falls": ("openai/status-500", "/v1"),
    "completions": ("text-completion-openai/gpt-3.5-turbo-instruct", "/v1"),
    "plain embeddings": ("openai/bge-m3", "/v1"),
    "ollama embeddings": ("ollama/nomic-embed-text", ""),
    "lm_studio embeddings": ("lm_studio/bge", "/v1"),
    "embeddings": ("openai/text-embedding-3-small", "/v1"),
}
CLOUDS = {
    "Vertex": "vertex_ai/gemini-2.5-flash",
    "Bedrock": "bedrock/anthropic.claude-3-5-sonnet-20241022-v2:0",
}
ALL = {name: model for name, (model, _) in DEPLOYMENTS.items()} | CLOUDS
PROVIDERS = {name: frozenset({model.partition("/")[0]}) for name, model in ALL.items()}
MODELS = ModelIndex("none", PROVIDERS | {"mixed": frozenset({"openai", "anthropic"})})
LEAST: dict[Endpoint, Json] = {
    "chat.completions": {},
    "completions": {"prompt": "hi"},
    "embeddings": {"input": "hi"},
}


@dataclass(frozen=True, slots=True)
class AllProviders:
    """A sidecar and the provider behind it."""

    sidecar: httpx.Client
    provider: httpx.Client

    def ask(self, door: Endpoint, group: str, fields: Json) -> tuple[httpx.Response, list[Json]]:
        """The sidecar's answer, and the calls the provider saw."""
        said = (
            {"messages": [{"role": "user", "content": "hi"}]} if door == "chat.completions" else LEAST[door]
        )
        asked = json.dumps({"model": group, **said, **fields}).encode()
        call = OPENAI.parse(door, asked, NO_OPTIONS, MODELS, BodyLimits())
        self.provider.post("/_reset")
        body = {**call.body, "cache": {"no-cache": True, "no-store": True}}
        reply = self.sidecar.post(f"/v1/{door.replace('.', '/')}", json=body)
        return reply, self.provider.get("/_calls").json()["calls"]

    def send(self, door: Endpoint, group: str, fields: Json) -> tuple[int, Json | None]:
        """The status, and path and body as the provider saw them; None when it saw nothing."""
        reply, calls = self.ask(door, group, fields)
        return reply.status_code, {"path": calls[-1]["path"], **calls[-1]["body"]} if calls else None


def clouds(url: str) -> dict[str, Json]:
    """How the providers that want more than a key are reached."""
    account = vertex_account.made(url)
    return {
        "Vertex": {
            "api_base": url, "vertex_project": "p", "vertex_location": "us-central1",
            "vertex_credentials": account,
        },
        "Bedrock": {
            "aws_bedrock_runtime_endpoint": url, "aws_region_name": "us-east-1",
            "aws_access_key_id": "dummy", "aws_secret_access_key": "dummy",
        },
    }  # fmt: skip


@contextmanager
def run_all_providers(folder: Path, cache_redis_url: str) -> Generator[AllProviders]:
    """The sidecar and the provider, until the block ends."""
    provider_port, sidecar_port = probe.free_port(), probe.free_port()
    url = f"http://127.0.0.1:{provider_port}"
    config = folder / "fields.yaml"
    config.write_text(json.dumps(configuration(url)), encoding="utf-8")
    given = OperatorEnv(passed_on())
    provider = process.ProcessSpec(
        name="provider-of-fields",
        argv=(sys.executable, str(TESTS / "scripted_provider.py"), "--port", str(provider_port)),
        env=dict(os.environ),
        readiness_probe=lambda _: is_up(provider_port, "/_calls"),
        stop_signal=signal.SIGTERM,
    )
    behind = SidecarBackends(KEY, cache_redis_url, None, None)
    logs = folder / "logs"
    running = [
        process.start(provider, logs),
        warm_sidecars.start(sidecar_spec(9, sidecar_port, config, behind, given), logs),
    ]
    try:
        process.wait_until_ready(running)
        address, auth = f"http://127.0.0.1:{sidecar_port}", {"Authorization": f"Bearer {KEY}"}
        with (
            httpx.Client(base_url=address, headers=auth, timeout=30) as client,
            httpx.Client(base_url=url) as seen,
        ):
            yield AllProviders(client, seen)
    finally:
        process.stop(running)


def configuration(url: str) -> Json:
    """One group a family, one of two families, and one that falls back to another family."""
    named = [
        *DEPLOYMENTS.items(),
        *(("mixed", DEPLOYMENTS[name]) for name in ("OpenAI-compatible", "Anthropic")),
    ]
    deployments: list[Json] = [
        {
            "model_name": name,
            "litellm_params": {"model": model, "api_base": url + path, "api_key": "sk-nobody"},
        }
        for name, (model, path) in named
    ]
    deployments += [
        {"model_name": name, "litellm_params": {"model": CLOUDS[name], **params}}
        for name, params in clouds(url).items()
    ]
    rules: Json = {"num_retries": 0, "disable_cooldowns": True, "fallbacks": [{"falls": ["Anthropic"]}]}
    return {"model_list": deployments, "router_settings": rules}
