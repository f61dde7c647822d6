"""What the management routes answer, played on a real gateway, and the schemas that say so.

`python -m management_answers > llm_proxy/edge/schemas/management.json` (with PYTHONPATH=tests) plays `visit`
on a stack of its own and prints a schema for each route; tests/flow/test_openapi.py plays it on the tests'
stack and compares. A field of an object in a list is never required: not every row has it.
"""

import asyncio
import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
from answer_schemas import answer_schema
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY, Json, say
from stack_processes import run_stack

Answers = dict[str, list[Any]]
"""Bodies of 2xx answers by method and path as the OpenAPI page has it."""
CHAT, SLOW = "smollm2", {"do": "slow", "gap_ms": 300, "frames": 40}
SCRIPTED = {"api_base": "PROVIDER/v1", "api_key": "sk-none"}
PRICE = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
CONFIGURATION: Json = {
    "model_list": [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", **SCRIPTED, **PRICE},
            "model_info": {"id": name},
        }
        for name in (CHAT, "plain")
    ]
}


class Visitor:
    """Calls routes and keeps what they answer, by their paths on the OpenAPI page."""

    def __init__(self, client: httpx.AsyncClient, page: Json, key: str) -> None:
        """Reads the routes of the page."""
        self.answers: Answers = {}
        self.client = client
        self._key = key
        self._routes = [
            (method.upper(), path, re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))))
            for path, operations in sorted(page["paths"].items(), key=lambda one: one[0].count("{"))
            for method in operations
        ]

    async def call(self, method: str, path: str, body: Json | None = None, *, key: str | None = None) -> Any:
        """Calls a route as an admin, or with a key; keeps and returns what it answers."""
        headers = {"Authorization": f"Bearer {key or ADMIN_KEY}"}
        reply = await self.client.request(method, path, json=body, headers=headers)
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text[:300]}"
        with suppress(ValueError):
            found = reply.json()
            self.answers.setdefault(self._route(method, path.partition("?")[0]), []).append(found)
            return found
        return None

    async def own(self, method: str, path: str, body: Json | None = None) -> Any:
        """The same as a caller."""
        return await self.call(method, path, body, key=self._key)

    def _route(self, method: str, path: str) -> str:
        return next(
            f"{of} {name}" for of, name, pattern in self._routes if of == method and pattern.fullmatch(path)
        )


async def visit(url: str, *, has_call_log: bool) -> Answers:
    """Calls the management routes of a gateway, whose sidecars may log calls; returns what they answer."""
    async with httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=30) as client:
        page = (await client.get("/openapi.json", headers={"Authorization": f"Bearer {ADMIN_KEY}"})).json()
        visitor = Visitor(client, page, KEY)
        tenant = f"visited-{uuid4().hex[:8]}"
        made = await _keys(visitor, tenant)
        await _calls(visitor, made, tenant)
        await _rejections(visitor, tenant)
        await _policies(visitor, tenant, made)
        await _recorded(visitor, made["request_id"], made["key"], has_calls=has_call_log)
        await _reads(visitor, tenant, made)
        await _ends(visitor, made, tenant)
    return visitor.answers


async def _keys(visitor: Visitor, tenant: str) -> Json:
    budget = {"limit_usd": "5", "period": "day"}
    spec = {"tenant": tenant, "models": ["*"], "rpm": 1000, "budgets": [budget], "tags": ["visited"]}
    made: Json = await visitor.call("POST", "/admin/keys", {"name": f"{tenant}-key", **spec})
    path = f"/admin/keys/{made['id']}"
    await visitor.call("PATCH", path, {"tpm": 1_000_000})
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await visitor.call("PUT", f"{path}/raise", {"rpm": 2000, "until": until})
    await visitor.call("GET", path)
    await visitor.call("DELETE", f"{path}/raise")
    units = ("requests", "tokens", "images", "audio_seconds", "characters", "search_units")
    counted = [{f"limit_{unit}": 1000, "period": "week", "zone": "Europe/Berlin"} for unit in units]
    whole = {
        "budgets": [budget, *counted],
        "name": f"{tenant}-whole", "agent": "cart", "user": "ada", "tpm": 90_000, "parallel": 5,
        "max_tokens_cap": 100, "expires_at": until,
    }  # fmt: skip
    second = await visitor.call("POST", "/admin/keys", spec | whole)
    every = {
        "rpm": 2000,
        "tpm": 100_000,
        "parallel": 9,
        "budgets": [budget | {"limit_usd": "9"}],
        "until": until,
    }
    await visitor.call("PUT", f"/admin/keys/{second['id']}/raise", every)
    await visitor.call("GET", f"/admin/keys/{second['id']}")
    await visitor.call("GET", "/v1/limits", key=second["key"])
    child = await visitor.call(
        "POST", "/v1/keys/children", {"name": "child", "expires_in_s": 600}, key=made["key"]
    )
    await visitor.call("GET", "/v1/keys/children", key=made["key"])
    await visitor.call("DELETE", f"/v1/keys/children/{child['id']}", key=made["key"])
    admin = await visitor.call("POST", "/admin/admin-keys", {"name": f"{tenant}-admin", "role": "viewer"})
    await visitor.call("GET", "/admin/admin-keys")
    await visitor.call("DELETE", f"/admin/admin-keys/{admin['id']}")
    return made


async def _calls(visitor: Visitor, made: Json, tenant: str) -> None:
    """A call on record, and a running one that is stopped."""
    body = {"model": CHAT, "messages": say("hello"), "user": f"{tenant}-user"}
    run = {"Authorization": f"Bearer {made['key']}", "X-Run-Id": f"{tenant}-run"}
    reply = await visitor.client.post("/v1/chat/completions", json=body, headers=run)
    assert reply.is_success, reply.text
    made["request_id"] = reply.headers["x-request-id"]
    for path, key in (("/v1/calls", made["key"]), ("/admin/calls", ADMIN_KEY)):
        said = say("please " + json.dumps(SLOW))
        slow = {"model": "plain", "messages": said, "stream": True}
        running = asyncio.create_task(visitor.client.post("/v1/chat/completions", json=slow, headers=run))
        for _ in range(100):
            found = await visitor.call("GET", f"{path}?tenant={tenant}" if "admin" in path else path, key=key)
            if found["data"] and found["data"][0]["estimated_completion_tokens"]:
                await visitor.call("DELETE", f"{path}/{found['data'][0]['request_id']}", key=key)
                break
            await asyncio.sleep(0.1)
        with suppress(httpx.HTTPError):
            await running


async def _rejections(visitor: Visitor, tenant: str) -> None:
    """Rejected requests on record: by a rate, and by a budget in dollars."""
    of_keys: dict[str, Json] = {
        "rate": {"rpm": 1},
        "budget": {"budgets": [{"limit_usd": "0", "period": "day"}]},
    }
    for name, limits in of_keys.items():
        spec = {"name": f"{tenant}-{name}", "tenant": tenant, "models": ["*"], **limits}
        key = (await visitor.call("POST", "/admin/keys", spec))["key"]
        headers = {"Authorization": f"Bearer {key}", "X-Run-Id": f"{tenant}-{name}"}
        body = {"model": CHAT, "messages": say("hello")}
        replies = [
            await visitor.client.post("/v1/chat/completions", json=body, headers=headers) for _ in range(2)
        ]
        assert replies[-1].status_code == 429, replies[-1].text
        await _recorded(visitor, replies[-1].headers["x-request-id"], key)
        await visitor.call("GET", "/v1/requests?since=1h", key=key)
        await visitor.call("GET", f"/v1/runs/{tenant}-{name}", key=key)


async def _recorded(visitor: Visitor, request: str, key: str, *, has_calls: bool = False) -> None:
    """Waits for the record of a request, and for its model calls: the sidecar writes them a moment later."""
    for _ in range(100):
        with suppress(AssertionError):
            found = await visitor.call("GET", f"/v1/requests/{request}", key=key)
            if not has_calls or found["model_calls"]:
                return
        await asyncio.sleep(0.1)
    raise AssertionError(f"no record of {request}")


async def _policies(visitor: Visitor, tenant: str, made: Json) -> None:
    policy = {
        "scope": "tenant",
        "tenant": tenant,
        "rpm": 5000,
        "budgets": [{"limit_usd": "100", "period": "month"}],
    }
    await visitor.call("PUT", "/admin/limits", policy)
    shares = {"weight": 2, "priority": "batch", "mode": "shadow", "on_store_failure": "local"}
    of_tenant = {"scope": "tenant", "tenant": tenant, "rpm": 5000, "tpm": 9_000_000, "parallel": 90, **shares}
    counts = ("quarantine_s", "repeats", "cycles", "max_period", "stalled_turns", "burst")
    guard = {"mode": "warn", "notice": True, "usd_per_minute": "1", **dict.fromkeys(counts, 9)}
    await visitor.call("PUT", "/admin/limits", of_tenant | {"loop_guard": guard})
    of_model = {"scope": "user_model", "tenant": tenant, "subject": "ada", "model": CHAT, "rpm": 5000}
    await visitor.call("PUT", "/admin/limits", of_model)
    await visitor.call("GET", f"/admin/keys/{made['id']}")
    await visitor.call("GET", "/admin/limits")
    switch = {"kind": "agent", "subject": "nobody", "tenant": tenant, "reason": "visited"}
    await visitor.call("PUT", "/admin/kill-switches", switch)
    await visitor.call("GET", "/admin/kill-switches")
    await visitor.call("DELETE", f"/admin/kill-switches?kind=agent&subject=nobody&tenant={tenant}")
    await visitor.call("POST", "/admin/simulate", {"since": "1h", "rules": [policy]})


async def _reads(visitor: Visitor, tenant: str, made: Json) -> None:
    key = made["key"]
    for path in (
        "/v1/usage?group_by=model&since=1h", "/v1/requests?since=1h", "/v1/runs?since=1h",
        f"/v1/runs/{tenant}-run",
        "/v1/limits", "/v1/models", f"/v1/models/{CHAT}", "/v1/model/info", "/key/info", "/openai/models",
        f"/openai/models/{CHAT}", "/openai/deployments", f"/openai/deployments/{CHAT}", "/v1beta/models",
        f"/v1beta/models/{CHAT}", "/v1/llm/models",
    ):  # fmt: skip
        await visitor.call("GET", path, key=key)
    for path in (
        f"/admin/keys?tenant={tenant}", "/admin/tenants", "/admin/models", "/admin/config", "/admin/settings",
        "/admin/reload", f"/admin/budgets?tenant={tenant}", f"/admin/audit?subject={made['id']}",
        "/admin/refused-credentials", "/admin/notifications", "/admin/runs/quarantined",
        "/health", "/health/live", "/health/ready",
    ):  # fmt: skip
        await visitor.call("GET", path)
    await visitor.own("GET", "/internal/llm/models")
    await visitor.own("GET", f"/internal/llm/usage?agent_id={tenant}")
    chat = {"model": CHAT, "messages": say("hello")}
    await visitor.call("POST", f"/v1/explain?key={made['id']}", chat)
    await visitor.call("POST", f"/v1/explain?key={made['id']}", chat | {"model": "nosuch"})
    await visitor.call("POST", f"/admin/models/{CHAT}/test")
    await visitor.own("POST", "/v1/messages/count_tokens", chat)
    await visitor.own("POST", "/v1/responses/input_tokens", {"model": CHAT, "input": "hello"})
    contents = {"contents": [{"parts": [{"text": "hello"}]}]}
    await visitor.own("POST", f"/v1beta/models/{CHAT}:countTokens", contents)


async def _ends(visitor: Visitor, made: Json, tenant: str) -> None:
    erased = await visitor.call("POST", "/admin/erasures", {"tenant": tenant, "user": f"{tenant}-user"})
    await visitor.call("GET", f"/admin/erasures/{erased['id']}")
    await visitor.call("DELETE", f"/admin/payloads?user={tenant}-user&tenant={tenant}")
    await visitor.call("DELETE", f"/admin/cache?tenant={tenant}")
    await visitor.call("DELETE", f"/admin/limits?scope=tenant&tenant={tenant}")
    await visitor.call("POST", f"/admin/keys/{made['id']}/rotate", {"overlap_s": 60})
    await visitor.call("POST", f"/admin/keys/{made['id']}/revoke")
    await visitor.call("DELETE", f"/admin/keys/{made['id']}")


def document(answers: Answers) -> str:
    """Returns the schemas as JSON, a route a line."""
    made = {route: answer_schema(route, found) for route, found in sorted(answers.items())}
    lines = (
        f"{json.dumps(route)}:{json.dumps(schema, separators=(',', ':'), sort_keys=True)}"
        for route, schema in made.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}"


def main() -> None:
    """Prints the schemas."""
    with run_stack(CONFIGURATION) as stack:
        print(document(asyncio.run(visit(stack.url("gateway-1"), has_call_log=True))))  # noqa: T201 -- a command


if __name__ == "__main__":
    main()
