"""The whole stack, started once for the tests of the flow."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
import warm_sidecars
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY, MASTER_KEY, PROVIDER_KEY, RunningStack
from sidecars import Provider, provider_spec
from stack_processes import gateway_spec
from two_sidecars import TwoSidecars, run_two_sidecars
from warm_sidecars import passed_on

from llm_proxy.stack import probe, process
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.process_specs import SidecarBackends, sidecar_spec

CONFIG = """
model_list:
  - model_name: "p/*"
    litellm_params: &scripted
      model: openai/*
      api_base: {provider}/v1
      api_key: {key}
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000002
    model_info: {{id: scripted}}
  - model_name: plain
    litellm_params: {{<<: *scripted, model: openai/plain}}
    model_info: {{id: plain}}
  - model_name: smollm2
    litellm_params: {{<<: *scripted, model: openai/smollm2}}
    model_info: {{id: smollm2}}
  - model_name: all-minilm-l6-v2
    litellm_params: {{<<: *scripted, model: openai/all-minilm-l6-v2}}
    model_info: {{id: all-minilm-l6-v2, mode: embedding}}
  - model_name: retried
    litellm_params: {{<<: *scripted, model: openai/retried}}
    model_info: {{id: retried, provider: inhouse}}
  - model_name: "deepseek/*"
    litellm_params: *scripted
    model_info: {{id: any-deepseek}}
  - model_name: wrong-key
    litellm_params: {{<<: *scripted, model: openai/status-401}}
    model_info: {{id: wrong-key, provider: openai}}
  - model_name: claude
    litellm_params: {{model: anthropic/claude-sonnet-4-20250514, api_base: "{provider}", api_key: {key}}}
    model_info: {{id: claude}}
  - model_name: native-claude
    litellm_params: {{model: anthropic/claude-sonnet-4-5-20250929, api_base: "{provider}", api_key: {key}}}
    model_info: {{id: native-claude, supported_endpoints: [/v1/messages]}}
  - model_name: gemini
    litellm_params: {{model: gemini/gemini-2.5-flash, api_base: "{provider}", api_key: {key}}}
    model_info: {{id: gemini}}
  - model_name: native-gemini
    litellm_params: {{model: gemini/gemini-2.5-flash, api_base: "{provider}/v1beta", api_key: {key}}}
    model_info: {{id: native-gemini, supported_endpoints: [/v1beta/generateContent]}}
  - model_name: native-gpt
    litellm_params: {{<<: *scripted, model: openai/gpt-4.1}}
    model_info: {{id: native-gpt, supported_endpoints: [/v1/responses]}}
  - model_name: native-pair
    litellm_params: {{<<: *scripted, model: openai/gpt-4.1}}
    model_info: {{id: native-pair-a, supported_endpoints: [/v1/responses]}}
  - model_name: native-pair
    litellm_params: {{<<: *scripted, model: openai/gpt-4.1, api_key: {key}-b}}
    model_info: {{id: native-pair-b, supported_endpoints: [/v1/responses]}}
  - model_name: gpt-3.5-turbo
    litellm_params: {{<<: *scripted, model: openai/gpt-3.5-turbo}}
    model_info: {{id: gpt-3.5-turbo}}
  - model_name: gpt-4
    litellm_params: {{<<: *scripted, model: openai/gpt-4--helpful}}
    model_info: {{id: gpt-4}}
  - model_name: ranker
    litellm_params: {{model: cohere/rerank-v3.5, api_base: "{provider}", api_key: {key}}}
    model_info: {{id: ranker}}
  - model_name: ranker-by-token
    litellm_params: {{model: hosted_vllm/vllm-reranker, api_base: "{provider}", api_key: {key}}}
    model_info: {{id: ranker-by-token, mode: rerank, input_cost_per_token: 0.000001}}
  - model_name: moderator
    litellm_params: {{model: openai/omni-moderation-latest, api_base: "{provider}/v1", api_key: {key}}}
    model_info: {{id: moderator}}
  - model_name: painter
    litellm_params: {{model: openai/gpt-image-1.5, api_base: "{provider}/v1", api_key: {key}}}
    model_info: {{id: painter}}
  - model_name: azure-painter
    litellm_params:
      model: azure/gpt-image-1
      api_base: "{provider}"
      api_key: {key}
      api_version: 2025-04-01-preview
    model_info: {{id: azure-painter}}
  - model_name: imagen
    litellm_params: {{model: gemini/imagen-3.0-generate-001, api_base: "{provider}/v1beta", api_key: {key}}}
    model_info: {{id: imagen}}
  - model_name: dalle
    litellm_params: {{model: openai/dall-e-3, api_base: "{provider}/v1", api_key: {key}}}
    model_info: {{id: dalle, mode: image_generation}}
  - model_name: speaker
    litellm_params: {{model: openai/gpt-4o-mini-tts, api_base: "{provider}/v1", api_key: {key}}}
    model_info: {{id: speaker}}
  - model_name: speaker-by-character
    litellm_params: {{model: openai/tts-1, api_base: "{provider}/v1", api_key: {key}}}
    model_info: {{id: speaker-by-character}}
  - model_name: deepgram
    litellm_params: {{model: deepgram/nova-2, api_base: "{provider}/v1", api_key: {key}}}
    model_info: {{id: deepgram}}
router_settings:
  model_group_alias: {{nickname: claude}}
  num_retries: 1  # beside 0 LiteLLM reads no policy
  retry_policy: {{DefaultRetries: 0}}
  model_group_retry_policy: {{retried: {{InternalServerErrorRetries: 2}}}}
  disable_cooldowns: true
  fallbacks: [{{wrong-key: [plain]}}, {{deepseek/own: [plain]}}]
"""


Started = tuple[dict[str, int], list[process.ManagedProcess]]


@pytest.fixture(scope="session")
def started_stack(
    service_folder: Path, postgres_url: str, limits_redis_url: str, cache_redis_url: str
) -> Iterator[Started]:
    """Provider, sidecar and gateway, running; their ports by name."""
    given = OperatorEnv(passed_on())
    at = {name: probe.free_port() for name in ("provider", "sidecar", "gateway")}
    config = service_folder / "stack.yaml"
    config.write_text(
        CONFIG.format(key=PROVIDER_KEY, provider=f"http://127.0.0.1:{at['provider']}"), encoding="utf-8"
    )
    behind = SidecarBackends(MASTER_KEY, cache_redis_url, None, None)
    settings = {
        "LLM_PROXY__DEFAULT_MODEL": "plain",
        "LLM_PROXY__DEFAULT_MODERATION_MODEL": "moderator",
        "LLM_PROXY__DEFAULT_IMAGE_MODEL": "painter",
        "LLM_PROXY__IDLE_TIMEOUT_S": "3",
        "LLM_PROXY__BODY_TIMEOUT_S": "3",
        "LLM_PROXY__MESSAGES_PING_S": "0.6",
        "DATABASE_URL": postgres_url,
        "LIMITS_REDIS_URL": limits_redis_url,
        "CACHE_REDIS_URL": cache_redis_url,
        "LLM_PROXY__SEALING_KEYS": f"k1={'s' * 32}",
        "LLM_PROXY__STORE_RESPONSES": "keeper,other-keeper",
    }
    sidecar_url = f"http://127.0.0.1:{at['sidecar']}"
    gateway = gateway_spec(at["gateway"], service_folder, [sidecar_url], settings)
    logs = service_folder / "logs"
    running = [
        process.start(provider_spec(at["provider"]), logs),
        warm_sidecars.start(sidecar_spec(1, at["sidecar"], config, behind, given), logs),
        process.start(replace(gateway, name="gateway"), logs),  # tests read its log by this name
    ]
    try:
        process.wait_until_ready(running)
        yield at, running
    finally:
        process.stop(running)


@pytest.fixture(scope="session")
def stack_ports(started_stack: Started) -> dict[str, int]:
    """The ports of provider, sidecar and gateway by name."""
    return started_stack[0]


@pytest.fixture
async def stack(started_stack: Started) -> AsyncIterator[RunningStack]:
    """The running stack, the provider's memory wiped."""
    stack_ports, running = started_stack
    for one in running:
        assert one.is_alive(), f"{one.spec.name} ended with code {one.popen.returncode}; {one.log_end()}"
    url, provider_url = (f"http://127.0.0.1:{stack_ports[name]}" for name in ("gateway", "provider"))
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        await client.post(f"{provider_url}/_reset")
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key=KEY,
        max_retries=0,
        timeout=30,
        http_client=openai.DefaultAsyncHttpxClient(verify=NO_TLS),
    ) as sdk:
        yield RunningStack(url, KEY, ADMIN_KEY, provider_url, sdk)


@pytest.fixture(scope="session")
def two_sidecars(service_folder: Path) -> Iterator[TwoSidecars]:
    """Two real sidecars that a test may kill and freeze, before a provider of their own."""
    port = probe.free_port()
    provider = process.start(provider_spec(port), service_folder / "logs")
    try:
        process.wait_until_ready([provider])
        with run_two_sidecars(Provider(f"http://127.0.0.1:{port}"), service_folder) as running:
            yield running
    finally:
        process.stop([provider])
