"""An owner's guardrail that refuses: the caller hears its text, cleaned, and the record has it.

It is no failure of the model's, costs what the model used, and a cached answer does not pass it by.
"""

# ruff: noqa: E501 -- a module in a text

import asyncio
import json
from collections.abc import Generator
from pathlib import Path

import asyncpg
import httpx
import pytest
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY
from sidecars import KEY as SIDECAR_KEY
from sidecars import Json, Provider, deployment, run_provider, run_sidecar
from stack_processes import serve_gateway

from llm_proxy.schema import migrate

MODULE = """
from fastapi import HTTPException
from litellm.exceptions import BlockedPiiEntityError, GuardrailRaisedException
from litellm.integrations.custom_guardrail import CustomGuardrail


class HouseRules(CustomGuardrail):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        said = str(data["messages"])
        if "detail" in said:
            detail = {"error": "Talk of weapons is against the house rules", "response": {"key": "sk-secret-0123"}}
            raise HTTPException(status_code=400, detail=detail)
        if "text" in said:
            raise HTTPException(status_code=403, detail="Blocked by the house, ask ops@example.com")
        if "raised" in said:
            raise GuardrailRaisedException("house", "No such talk here", should_wrap_with_default_message=False)
        if "entity" in said:
            raise BlockedPiiEntityError("CREDIT_CARD", "house")
        if "broken" in said:
            raise HTTPException(status_code=500, detail="the judge at https://10.0.0.3/judge is away")
        if "stumbles" in said:
            raise ValueError("the judge stumbled over " + data["messages"][0]["content"])
        return data

    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        if "after" in str(data["messages"]):
            raise HTTPException(status_code=422, detail={"error": {"message": "The answer is against the house rules"}})
        return response


class GroupRules(CustomGuardrail):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        if "forbidden" in str(data["messages"]):
            raise HTTPException(status_code=403, detail={"error": "This group takes no such prompt"})
        return data

    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        said = str(data["messages"])
        if "gnu" in said:
            raise HTTPException(status_code=422, detail="The answer mentioned a gnu.")
        if "yak" in said:
            raise HTTPException(status_code=403, detail={"error": "The answer mentioned a yak."})
        if "emu" in said:
            raise GuardrailRaisedException("group", "No emus", should_wrap_with_default_message=False)
        return response


class OnRequest(CustomGuardrail):
    async def apply_guardrail(self, inputs, request_data, input_type, logging_obj=None):
        if any("ibex" in one for one in inputs.get("texts") or []):
            raise HTTPException(status_code=451, detail="No ibex.")
        return inputs


class StreamRules(CustomGuardrail):
    async def async_post_call_streaming_iterator_hook(self, user_api_key_dict, response, request_data):
        said, seen = str(request_data["messages"]), 0
        async for frame in response:
            seen += 1
            if "gnu" in said and seen > 2 * ("late" in said):
                raise HTTPException(status_code=422, detail="The answer mentioned a gnu.")
            if "emu" in said and seen > 2 * ("late" in said):
                raise GuardrailRaisedException("stream", "No emus", should_wrap_with_default_message=False)
            yield frame
"""
ENTITY = "Blocked entity detected: CREDIT_CARD by Guardrail: house. This entity is not allowed to be used in this request."


@pytest.fixture(scope="module")
def guarded_database(postgres_url: str) -> str:
    """A database of this module's own, with the schema."""
    dsn = f"{postgres_url.rpartition('/')[0]}/guarded"

    async def made() -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute("CREATE DATABASE guarded")
        await connection.close()
        await migrate(dsn)

    asyncio.run(made())
    return dsn


@pytest.fixture(scope="module")
def gateway_url(service_folder: Path, cache_redis_url: str, guarded_database: str) -> Generator[str]:
    """A gateway before a sidecar with a guardrail."""
    folder = service_folder / "guarded"
    folder.mkdir()
    (folder / "house_rules.py").write_text(MODULE)
    cache = {"CACHE_REDIS_URL": cache_redis_url}
    with (
        run_provider(folder) as provider,
        run_sidecar(_config(provider), provider, folder, **cache) as sidecar,
    ):
        settings = {"LITELLM_MASTER_KEY": SIDECAR_KEY, "DATABASE_URL": guarded_database}
        with serve_gateway(folder, [sidecar.url], settings) as gateway:
            yield gateway.url


def _config(provider: Provider) -> Json:
    rules = {"guardrail": "house_rules.HouseRules", "mode": ["pre_call", "post_call"], "default_on": True}
    of_a_group = {"guardrail": "house_rules.GroupRules", "mode": ["pre_call", "post_call"]}
    of_streams = {"guardrail": "house_rules.StreamRules", "mode": "post_call"}
    on_request = {"guardrail": "house_rules.OnRequest", "mode": ["pre_call", "post_call"]}
    checked = deployment("checked", "openai/checked", provider)
    checked["litellm_params"]["guardrails"] = ["stream"]
    group = deployment("group", "openai/group", provider)
    group["litellm_params"]["guardrails"] = ["group"]
    return {
        "model_list": [
            deployment("guarded", "openai/guarded", provider),
            group,
            checked,
            deployment("elsewhere", "openai/elsewhere", provider),
        ],
        "guardrails": [
            {"guardrail_name": "house", "litellm_params": rules},
            {"guardrail_name": "group", "litellm_params": of_a_group},
            {"guardrail_name": "stream", "litellm_params": of_streams},
            {"guardrail_name": "on request", "litellm_params": on_request},
        ],
        "router_settings": {
            "num_retries": 1,
            "disable_cooldowns": True,
            "fallbacks": [{"group": ["elsewhere"]}],
        },
    }


@pytest.mark.parametrize(
    ("said", "streamed", "status", "message"),
    [
        *(
            ("detail", streamed, 400, "Talk of weapons is against the house rules")
            for streamed in (False, True)
        ),
        *(("text", streamed, 403, "Blocked by the house, ask [removed]") for streamed in (False, True)),
        ("raised", False, 400, "No such talk here"),
        ("entity", False, 400, ENTITY),
        ("after", False, 422, "The answer is against the house rules"),
    ],
)
async def test_a_guardrails_own_text_is_heard(
    gateway_url: str,
    said: str,
    streamed: bool,  # noqa: FBT001 -- a parameter
    status: int,
    message: str,
) -> None:
    """Before the call and after it, however the guardrail raises it; nothing else it knows."""
    answer = await _ask(gateway_url, said, streamed=streamed)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["message"]) == (
        status,
        "content_policy_violation",
        message,
    )


@pytest.mark.parametrize(
    ("said", "streamed", "status", "message"),
    [
        ("forbidden", False, 403, "This group takes no such prompt"),
        ("forbidden", True, 403, "This group takes no such prompt"),
        ("gnu", False, 422, "The answer mentioned a gnu"),
        ("yak", False, 403, "The answer mentioned a yak"),
        ("emu", False, 400, "No emus"),
    ],
)
async def test_a_groups_own_guardrail_is_heard_and_not_passed_by(
    gateway_url: str,
    said: str,
    streamed: bool,  # noqa: FBT001 -- a parameter
    status: int,
    message: str,
) -> None:
    """Neither retried nor answered by the group's fallback, which has no such guardrail."""
    answer = await _ask(gateway_url, said, streamed=streamed, model="group")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, "content_policy_violation")
    assert error["message"].removesuffix(".") == message
    assert answer.headers["x-llm-proxy-refused-by"] == "guardrail"
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("said", "status", "message"), [("gnu", 422, "The answer mentioned a gnu"), ("emu", 400, "No emus")]
)
async def test_a_guardrail_on_a_stream_is_heard(
    gateway_url: str, said: str, status: int, message: str
) -> None:
    """By a status before the first frame, then by the event that ends the stream."""
    answer = await _ask(gateway_url, said, streamed=True, model="checked")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, "content_policy_violation")
    assert error["message"].removesuffix(".") == message
    answer = await _ask(gateway_url, f"{said}, late", streamed=True, model="checked")
    assert answer.status_code == 200
    *frames, last = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert frames
    error = json.loads(last[6:])["error"]
    assert (error["code"], error["message"].removesuffix(".")) == ("content_policy_violation", message)


@pytest.mark.parametrize("said", ["broken", "stumbles over the words of a long prompt"])
async def test_a_guardrail_that_fails_says_nothing_to_the_caller(
    gateway_url: str, service_folder: Path, said: str
) -> None:
    """It refuses the call; the reason is in the gateway's log, without the prompt."""
    answer = await _ask(gateway_url, said, streamed=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "guardrail_unavailable")
    assert answer.headers["x-llm-proxy-refused-by"] == "guardrail"
    assert "judge" not in answer.text
    log = "".join(one.read_text() for one in (service_folder / "guarded" / "logs").glob("gateway*.log"))
    [line] = [one for one in log.splitlines() if answer.headers["x-request-id"] in one and "judge" in one]
    assert "10.0.0.3" not in line
    assert "the words of a long prompt" not in line


async def test_a_rejection_is_in_the_record_with_what_the_answer_used(gateway_url: str) -> None:
    """The guardrail's status and text; the provider's tokens are billed, for it was paid."""
    answer = await _ask(gateway_url, "after", streamed=False)
    found = await _record(gateway_url, answer)
    assert (found["status"], found["refusal_code"]) == (422, "content_policy_violation")
    assert "The answer is against the house rules" in found["provider_message"]
    assert (found["usage_source"], found["attempts"]) == ("provider", 1)
    assert found["completion_tokens"] > 0
    assert float(found["cost_usd"]) > 0


async def test_a_rejected_prompt_costs_nothing(gateway_url: str) -> None:
    """No provider was asked."""
    found = await _record(gateway_url, await _ask(gateway_url, "detail", streamed=False))
    assert (found["attempts"], found["prompt_tokens"], float(found["cost_usd"])) == (0, None, 0)
    assert found["provider_message"].startswith("guardrail house: ")


async def test_a_rejection_is_no_failure_of_the_model(gateway_url: str) -> None:
    """Neither a 403 nor a guardrail that failed is in the model's health."""
    for said in ("text", "broken"):
        await _record(gateway_url, await _ask(gateway_url, said, streamed=False))
    async with _client(ADMIN_KEY) as client:
        listed = (await client.get(f"{gateway_url}/admin/models")).json()["data"]
    [health] = [one["health"] for one in listed if one["id"] == "guarded"]
    assert (health["failures"], health["last_failure_at"]) == (0, None)


async def test_a_request_names_guardrails_beside_the_usual_ones(gateway_url: str) -> None:
    """LiteLLM's `guardrails` of a body; a name that no guardrail has is refused, not passed by."""
    assert (await _ask(gateway_url, "an ibex", streamed=False)).status_code == 200
    answer = await _ask(gateway_url, "an ibex", streamed=False, guardrails=["on request"])
    assert (answer.status_code, answer.json()["error"]["message"]) == (451, "No ibex.")
    unknown = await _ask(gateway_url, "hello", streamed=False, guardrails=["on request", "nobody's"])
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "guardrails[1]")
    wrong_forms: list[object] = ["on request", {"on request": {}}, [{"on request": {"extra_body": {}}}]]
    for wrong in wrong_forms:
        assert (await _ask(gateway_url, "hello", streamed=False, guardrails=wrong)).status_code == 400


async def test_a_cached_answer_does_not_pass_a_guardrail_by(gateway_url: str) -> None:
    """The prompt is judged, and the answer, each time; what no guardrail checks is answered from the cache."""
    checked = [
        await _ask(gateway_url, "cached?", streamed=False, guardrails=["on request"]) for _ in range(2)
    ]
    assert [one.headers["x-llm-proxy-cache"] for one in checked] == ["off", "off"]


async def test_explain_names_the_guardrails_of_a_call(gateway_url: str) -> None:
    """Those of every call, of the group, and of the request."""
    body = {"model": "group", "messages": [{"role": "user", "content": "hi"}], "guardrails": ["on request"]}
    async with _client(KEY) as client:
        found = (await client.post(f"{gateway_url}/v1/explain", json=body)).json()
    both = ["pre_call", "post_call"]
    assert found["guardrails"] == [{"name": one, "modes": both} for one in ("house", "group", "on request")]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", ["responses", "messages"])
async def test_responses_and_messages_are_guarded_as_chats_are(
    gateway_url: str,
    path: str,
    streamed: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Before the call and, whole, after it; its error body is that route's."""
    for said, status in (("detail", 400), *(() if streamed else (("after", 422),))):
        own = (
            {"input": said, "store": False}
            if path == "responses"
            else {"messages": [{"role": "user", "content": said}], "max_tokens": 50}
        )
        async with _client(KEY) as client:
            body = {"model": "guarded", "stream": streamed, **own}
            answer = await client.post(f"{gateway_url}/v1/{path}", json=body)
        assert (answer.status_code, answer.headers["x-llm-proxy-refused-by"]) == (status, "guardrail")
        assert "against the house rules" in answer.json()["error"]["message"]


async def _record(url: str, answer: httpx.Response) -> Json:
    """The record of a call, once it is written."""
    path = f"{url}/v1/requests/{answer.headers['x-request-id']}"
    async with _client(ADMIN_KEY) as client, asyncio.timeout(20):
        while (found := await client.get(path)).status_code != 200:  # noqa: ASYNC110 -- a database has no event
            await asyncio.sleep(0.1)
    row: Json = found.json()
    return row


def _client(key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=20, verify=NO_TLS)


async def _ask(
    url: str, said: str, *, streamed: bool, model: str = "guarded", **fields: object
) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": said}], "stream": streamed, **fields}
    async with _client(KEY) as client:
        return await client.post(f"{url}/v1/chat/completions", json=body)
