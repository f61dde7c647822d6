"""Virtual keys: created, used, held to their binding, limited, budgeted, revoked, accounted for."""

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from running_stack import RunningStack, say, script

Json = dict[str, Any]
CHAT = "/v1/chat/completions"


async def make(stack: RunningStack, client: httpx.AsyncClient, **spec: object) -> Json:
    """Creates a key and returns the admin route's answer."""
    body = {"name": f"key-{uuid4().hex[:8]}", **spec}
    answer = await client.post(f"{stack.url}/admin/keys", json=body, headers=admin(stack))
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def admin(stack: RunningStack) -> dict[str, str]:
    """Returns the header of the admin key."""
    return {"Authorization": f"Bearer {stack.admin_key}"}


def body(model: str = "plain", **fields: object) -> Json:
    """A small chat."""
    return {"model": model, "messages": say(f"hello {uuid4().hex}"), "max_tokens": 16, **fields}


async def ask(client: httpx.AsyncClient, stack: RunningStack, key: str, **fields: Any) -> httpx.Response:
    """One chat with a key."""
    headers = {"Authorization": f"Bearer {key}", **fields.pop("headers", {})}
    return await client.post(
        stack.url + fields.pop("path", CHAT), json=fields.pop("json", body()), headers=headers
    )


async def until_used(stack: RunningStack, client: httpx.AsyncClient, key_id: str) -> None:
    """Waits until the key's latest call is on record: in the key, and in the list."""
    end = time.monotonic() + 20
    url = f"{stack.url}/admin/keys"
    while not (at := (await client.get(f"{url}/{key_id}", headers=admin(stack))).json()["last_used_at"]):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    [listed] = (await client.get(url, params={"text": key_id}, headers=admin(stack))).json()["data"]
    assert listed["last_used_at"] == at


async def test_a_key_works_is_shown_once_and_is_rejected_a_second_after_its_revocation(
    stack: RunningStack,
) -> None:
    """Created, used, listed by prefix only, revoked, rejected."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        made = await make(stack, client, tenant="acme")
        key = made["key"]
        assert (await ask(client, stack, key)).status_code == 200
        listed = await client.get(f"{stack.url}/admin/keys", headers=admin(stack))
        assert key not in listed.text
        shown = await client.get(f"{stack.url}/admin/keys/{made['id']}", headers=admin(stack))
        assert key not in shown.text
        await until_used(stack, client, made["id"])
        assert any(key.startswith(prefix.rstrip(".…")) for prefix in shown.json()["prefixes"])
        revoked = await client.delete(f"{stack.url}/admin/keys/{made['id']}", headers=admin(stack))
        assert revoked.status_code == 200
        end = time.monotonic() + 1
        while (await ask(client, stack, key)).status_code != 401:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)


async def test_a_key_is_held_to_its_models_however_one_is_named(stack: RunningStack) -> None:
    """By name, by X-Provider, by wildcard; the list of models shows the allowed ones."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        key = (await make(stack, client, models=["plain"]))["key"]
        assert (await ask(client, stack, key)).status_code == 200
        refused = await ask(client, stack, key, json=body("p/ok"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        by_header = await ask(client, stack, key, json=body("ok"), headers={"X-Provider": "p"})
        assert by_header.status_code == 404
        listed = await client.get(f"{stack.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert [one["id"] for one in listed.json()["data"]] == ["plain"]


BODIES: dict[str, Json] = {
    CHAT: {"messages": say("x")},
    "/v1/completions": {"prompt": "x"},
    "/v1/embeddings": {"input": "x"},
    "/internal/llm/proxy": {"messages": say("x")},
    "/llm-proxy/generate": {"messages": say("x")},
    "/llm-proxy/stream": {"messages": say("x")},
}
NAMES: dict[str, tuple[Json, dict[str, str]]] = {
    "X-Tenant-Id": ({}, {"X-Tenant-Id": "other"}),
    "X-Agent-Id": ({}, {"X-Agent-Id": "agent:other"}),
    "X-User-Id": ({}, {"X-User-Id": "other"}),
    "metadata.microdao_id": ({"metadata": {"microdao_id": "other"}}, {}),
    "metadata.agent_id": ({"metadata": {"agent_id": "agent:other"}}, {}),
    "user": ({"user": "other"}, {}),
    "userId": ({"userId": "other"}, {}),
}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (path, field)
        for path in BODIES
        for field in NAMES
        if field != "userId" or path.startswith("/llm-proxy/")
    ],
)
async def test_a_bound_key_may_name_nobody_else(stack: RunningStack, path: str, field: str) -> None:
    """Tenant, agent and user, by every field of every dialect: 403, and the provider received nothing."""
    named, headers = NAMES[field]
    asked = {"model": "plain", **BODIES[path], **named}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        key = (await make(stack, client, tenant="acme", agent="agent:sofia", user="ann"))["key"]
        refused = await ask(client, stack, key, path=path, json=asked, headers=headers)
        assert refused.status_code == 403, refused.text
        assert "may not act for another" in refused.text
        assert await stack.calls() == []


@pytest.mark.parametrize("path", BODIES)
async def test_an_agent_named_by_the_body_has_its_limit_on_every_route(
    stack: RunningStack, path: str
) -> None:
    """An internal key names it in `metadata`; the eleventh call is rejected."""
    named = {"agent_id": f"agent:{uuid4().hex}", "microdao_id": uuid4().hex}
    asked = {"model": "plain", **BODIES[path], "metadata": named}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        asking = [ask(client, stack, stack.key, path=path, json=asked) for _ in range(11)]
        fared = sorted(one.status_code for one in await asyncio.gather(*asking))
    assert fared == [200] * 10 + [429]


async def test_a_key_reaches_no_model_that_it_may_not_use(stack: RunningStack) -> None:
    """Neither by leaving the model out, nor by a provider's prefix, nor by having no list."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        listed = (await make(stack, client, models=["claude"]))["key"]
        bare = (await make(stack, client))["key"]
        left_out = {"messages": say("x")}
        refused = await ask(client, stack, listed, path="/internal/llm/proxy", json=left_out)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        for model, headers in (("p/ok", {}), ("ok", {"X-Provider": "p"}), ("p/plain", {})):
            refused = await ask(client, stack, bare, json=body(model), headers=headers)
            assert refused.status_code == 404, refused.text
        assert (await ask(client, stack, bare)).status_code == 200
    assert len(await stack.calls()) == 1


async def test_an_agent_named_by_an_internal_key_has_ten_calls_a_minute(stack: RunningStack) -> None:
    """Of 30 parallel calls exactly 10 are admitted; the others get the wait."""
    agent = f"agent:{uuid4().hex}"
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        asking = [ask(client, stack, stack.key, headers={"X-Agent-Id": agent}) for _ in range(30)]
        answers = await asyncio.gather(*asking)
    passed = [one for one in answers if one.status_code == 200]
    refused = [one for one in answers if one.status_code == 429]
    assert (len(passed), len(refused)) == (10, 20)
    one = refused[0]
    assert one.json()["error"]["code"] == "rate_limit_exceeded"
    assert one.headers["x-llm-proxy-refused-by"] == "limit"
    assert 1 <= int(one.headers["retry-after"]) <= 60
    assert one.headers["x-ratelimit-limit-requests"] == "10"


async def test_a_sequential_caller_with_one_slot_never_gets_a_false_429(stack: RunningStack) -> None:
    """The slot is free before the last byte has arrived, streamed or not."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        key = (await make(stack, client, parallel=1))["key"]
        for number in range(20):
            answer = await ask(client, stack, key, json=body(stream=bool(number % 2)))
            assert answer.status_code == 200, answer.text


async def test_a_key_at_its_limit_is_rejected_before_its_body_is_parsed(stack: RunningStack) -> None:
    """A raised limit is effective at once."""
    broken = b"{"
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        made = await make(stack, client, tenant=f"unread-{uuid4().hex[:8]}", rpm=1)
        headers = {"Authorization": f"Bearer {made['key']}", "content-type": "application/json"}

        async def send_broken() -> httpx.Response:
            return await client.post(stack.url + CHAT, content=broken, headers=headers)

        assert (await send_broken()).status_code == 400
        assert (await ask(client, stack, made["key"])).status_code == 200
        refused = await ask(client, stack, made["key"])
        unread = await send_broken()
        for answer in (refused, unread):
            assert answer.status_code == 429, answer.text
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert 0 < int(answer.headers["retry-after"]) <= 60
        raised = await client.patch(
            f"{stack.url}/admin/keys/{made['id']}", json={"rpm": 5}, headers=admin(stack)
        )
        assert raised.status_code == 200
        assert (await send_broken()).status_code == 400
        assert (await ask(client, stack, made["key"])).status_code == 200


async def test_a_spent_budget_rejects_calls(stack: RunningStack) -> None:
    """`insufficient_quota`, no Retry-After, no retry; the spend stays within the budget."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        made = await make(stack, client, budgets=[{"limit_usd": "0.0002", "period": "total"}])
        answers = [await ask(client, stack, made["key"]) for _ in range(6)]
        codes = [one.status_code for one in answers]
        assert codes[0] == 200
        assert codes[-1] == 429
        refused = answers[-1]
        assert refused.json()["error"]["code"] == "insufficient_quota"
        assert refused.headers["x-should-retry"] == "false"
        assert refused.headers["x-llm-proxy-refused-by"] == "budget"
        assert "retry-after" not in refused.headers
        spent = sum(float(one.headers["x-llm-proxy-cost-usd"]) for one in answers if one.status_code == 200)
        assert spent <= 0.0002 + 0.000063


async def test_calls_that_the_provider_rejects_cost_a_budget_nothing(stack: RunningStack) -> None:
    """Their reservations are released when they fail; settlements are sent in batches."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        budget = {"limit_usd": "0.0002", "period": "total"}
        made = await make(stack, client, models=["*"], budgets=[budget])
        for _ in range(8):
            failed = await ask(client, stack, made["key"], json=body("p/status-500"))
            assert failed.status_code == 502, failed.text
            await asyncio.sleep(0.2)
        assert (await ask(client, stack, made["key"])).status_code == 200


async def row_of(client: httpx.AsyncClient, stack: RunningStack, request_id: str, key: Json) -> Json:
    """A request's story, waited for until its batch is written."""
    end = time.monotonic() + 3
    while True:
        story = await client.get(f"{stack.url}/v1/requests/{request_id}", headers=key)
        if story.status_code == 200:
            found: Json = story.json()
            return found
        assert time.monotonic() < end, story.text
        await asyncio.sleep(0.1)


async def test_a_call_can_be_looked_up_and_is_counted_for_its_key(stack: RunningStack) -> None:
    """`/v1/requests/{id}` and `/v1/usage`; another key sees neither."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        made, stranger = await make(stack, client, tenant="acme"), await make(stack, client)
        answers = [await ask(client, stack, made["key"], json=body(stream=one)) for one in (False, True)]
        request_id = answers[1].headers["x-request-id"]
        own, other = ({"Authorization": f"Bearer {one['key']}"} for one in (made, stranger))
        row = await row_of(client, stack, request_id, own)
        assert (row["outcome"], row["status"], row["usage_source"]) == ("ok", 200, "provider")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (17, 23)
        assert (await client.get(f"{stack.url}/v1/requests/{request_id}", headers=other)).status_code == 404
        used = await client.get(f"{stack.url}/v1/usage?group_by=key", headers=own)
        assert used.status_code == 200
        lines = used.json()["data"]
        assert [line["requests"] for line in lines] == [2]
        assert float(lines[0]["cost_usd"]) == pytest.approx(2 * 0.000063)


async def test_a_caller_s_limits_and_the_verdict_on_a_request(stack: RunningStack) -> None:
    """`/v1/limits` shows the key's limits; `/v1/explain` gives the verdict and counts nothing."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        key = (await make(stack, client, rpm=2, models=["plain"]))["key"]
        own = {"Authorization": f"Bearer {key}"}
        asking = [client.post(f"{stack.url}/v1/explain", json=body(), headers=own) for _ in range(5)]
        reported = (await asyncio.gather(*asking))[-1]
        assert reported.status_code == 200, reported.text
        denied = await client.post(f"{stack.url}/v1/explain", json=body("p/ok"), headers=own)
        assert denied.json() != reported.json()
        assert [(await ask(client, stack, key)).status_code for _ in range(3)] == [200, 200, 429]
        stands = await client.get(f"{stack.url}/v1/limits", headers=own)
        assert stands.status_code == 200
        assert any(one["limit"] == 2 for one in stands.json()["limits"]), stands.text
        # What is worked out for a model is kept for the next look.
        too_long = await client.get(f"{stack.url}/v1/limits", params={"model": "m" * 257}, headers=own)
        assert (too_long.status_code, too_long.json()["error"]["param"]) == (400, "model")
    assert len(await stack.calls()) == 2


async def test_metrics_and_admin_routes_need_an_admin_key(stack: RunningStack) -> None:
    """A virtual key opens neither; the admin key is no virtual key."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        for path in ("/metrics", "/admin/keys"):
            assert (await client.get(stack.url + path, headers=stack.auth)).status_code == 401
            assert (await client.get(stack.url + path)).status_code == 401
            assert (await client.get(stack.url + path, headers=admin(stack))).status_code == 200
        assert (await ask(client, stack, stack.admin_key)).status_code == 401


async def test_a_failed_authentication_at_an_odd_path_is_recorded(
    stack: RunningStack,
) -> None:
    """A NUL, half a surrogate, bytes that are not UTF-8; each is counted, and so are later ones."""
    wrong = {"Authorization": "Bearer sk-nobodys"}

    async def counted(client: httpx.AsyncClient) -> int:
        answer = await client.get(f"{stack.url}/admin/refused-credentials?limit=1000", headers=admin(stack))
        return sum(row["times"] for row in answer.json()["data"])

    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        before = await counted(client)
        paths = ("%00", "%ed%a0%80", "%ff", "%5Cu0000", "last")
        for path in paths:
            answer = await client.get(f"{stack.url}/v1/models/{path}", headers=wrong)
            assert answer.status_code == 401
        end = time.monotonic() + 30
        while await counted(client) < before + len(paths):
            assert time.monotonic() < end
            await asyncio.sleep(0.5)
        ready = (await client.get(f"{stack.url}/health/ready")).json()
        assert not [one for one in ready["parts"] if one["part"] in {"background", "database"}]


@pytest.mark.parametrize("model", ["deepseek/wrong-key", "deepseek/own"])
async def test_a_wildcard_s_name_falls_back_only_to_allowed_models(stack: RunningStack, model: str) -> None:
    """LiteLLM finds fallbacks by the name with and without the provider."""

    def failing_once() -> Json:
        return body(model, messages=say(script(do="flaky", key=uuid4().hex, fails=1, status=500)))

    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        held = (await make(stack, client, models=["deepseek/*"]))["key"]
        free = (await make(stack, client, models=["deepseek/*", "plain"]))["key"]
        refused = await ask(client, stack, held, json=failing_once())
        assert refused.status_code == 502, refused.text
        served = await ask(client, stack, free, json=failing_once())
    assert served.status_code == 200, served.text
    assert served.headers["x-llm-proxy-model"] == "plain"
    assert served.headers["x-llm-proxy-fallback-from"] == model


async def test_unacceptable_text_loses_no_record(stack: RunningStack) -> None:
    """In every name that a caller chooses: each admitted call is recorded, and the next too."""
    odd = "a\x00b\ud800"
    named = {
        "user": odd,
        "metadata": {"session_id": odd, "user_id": odd, "agent_id": odd, "agent": odd},
        "session_id": odd,
    }
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as client:
        headers = {"Authorization": f"Bearer {stack.key}", "content-type": "application/json"}
        admitted: list[str] = []
        sent: list[Json] = [{name: value} for name, value in named.items()]
        for one in [*sent, {"model": f"p/{odd}"}, {}]:
            text = json.dumps(body() | one)
            answer = await client.post(stack.url + CHAT, content=text, headers=headers)
            assert answer.status_code < 500, answer.text
            if answer.status_code == 200:
                admitted.append(answer.headers["x-request-id"])
        assert admitted
        end = time.monotonic() + 20
        for request_id in admitted:
            story = f"{stack.url}/v1/requests/{request_id}"
            while (await client.get(story, headers=admin(stack))).status_code != 200:
                assert time.monotonic() < end, request_id
                await asyncio.sleep(0.2)
