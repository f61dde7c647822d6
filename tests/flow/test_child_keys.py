"""Child keys from outside: made by a key, held to it, counted for it, and ended with it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from running_stack import RunningStack, say

Json = dict[str, Any]
CHILDREN = "/v1/keys/children"


class Keys:
    """Makes keys and calls with them."""

    def __init__(self, stack: RunningStack, client: httpx.AsyncClient) -> None:
        self.stack, self.client = stack, client
        self.admin = {"Authorization": f"Bearer {stack.admin_key}"}

    async def root(self, **spec: object) -> Json:
        """A key made by the operator."""
        named = {"name": f"root-{uuid4().hex[:8]}", "tenant": "acme", **spec}
        return (await self.operate("POST", "/admin/keys", json=named)).json()  # type: ignore[no-any-return]

    async def operate(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """A request of the operator, which succeeds."""
        answer = await self.client.request(method, path, headers=self.admin, **sent)
        assert answer.is_success, answer.text
        return answer

    async def child(self, parent: Json, status: int = 201, **wanted: object) -> Json:
        """A key below another, or the error."""
        answer = await self.client.post(CHILDREN, json=wanted, headers=key(parent))
        assert answer.status_code == status, answer.text
        return answer.json()  # type: ignore[no-any-return]

    async def call(self, of: Json, model: str = "plain", **headers: str) -> httpx.Response:
        """A chat with a key."""
        chat = {"model": model, "messages": say(f"hello {uuid4().hex}"), "max_tokens": 16}
        return await self.client.post("/v1/chat/completions", json=chat, headers=key(of) | headers)

    async def explain(self, of: Json, asked: Json) -> tuple[str, str]:
        """What the operator is told would become of a call with a key, and why."""
        answer = await self.operate("POST", "/v1/explain", params={"key": of["id"]}, json=asked)
        return answer.json()["verdict"], answer.json()["refusal"]["code"]

    async def until_rejected(self, of: Json) -> None:
        """A key's calls are 401 within a second."""
        end = time.monotonic() + 1
        while (await self.call(of)).status_code != 401:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)


def key(of: Json) -> dict[str, str]:
    """The header of a key."""
    return {"Authorization": f"Bearer {of['key']}"}


@pytest.fixture
async def keys(stack: RunningStack) -> AsyncGenerator[Keys]:
    """Makes keys at the shared stack."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=20) as client:
        yield Keys(stack, client)


async def test_a_child_works_within_its_parent_and_is_shown_below_it(keys: Keys) -> None:
    """Made, used in its run, recorded with its chain, listed, seen by the operator, ended by its parent."""
    root = await keys.root(models=["plain"], agent="*")
    child = await keys.child(root, run="job-7", agent="scout", name="scout", tags=["sub"])
    grandchild = await keys.child(child)
    assert child["ancestors"] == [root["id"]]
    assert grandchild["ancestors"] == [root["id"], child["id"]]
    assert (grandchild["agent"], grandchild["run"], grandchild["tenant"]) == ("scout", "job-7", "acme")
    answer = await keys.call(grandchild)
    assert answer.status_code == 200, answer.text
    assert (await keys.call(grandchild, "openai")).status_code == 404
    assert (await keys.call(grandchild, **{"X-Run-Id": "another"})).status_code == 403
    path = f"/v1/requests/{answer.headers['x-request-id']}"
    async with asyncio.timeout(20):
        while (row := await keys.client.get(path, headers=key(grandchild))).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    record = row.json()
    assert record["key_ancestors"] == [root["id"], child["id"]]
    assert (record["key_id"], record["run_name"], record["tags"]) == (grandchild["id"], "job-7", ["sub"])
    params = {"group_by": "root_key,key", "tenant": "acme", "since": "1h", "root_key": root["id"]}
    usage = (await keys.operate("GET", "/v1/usage", params=params)).json()
    assert [(one["root_key"], one["key"]) for one in usage["data"]] == [(root["id"], grandchild["id"])]
    listed = (await keys.client.get(CHILDREN, headers=key(root))).json()["data"]
    assert [one["id"] for one in listed] == [grandchild["id"], child["id"]]
    assert child["key"] not in str(listed)
    shown = (await keys.operate("GET", f"/admin/keys/{grandchild['id']}")).json()
    assert shown["ancestors"] == [root["id"], child["id"]]
    audit = (await keys.operate("GET", "/admin/audit", params={"subject": child["id"]})).json()["data"]
    assert [one["action"] for one in audit] == ["keys.create_child"]
    stranger = await keys.root()
    for who in (stranger, grandchild):
        gone = await keys.client.delete(f"{CHILDREN}/{child['id']}", headers=key(who))
        assert gone.status_code == 404
    assert (await keys.client.delete(f"{CHILDREN}/{child['id']}", headers=key(root))).status_code == 200
    await keys.until_rejected(grandchild)
    await keys.until_rejected(child)
    assert (await keys.call(root)).status_code == 200
    assert (await keys.client.get(CHILDREN, headers=key(root))).json()["data"] == []


async def test_a_child_of_a_run_keeps_it_in_clients_that_name_a_session_of_their_own(keys: Keys) -> None:
    """As Claude Code and Codex do; and it is listed after an operator took its end away."""
    root = await keys.root()
    child = await keys.child(root, run="job-7")
    for named in ("x-claude-code-session-id", "session-id", "X-Session-Id"):
        answer = await keys.call(child, **{named: "its-own"})
        assert answer.status_code == 200, answer.text
        assert (await keys.stack.story(answer.headers["x-request-id"]))["run_name"] == "job-7"
    await keys.operate("PATCH", f"/admin/keys/{child['id']}", json={"expires_at": None})
    listed = (await keys.client.get(CHILDREN, headers=key(root))).json()["data"]
    assert [one["id"] for one in listed] == [child["id"]]


async def test_a_key_sees_the_calls_of_the_keys_below_it_alone(keys: Keys) -> None:
    """Usage, requests, rejections, runs, what runs now; neither a sibling's nor those of a key above."""
    root = await keys.root(agent="*")
    first, second = [await keys.child(root) for _ in range(2)]
    deep = await keys.child(first, run="family")
    made: dict[str, str] = {}
    for one in (root, first, second, deep):
        answer = await keys.call(one, **{"X-Run-Id": "family"})
        made[one["id"]] = answer.headers["x-request-id"]
    rejected = await keys.call(deep, **{"X-Run-Id": "another"})
    assert rejected.status_code == 403

    async def listed(path: str, who: Json, **params: str) -> list[Json]:
        answer = await keys.client.get(path, headers=key(who), params={"since": "1h", **params})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]  # type: ignore[no-any-return]

    async with asyncio.timeout(20):
        while len(await listed("/v1/requests", root)) < 5:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    for who, seen in (
        (root, (root, first, second, deep)), (first, (first, deep)), (second, (second,)), (deep, (deep,)),
    ):  # fmt: skip
        ids = {one["id"] for one in seen}
        used = await listed("/v1/usage", who, group_by="key")
        assert {(row["key"], row["requests"]) for row in used} == {(key_id, 1) for key_id in ids}
        assert {row["key_id"] for row in await listed("/v1/requests", who)} == ids
        [run] = await listed("/v1/runs", who)
        assert run["calls"] == len(ids)
        for key_id, request_id in made.items():
            found = await keys.client.get(f"/v1/requests/{request_id}", headers=key(who))
            assert found.status_code == (200 if key_id in ids else 404)
        refused = await keys.client.get(f"/v1/requests/{rejected.headers['x-request-id']}", headers=key(who))
        assert refused.status_code == (200 if deep["id"] in ids else 404)
    [alone] = await listed("/v1/usage", root, group_by="key", key=deep["id"])
    assert (alone["key"], alone["requests"]) == (deep["id"], 1)


@pytest.mark.parametrize("how", ["revoke", "rotate", "expire", "narrow", "move", "switch"])
async def test_a_child_ends_with_its_parent_within_a_second(keys: Keys, how: str) -> None:
    """Revoked, rotated, expired, bound to less, moved to another tenant, switched off."""
    root = await keys.root(agent="*")
    child = await keys.child(root, agent="a")
    grandchild = await keys.child(child)
    assert (await keys.call(grandchild)).status_code == 200
    path = f"/admin/keys/{root['id']}"
    if how == "revoke":
        await keys.operate("DELETE", path)
    elif how == "rotate":
        await keys.operate("POST", f"{path}/rotate", json={"overlap_s": 0})
    elif how == "switch":
        switch = {"kind": "key", "subject": root["id"]}
        await keys.operate("PUT", "/admin/kill-switches", json=switch)
        end = time.monotonic() + 1
        while (await keys.call(grandchild)).status_code != 403:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        return
    else:
        change = {
            "expire": {"expires_at": "2026-01-01"}, "narrow": {"agent": "b"}, "move": {"tenant": "zeta"},
        }[how]  # fmt: skip
        await keys.operate("PATCH", path, json=change)
    await keys.until_rejected(grandchild)
    await keys.child(child, 401)


async def test_the_parents_limits_count_the_calls_of_all_its_children(keys: Keys) -> None:
    """Requests a minute and a budget over the chain; a change to less holds for the children at once."""
    root = await keys.root(rpm=3, budgets=[{"limit_requests": 100, "period": "day"}])
    children = [await keys.child(root) for _ in range(2)]
    deep = await keys.child(children[0])
    found = [(await keys.call(one)).status_code for one in (root, children[1], deep, deep)]
    assert found == [200, 200, 200, 429]
    refused = await keys.call(children[1])
    assert (refused.status_code, root["prefixes"][0] in refused.text) == (429, True)
    change = {"rpm": 0, "budgets": [{"limit_requests": 4, "period": "day"}]}
    await keys.operate("PATCH", f"/admin/keys/{root['id']}", json=change)
    assert (await keys.call(deep)).status_code == 200
    spent = await keys.call(children[1])
    assert (spent.status_code, spent.json()["error"]["code"]) == (429, "insufficient_quota")
    await keys.operate("PATCH", f"/admin/keys/{root['id']}", json={"models": ["openai"], "budgets": []})
    assert (await keys.call(deep)).status_code == 404


async def test_an_operator_sees_of_a_child_what_the_child_sees(keys: Keys) -> None:
    """The limits of all keys of the chain and of its run, the explanation, and that it has ended."""
    rule = {"scope": "run", "tenant": "acme", "budgets": [{"limit_turns": 1000}]}
    await keys.operate("PUT", "/admin/limits", json=rule)
    root = await keys.root(agent="*", rpm=5, models=["plain"], budgets=[{"limit_usd": 3, "period": "day"}])
    child = await keys.child(root, rpm=4, run="job-8", parallel=2)
    deep = await keys.child(child, budgets=[{"limit_requests": 9, "period": "total"}])
    assert (await keys.call(deep)).status_code == 200
    asked = {"model": "plain", "messages": say("hello")}
    own = (await keys.client.get("/v1/limits", headers=key(deep))).json()
    foretold = (await keys.client.post("/v1/explain", json=asked, headers=key(deep))).json()
    params = {"key": deep["id"]}
    shown = (await keys.operate("GET", "/v1/limits", params=params)).json()
    explained = (await keys.operate("POST", "/v1/explain", params=params, json=asked)).json()
    listed = (await keys.operate("GET", f"/admin/keys/{deep['id']}")).json()["limits"]
    assert sum(one["scope"] == "key" for one in own["limits"]) == 5
    assert any(one["scope"] == "run" for one in own["limits"])
    for found, expected in (
        (shown["limits"], own["limits"]), (listed, own["limits"]), (explained["limits"], foretold["limits"])
    ):  # fmt: skip
        assert [still(one) for one in found] == [still(one) for one in expected]
    assert (shown["caller"], explained["caller"]) == (own["caller"], foretold["caller"])
    assert await keys.explain(deep, asked | {"model": "openai"}) == ("refused", "model_not_found")
    await keys.operate("PATCH", f"/admin/keys/{root['id']}", json={"models": ["openai"]})
    assert await keys.explain(deep, asked) == ("refused", "model_not_found")
    await keys.operate("DELETE", f"/admin/keys/{root['id']}")
    assert await keys.explain(deep, asked) == ("refused", "invalid_api_key")


@pytest.mark.parametrize(
    ("limits", "shared"),
    [
        ({"budgets": [{"limit_turns": 5}]}, "runs"),
        ({"loop_guard": {"mode": "stop"}}, "runs"),
        ({"weight": 300}, "weight"),
    ],
)
async def test_what_a_family_shares_is_not_limited_for_one_child(
    keys: Keys, limits: Json, shared: str
) -> None:
    """The rejection names the root, for which it can be set; what each key has is set for a child too."""
    root = await keys.root(agent="*")
    child = await keys.child(root)
    of_run = shared == "runs" and "loop_guard" not in limits
    scope, prefix = ("run", "key:") if of_run else ("key", "")
    for subject, status in ((child["id"], 400), (root["id"], 200)):
        rule = {"scope": scope, "subject": prefix + subject, **limits}
        answer = await keys.client.put("/admin/limits", json=rule, headers=keys.admin)
        assert answer.status_code == status, answer.text
        if status == 400:
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("child_key_subject", "subject")
            assert shared in error["message"]
            assert root["name"] in error["message"]
        simulated = await keys.client.post("/admin/simulate", json={"rules": [rule]}, headers=keys.admin)
        assert simulated.status_code == status, simulated.text
    own = {"scope": "key", "subject": child["id"], "rpm": 1, "priority": "batch"}
    await keys.operate("PUT", "/admin/limits", json=own)
    assert [(await keys.call(child)).status_code for _ in range(2)] == [200, 429]
    assert (await keys.call(root)).status_code == 200


def still(row: Json) -> Json:
    """A limit's status without what changes while the clock runs."""
    return {name: value for name, value in row.items() if name not in {"wait_ms", "reset_ms", "exhausted_at"}}


async def test_what_is_wider_or_not_a_keys_to_give_is_rejected(keys: Keys, stack: RunningStack) -> None:
    """By its name; an internal key makes none."""
    root = await keys.root(models=["plain"], rpm=60)
    for wanted, at_fault in (
        ({"models": ["*"]}, "models"), ({"models": ["openai"]}, "models"), ({"rpm": 0}, "rpm"),
        ({"agent": "x"}, "agent"), ({"expires_in_s": 700_000}, "expires_in_s"),
    ):  # fmt: skip
        error = await keys.child(root, 400 if at_fault == "expires_in_s" else 403, **wanted)
        assert error["error"]["param"] == at_fault
    await keys.child(root, 400, tenant="zeta")
    await keys.child({"key": stack.key}, 403)
    await keys.child({"key": "sk-llmp-unknown"}, 401)


async def test_a_parents_revocation_races_with_creation_and_wins(keys: Keys) -> None:
    """Whatever was created meanwhile has ended."""
    root = await keys.root()
    path = f"/admin/keys/{root['id']}"
    made = [keys.client.post(CHILDREN, json={}, headers=key(root)) for _ in range(10)]
    answers = await asyncio.gather(*made[:5], keys.operate("DELETE", path), *made[5:])
    created = [one.json() for one in answers if one.status_code == 201]
    assert {one.status_code for one in answers} <= {200, 201, 401}
    for one in created:
        await keys.until_rejected(one)
