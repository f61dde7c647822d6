"""Fair when full, from outside: one tenant's flood, and calls that may wait."""

import asyncio
from pathlib import Path
from uuid import uuid4

import httpx
from running_stack import RunningStack, say
from two_sidecars import TwoSidecars, run_gateway

FEW = {
    "LLM_PROXY__MAX_IN_FLIGHT": "2",
    "LLM_PROXY__MAX_WAITING": "6",
    "LLM_PROXY__QUEUE_TIMEOUT_MS": "20000",
}


async def test_a_flood_is_refused_and_a_newcomer_waits_for_the_next_slot(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """The flooder's calls leave the full queue; the others' are answered before the flood's."""
    ended: list[str] = []
    with run_gateway(tmp_path, two_sidecars, FEW, sidecars=1) as made:
        async with httpx.AsyncClient(timeout=60) as client:

            async def call(tenant: str, **headers: str) -> httpx.Response:
                slow = made.body(do="slow-first", first_ms=1200)
                answer = await made.chat(client, slow, **{"X-Tenant-Id": tenant}, **headers)
                ended.append(f"{tenant} {answer.status_code}")
                return answer

            async def until(name: str, least: int) -> None:
                async with asyncio.timeout(20):
                    while await made.metric(name) < least:  # noqa: ASYNC110 -- nothing tells
                        await asyncio.sleep(0.01)

            flood = [asyncio.create_task(call("flood")) for _ in range(8)]
            await until("llm_proxy_waiting", 6)
            others = [asyncio.create_task(call(tenant)) for tenant in ("one", "two")]
            answers = await asyncio.gather(*flood, *others)
            assert [answer.status_code for answer in answers[8:]] == [200, 200]
            rejected = [answer for answer in answers[:8] if answer.status_code == 503]
            assert len(rejected) == 2
            assert all("most are yours" in answer.text for answer in rejected)
            assert all(1 <= int(answer.headers["retry-after"]) <= 30 for answer in rejected)
            served = [one for one in ended if one.endswith("200")]
            assert {"one 200", "two 200"} <= set(served[:5])
            assert (await call("one", **{"X-Priority": "urgent"})).json()["error"]["param"] == "X-Priority"


async def test_a_rule_sets_the_class_and_no_caller_raises_it(stack: RunningStack) -> None:
    """By tenant or key; a caller lowers it by header or service tier. The record says in which it waited."""
    async with httpx.AsyncClient(timeout=20) as client:
        admin = {"Authorization": f"Bearer {stack.admin_key}"}
        named = {"name": f"fair-{uuid4().hex[:8]}", "tenant": "acme"}
        made = (await client.post(f"{stack.url}/admin/keys", json=named, headers=admin)).json()
        key = {"Authorization": f"Bearer {made['key']}"}
        rule = {"scope": "key", "subject": made["id"], "weight": 10}
        put = await client.put(f"{stack.url}/admin/limits", json=rule, headers=admin)
        assert put.json()["weight"] == 10, put.text

        async def recorded(**sent: str) -> tuple[str, float]:
            fields = {"service_tier": sent.pop("service_tier")} if "service_tier" in sent else {}
            headers = key | ({"X-Priority": sent["priority"]} if sent else {})
            chat = {"model": "plain", "messages": say(f"hello {uuid4().hex}"), "max_tokens": 16, **fields}
            answer = await client.post(f"{stack.url}/v1/chat/completions", json=chat, headers=headers)
            assert answer.status_code == 200, answer.text
            path = f"{stack.url}/v1/requests/{answer.headers['x-request-id']}"
            async with asyncio.timeout(20):
                while True:
                    row = await client.get(path, headers=key)
                    if row.status_code == 200:
                        return row.json()["priority"], row.json()["queue_ms"]
                    await asyncio.sleep(0.02)

        assert await recorded() == ("interactive", 0)
        assert await recorded(priority="batch") == ("batch", 0)
        assert await recorded(service_tier="flex") == ("batch", 0)
        await client.put(f"{stack.url}/admin/limits", json=rule | {"priority": "batch"}, headers=admin)
        assert await recorded(priority="interactive") == ("batch", 0)
        rows = (await client.get(f"{stack.url}/admin/limits", headers=admin)).json()["data"]
        assert [one["priority"] for one in rows if one["subject"] == made["id"]] == ["batch"]


async def test_an_explanation_has_the_class_and_the_weights_of_the_call(stack: RunningStack) -> None:
    """Of its tenant and key, of a child key those of its root; by header, service tier and rule."""
    tenant = f"fair-{uuid4().hex[:8]}"
    admin = {"Authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(base_url=stack.url, timeout=20) as client:
        named = {"name": tenant, "tenant": tenant}
        made = (await client.post("/admin/keys", json=named, headers=admin)).json()
        key = {"Authorization": f"Bearer {made['key']}"}
        child = (await client.post("/v1/keys/children", json={}, headers=key)).json()

        async def rule(**fields: object) -> None:
            put = await client.put("/admin/limits", json=fields, headers=admin)
            assert put.is_success, put.text

        async def explained(who: dict[str, str], **fields: str) -> object:
            chat = {"model": "plain", "messages": say("hello"), "max_tokens": 16, **fields}
            answer = await client.post("/v1/explain", json=chat, headers=who)
            return answer.json()["queue"]

        plain = {"priority": "interactive", "tenant_weight": 100, "key_weight": 100}
        assert await explained(key) == plain
        assert await explained(key | {"X-Priority": "batch"}) == plain | {"priority": "batch"}
        assert await explained(key, service_tier="flex") == plain | {"priority": "batch"}
        await rule(scope="tenant", tenant=tenant, weight=300)
        await rule(scope="key", subject=made["id"], weight=10, priority="batch")
        ruled = {"priority": "batch", "tenant_weight": 300, "key_weight": 10}
        for who in (key, {"Authorization": f"Bearer {child['key']}"}):
            assert await explained(who | {"X-Priority": "interactive"}) == ruled
