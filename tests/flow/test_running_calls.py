"""Running calls, listed and stopped from any process: two workers of a gateway and another."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import commands
import httpx
import pytest
from anyio import run_process
from running_stack import ADMIN_KEY, KEY
from two_sidecars import GatewayOverSidecars, TwoSidecars, run_gateway

Json = dict[str, Any]
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
CHAT = "/v1/chat/completions"
STREAMS = 6
CONSOLE = "https://console.example.com"
NOWHERE = "redis://127.0.0.1:1"


@dataclass(slots=True)
class OpenCall:
    """A call that runs.

    Attributes:
        task: Returns the whole response.
        client_id: The caller's own id of it.
    """

    task: "asyncio.Task[httpx.Response]"
    client_id: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """Two gateways, and the calls that a test has opened."""

    wide: GatewayOverSidecars
    narrow: GatewayOverSidecars
    database_url: str
    opened: list[OpenCall]

    def open_call(
        self, key: str = KEY, *, stream: bool = True, names: Mapping[str, str] | None = None
    ) -> OpenCall:
        """A slow call at the gateway of two workers, on a connection of its own."""
        spec: Json = (
            {"do": "slow", "gap_ms": 100, "frames": 600}
            if stream
            else {"do": "slow-first", "first_ms": 60000}
        )
        body = self.wide.body(stream=stream, **spec)
        client_id = uuid4().hex
        headers = {"Authorization": f"Bearer {key}", "x-request-id": client_id, **(names or {})}

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(timeout=90) as client:
                return await client.post(f"{self.wide.url}{CHAT}", json=body, headers=headers)

        call = OpenCall(asyncio.create_task(send()), client_id)
        self.opened.append(call)
        return call

    async def until(
        self, holds: Callable[[Json], bool], headers: dict[str, str] = ADMIN, **filters: str
    ) -> Json:
        """Returns the list of the narrow gateway once something holds of it."""
        end = time.monotonic() + 20
        async with httpx.AsyncClient(timeout=20) as client:
            while True:
                answer = await client.get(f"{self.narrow.url}/admin/calls", headers=headers, params=filters)
                assert answer.status_code == 200, answer.text
                listed: Json = answer.json()
                if holds(listed):
                    return listed
                assert time.monotonic() < end, listed
                await asyncio.sleep(0.1)

    async def stop(self, request_id: str, headers: dict[str, str] = ADMIN) -> httpx.Response:
        """Stops a call, at the narrow gateway."""
        async with httpx.AsyncClient(timeout=20) as client:
            return await decided(
                lambda: client.delete(f"{self.narrow.url}/admin/calls/{request_id}", headers=headers)
            )

    async def admin(self, method: str, path: str, body: Json | None = None) -> Json:
        """The answer of a route of the admin API."""
        async with httpx.AsyncClient(timeout=20, headers=ADMIN) as client:
            answer = await client.request(method, f"{self.narrow.url}{path}", json=body)
        assert answer.is_success, answer.text
        found: Json = answer.json()
        return found

    async def story(self, request_id: str) -> Json:
        """Returns the record of a call, once it is written."""
        async with httpx.AsyncClient(headers=ADMIN) as client, asyncio.timeout(20):
            while True:
                answer = await client.get(f"{self.narrow.url}/v1/requests/{request_id}")
                if answer.status_code == 200:
                    found: Json = answer.json()
                    return found
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def gateways(
    tmp_path_factory: pytest.TempPathFactory,
    two_sidecars: TwoSidecars,
    postgres_url: str,
    limits_redis_url: str,
) -> Iterator[tuple[GatewayOverSidecars, GatewayOverSidecars]]:
    """The gateway of two workers, and the other."""
    names = {
        "DATABASE_URL": postgres_url,
        "LIMITS_REDIS_URL": limits_redis_url,
        "LLM_PROXY__STORE_TIMEOUT_MS": "5000",  # a busy machine must not make the store count as away
    }
    two = names | {"LLM_PROXY__WORKERS": "2"}
    with (
        run_gateway(tmp_path_factory.mktemp("wide"), two_sidecars, two) as wide,
        run_gateway(tmp_path_factory.mktemp("narrow"), two_sidecars, names) as narrow,
    ):
        yield wide, narrow


@pytest.fixture
async def deployment(
    gateways: tuple[GatewayOverSidecars, GatewayOverSidecars], postgres_url: str
) -> AsyncIterator[Deployment]:
    """Both; what a test leaves running is ended."""
    made = Deployment(*gateways, postgres_url, [])
    yield made
    for one in made.opened:
        one.task.cancel()
    await asyncio.gather(*(one.task for one in made.opened), return_exceptions=True)


async def decided(stop: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Returns the answer to a stop, which is sent again while a busy process is late with its list."""
    for _ in range(10):
        answer = await stop()
        if "did not answer in time" not in answer.text:
            return answer
    raise TimeoutError


def streaming(listed: Json, count: int) -> bool:
    """Whether so many calls stream, and each has sent something."""
    started = [one for one in listed["data"] if one["state"] == "streaming" and one["sent_bytes"] > 0]
    return len(started) == count


async def test_calls_of_all_workers_are_listed_at_another_gateway_and_one_is_stopped(
    deployment: Deployment,
) -> None:
    """Its stream ends with an error event; its record and the audit log say so; the others go on."""
    agent = uuid4().hex
    names = {"X-Agent-Id": agent, "X-Tenant-Id": "runaways", "X-Session-Id": "s-1"}
    calls = [deployment.open_call(names=names) for _ in range(STREAMS)]
    listed = await deployment.until(
        lambda found: found["complete"] and streaming(found, STREAMS), agent=agent
    )
    assert (listed["note"], listed["store"]) == (None, "up")
    first = listed["data"][0]
    assert {one["client_request_id"] for one in listed["data"]} == {one.client_id for one in calls}
    assert len({one["worker"] for one in listed["data"]}) <= 2
    assert (first["tenant"], first["agent"], first["session"]) == ("runaways", agent, "s-1")
    assert (first["model"], first["endpoint"], first["streamed"]) == ("any", "chat.completions", True)
    assert first["sidecar"].startswith("http://127.0.0.1:")
    later = await deployment.until(
        lambda found: all(one["estimated_completion_tokens"] > 3 for one in found["data"]), agent=agent
    )
    assert [one["age_s"] for one in later["data"]] == sorted(
        (one["age_s"] for one in later["data"]), reverse=True
    )

    stopped = await deployment.stop(first["request_id"])
    assert stopped.status_code == 200, stopped.text
    assert stopped.json()["call"]["request_id"] == first["request_id"]
    call = next(one for one in calls if one.client_id == first["client_request_id"])
    answer = await call.task
    assert answer.status_code == 200
    *_, last = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert json.loads(last[6:])["error"]["code"] == "stopped_by_operator"
    assert "[DONE]" not in answer.text
    left = await deployment.until(lambda found: len(found["data"]) == STREAMS - 1, agent=agent)
    assert first["request_id"] not in {one["request_id"] for one in left["data"]}

    story = await deployment.story(first["request_id"])
    assert (story["status"], story["outcome"], story["refusal_code"]) == (200, "cut", "stopped_by_operator")
    assert story["usage_source"] == "estimated"
    assert story["completion_tokens"] > 0
    [entry] = (
        await deployment.admin("GET", f"/admin/audit?action=calls.stop&subject={first['request_id']}")
    )["data"]
    assert (entry["actor"], entry["target"]) == ("admin_key", first["request_id"])
    assert entry["detail"]["agent"] == agent
    again = await deployment.stop(first["request_id"])
    assert (again.status_code, again.json()["error"]["code"]) == (404, "call_not_running")


async def test_a_call_that_waits_for_its_answer_is_stopped_and_its_slot_is_free(
    deployment: Deployment,
) -> None:
    """The caller gets a 403 that no SDK repeats; the key's one parallel call can be made again."""
    spec: Json = {"name": uuid4().hex, "tenant": uuid4().hex, "models": ["*"], "parallel": 1}
    made = await deployment.admin("POST", "/admin/keys", spec)
    call = deployment.open_call(made["key"], stream=False)
    listed = await deployment.until(
        lambda found: [one["state"] for one in found["data"]] == ["waiting"], key=spec["name"]
    )
    [running] = listed["data"]
    assert (running["key_name"], running["tenant"]) == (spec["name"], spec["tenant"])
    assert (running["sent_bytes"], running["estimated_completion_tokens"]) == (0, None)
    assert (await deployment.stop(running["request_id"])).status_code == 200
    answer = await call.task
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (
        403,
        "stopped_by_operator",
        "permission_error",
    )
    assert answer.headers["x-should-retry"] == "false"
    story = await deployment.story(running["request_id"])
    assert (story["status"], story["outcome"], story["refusal_code"]) == (403, "error", "stopped_by_operator")
    body = deployment.wide.body()
    async with httpx.AsyncClient(timeout=20) as client:
        headers = {"Authorization": f"Bearer {made['key']}"}
        assert (
            await client.post(f"{deployment.narrow.url}{CHAT}", json=body, headers=headers)
        ).status_code == 200


async def test_who_may_see_and_stop_which_calls(deployment: Deployment) -> None:
    """A tenant's admin its own, without the deployment's insides; a viewer sees all and stops none."""
    tenants, agent = (uuid4().hex, uuid4().hex), uuid4().hex
    for tenant in tenants:
        deployment.open_call(names={"X-Tenant-Id": tenant, "X-Agent-Id": agent})
    keys: dict[str, dict[str, str]] = {}
    for role, of_tenant in (("tenant", tenants[0]), ("viewer", None)):
        spec = {"name": uuid4().hex, "role": role} | ({"tenant": of_tenant} if of_tenant else {})
        keys[role] = {
            "Authorization": f"Bearer {(await deployment.admin('POST', '/admin/admin-keys', spec))['key']}"
        }
    listed = await deployment.until(lambda found: streaming(found, 2), agent=agent)
    of = {one["tenant"]: one["request_id"] for one in listed["data"]}
    [own] = (await deployment.until(lambda found: len(found["data"]) == 1, keys["tenant"]))["data"]
    assert own["request_id"] == of[tenants[0]]
    assert not {"sidecar", "worker", "deployment"} & own.keys()
    assert len((await deployment.until(lambda _: True, keys["viewer"], agent=agent))["data"]) == 2
    assert (await deployment.stop(of[tenants[0]], keys["viewer"])).status_code == 403
    assert (await deployment.stop(of[tenants[1]], keys["tenant"])).status_code == 404
    assert (await deployment.stop(of[tenants[0]], keys["tenant"])).status_code == 200
    left = await deployment.until(lambda found: len(found["data"]) == 1, agent=agent)
    assert left["data"][0]["tenant"] == tenants[1]


async def test_a_key_sees_the_running_calls_of_its_child_keys(deployment: Deployment) -> None:
    """Named by their keys; a child sees its own alone."""
    spec: Json = {"name": uuid4().hex, "tenant": uuid4().hex, "models": ["*"]}
    root = await deployment.admin("POST", "/admin/keys", spec)
    headers = [{"Authorization": f"Bearer {root['key']}"}]
    async with httpx.AsyncClient(base_url=deployment.wide.url, timeout=20) as client:
        for _ in range(2):
            made = (await client.post("/v1/keys/children", json={}, headers=headers[0])).json()
            headers.append({"Authorization": f"Bearer {made['key']}"})
            deployment.open_call(made["key"])
        await deployment.until(lambda found: streaming(found, 2), tenant=spec["tenant"])
        family, first, second = [
            (await client.get("/v1/calls", headers=who)).json()["data"] for who in headers
        ]
    assert {one["key_ancestors"][0] for one in family} == {root["id"]}
    assert (len(first), len(second)) == (1, 1)
    assert {one["request_id"] for one in family} == {one["request_id"] for one in [*first, *second]}
    assert len({one["key_name"] for one in family} - {None}) == 2


async def test_a_key_stops_its_own_calls_and_those_of_its_child_keys(deployment: Deployment) -> None:
    """Of a process of another gateway, on record by the key's public part; never another key's."""
    spec: Json = {"name": uuid4().hex, "tenant": uuid4().hex, "models": ["*"]}
    root = await deployment.admin("POST", "/admin/keys", spec)
    other = await deployment.admin("POST", "/admin/keys", spec | {"name": uuid4().hex})
    keys = {"root": root["key"], "other": other["key"]}
    async with httpx.AsyncClient(base_url=deployment.narrow.url, timeout=20) as client:

        async def stop(key: str, request_id: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {keys[key]}"}
            return await decided(lambda: client.delete(f"/v1/calls/{request_id}", headers=headers))

        headers = {"Authorization": f"Bearer {keys['root']}"}
        made = await client.post("/v1/keys/children", json={}, headers=headers)
        keys["child"] = made.json()["key"]
        calls = {key: deployment.open_call(keys[key]) for key in ("root", "child")}
        listed = await deployment.until(lambda found: streaming(found, 2), tenant=spec["tenant"])
        ids = {bool(one["key_ancestors"]): one["request_id"] for one in listed["data"]}
        own, childs = ids[False], ids[True]
        for key, request_id in (("other", own), ("other", childs), ("child", own), ("root", str(uuid4()))):
            refused = await stop(key, request_id)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "call_not_running")
        assert (await client.delete(f"/v1/calls/{own}")).status_code == 401
        stopped = await stop("root", childs)
        assert stopped.status_code == 200, stopped.text
        assert stopped.json()["call"]["request_id"] == childs
        assert not {"sidecar", "worker", "deployment"} & stopped.json()["call"].keys()
        assert "stopped_by_operator" in (await calls["child"].task).text
        assert (await stop("root", own)).status_code == 200
        assert "stopped_by_operator" in (await calls["root"].task).text
    [entry] = (await deployment.admin("GET", f"/admin/audit?action=calls.stop&subject={childs}"))["data"]
    assert entry["actor"] == f"key {root['prefixes'][0]}"
    assert entry["detail"]["tenant"] == spec["tenant"]


async def test_the_command_line_lists_and_stops(deployment: Deployment) -> None:
    """With the admin key, at the gateway that `--url` names; with links to the console."""
    agent = uuid4().hex
    call = deployment.open_call(names={"X-Agent-Id": agent})
    listed = await deployment.until(lambda found: streaming(found, 1), agent=agent)
    request_id = listed["data"][0]["request_id"]

    async def command(*words: str, code: int = 0, console: str = "") -> str:
        more = {"LLM_PROXY__CONSOLE_URL": console} if console else {}
        url = ("--url", deployment.narrow.url) if words[0] == "calls" else ()
        key = {"LLM_PROXY__ADMIN_KEY": ADMIN_KEY}
        return await commands.run(
            deployment.database_url, *words, *url, code=code, columns=200, **more, **key
        )

    shown = await command("calls", "list", "--agent", agent)
    assert all(part in shown for part in ("streaming", agent, request_id))
    assert "console: " not in shown
    assert (await command("calls", "list", console=CONSOLE)).endswith(f"console: {CONSOLE}/live\n")
    stopped = await command("calls", "stop", request_id, "--yes")
    assert stopped.startswith("stopped after ")
    assert "stopped_by_operator" in (await call.task).text
    assert "No running call has this id" in await command("calls", "stop", request_id, "--yes", code=1)
    assert await command("calls", "list", "--agent", agent) == "no call runs\n"
    await deployment.story(request_id)
    story = await command("requests", request_id, console=f"{CONSOLE}/")
    assert f"console: {CONSOLE}/requests/{request_id}\n" in story


@pytest.mark.parametrize(
    ("names", "store"),
    [({}, "none"), ({"LIMITS_REDIS_URL": NOWHERE, "LLM_PROXY__LIMITS_ON_STORE_FAILURE": "local"}, "away")],
)
async def test_without_the_limits_store_a_process_knows_its_own_calls_and_says_so(
    tmp_path_factory: pytest.TempPathFactory, two_sidecars: TwoSidecars, names: dict[str, str], store: str
) -> None:
    """And stops them."""
    with run_gateway(tmp_path_factory.mktemp("alone"), two_sidecars, names, ready=False) as alone:
        made = Deployment(alone, alone, "", [])
        call = made.open_call()
        listed = await made.until(lambda found: streaming(found, 1))
        assert (listed["store"], listed["complete"]) == (store, False)
        assert "the process that answered" in listed["note"]
        assert (await made.stop(listed["data"][0]["request_id"])).status_code == 200
        assert "stopped_by_operator" in (await call.task).text
        gone = await made.stop(listed["data"][0]["request_id"])
        assert gone.status_code == 404
        assert "the process that answered" in gone.json()["error"]["message"]


async def test_a_key_is_shown_without_the_limits_store_with_a_note(
    tmp_path_factory: pytest.TempPathFactory, two_sidecars: TwoSidecars, postgres_url: str
) -> None:
    """What is used of its limits is unknown, not nothing."""
    names = {"DATABASE_URL": postgres_url, "LIMITS_REDIS_URL": NOWHERE}
    with run_gateway(tmp_path_factory.mktemp("away"), two_sidecars, names, ready=False) as away:
        name, budget = uuid4().hex, {"budgets": [{"period": "day", "limit_usd": "7"}]}
        async with httpx.AsyncClient(headers=ADMIN, timeout=20) as client:
            made = await client.post(f"{away.url}/admin/keys", json=budget | {"name": name})
            assert made.status_code == 201, made.text
        port = away.url.rpartition(":")[2]
        more = {"DATABASE_URL": postgres_url, "LLM_PROXY__PORT": port, "LLM_PROXY__ADMIN_KEY": ADMIN_KEY}
        command = [sys.executable, "-P", "-m", "llm_proxy", "keys", "show", name]
        done = await run_process(command, env={"PATH": os.environ["PATH"], **more}, cwd=tempfile.gettempdir())
    assert "$7/day" in done.stdout.decode()
    assert "the limits store does not answer" in done.stderr.decode()
