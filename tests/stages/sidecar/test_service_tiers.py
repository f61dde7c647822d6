"""The service tier that a provider states sets the price and is in the answer."""

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from odd_provider_answers import HELLO, STOP, answered, chunk, stream, whole, wire
from sidecars import Json, Mode, Provider, Sidecar, deployment, run_sidecar

GUARD = """
from litellm.integrations.custom_guardrail import CustomGuardrail


class Guard(CustomGuardrail):
    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        return response
"""
USAGE: Json = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}
COSTS = {"flex": "0.005625", "default": "0.01125", "priority": "0.0225", None: "0.01125"}
"""Of `USAGE` at GPT-5's prices for each tier, in USD."""


@pytest.fixture(scope="module")
def tiered(
    provider: Provider, tmp_path_factory: pytest.TempPathFactory, call_log_url: str
) -> Iterator[Sidecar]:
    """A sidecar with a model that has a price for each tier, with a guardrail and without."""
    folder = Path(tmp_path_factory.mktemp("tiered"))
    (folder / "guarding.py").write_text(GUARD, encoding="utf-8")
    groups = [
        deployment("plain", "openai/gpt-5", provider),
        deployment("guarded", "openai/gpt-5", provider, guardrails=["g"]),
        deployment("groq", "groq/llama-3.3-70b-versatile", provider),
    ]
    guard: Json = {"guardrail": "guarding.Guard", "mode": "post_call", "default_on": False}
    config: Json = {
        "model_list": [one | {"model_info": {"id": one["model_name"]}} for one in groups],
        "guardrails": [{"guardrail_name": "g", "litellm_params": guard}],
    }
    with run_sidecar(config, provider, folder, LLM_CALLS_DATABASE_URL=call_log_url) as started:
        yield started


@pytest.mark.parametrize("tier", COSTS)
@pytest.mark.parametrize("group", ["plain", "guarded"])
@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_a_call_costs_the_price_of_its_tier(
    tiered: Sidecar, call_log_dsn: str, mode: Mode, group: str, tier: str | None
) -> None:
    """In the call log, and in the header or usage frame by which the gateway settles."""
    stated: Json = {"service_tier": tier} if tier else {}
    if mode == "chat":
        raw = [json.dumps(whole({"role": "assistant", "content": "Hi"}, usage=USAGE, **stated))]
    else:
        raw = stream(HELLO | stated, STOP | stated, chunk(usage=USAGE, **stated) | {"choices": []})
    call_id = uuid4()
    prompt = f"{call_id} {json.dumps({'do': 'raw', 'raw': [wire(one) for one in raw]})}"
    body: Json = {"model": group, "messages": [{"role": "user", "content": prompt}]}
    if mode == "stream":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = await tiered.post("/v1/chat/completions", body, **{"x-litellm-call-id": str(call_id)})
    assert answer.status == 200, answer.text
    if mode == "chat":
        charged, received = answer.headers["x-litellm-response-cost"], answer.json.get("service_tier")
    else:
        chunks = [one for one in answer.events if isinstance(one, dict)]
        [charged] = [one["usage"]["cost"] for one in chunks if one.get("usage")]
        received = chunks[0].get("service_tier")
    assert received == tier
    assert Decimal(str(charged)) == Decimal(COSTS[tier])
    assert await _logged_usd(call_log_dsn, call_id) == Decimal(COSTS[tier])


async def _logged_usd(dsn: str, call_id: object) -> Decimal:
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(10):
            query = "SELECT cost_usd FROM llm_calls WHERE call_id = $1"
            while not (rows := await connection.fetch(query, call_id)):  # noqa: ASYNC110 -- no event
                await asyncio.sleep(0.2)
    finally:
        await connection.close()
    cost: Decimal = rows[0]["cost_usd"]
    return cost


@pytest.mark.parametrize(
    ("stated", "received"),
    [({"service_tier": "flex"}, "flex"), ({"service_tier": "on_demand"}, "on_demand"), ({}, None)],
)
async def test_groq_s_tier_is_kept(tiered: Sidecar, stated: Json, received: str | None) -> None:
    """LiteLLM's parser for Groq requires one."""
    answer = await answered(tiered, "groq", whole({"role": "assistant", "content": "Hi"}, **stated))
    assert answer.status == 200, answer.text
    assert answer.json.get("service_tier") == received
