"""Gateways and sidecars of this release and of the one before, side by side on the newer schema, and back."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import openai
import pytest
import release_before
from loopback import NO_TLS
from running_console import ConsoleProcess, RunningConsole, serve_console
from running_stack import ADMIN_KEY, KEY, MASTER_KEY, RunningStack, say, script
from stack_processes import PASSWORD, StackProcesses, machine, run_stack

from llm_proxy.schema.steps import OLDEST_SCHEMA, all_migrations
from llm_proxy.stack import probe, process_specs
from llm_proxy.stack.stores import valkey_url

Json = dict[str, Any]
COST_USD = 0.000063
"""Of one call that the provider says took 17 and 23 tokens."""
CONFIG: Json = {
    "model_list": [
        {
            "model_name": "plain",
            "litellm_params": {
                "model": "openai/plain",
                "api_base": "PROVIDER/v1",
                "api_key": "none",
                "input_cost_per_token": 0.000001,
                "output_cost_per_token": 0.000002,
            },
            "model_info": {"id": "plain"},
        }
    ],
    "router_settings": {"num_retries": 0, "disable_cooldowns": True},
}
OLD, NEW = "before", "this"
BOTH_WAYS = pytest.mark.parametrize(("first", "second"), [(OLD, NEW), (NEW, OLD)])


@dataclass(frozen=True, slots=True)
class Releases:
    """The gateway of each release, by `before` and `this`, before a sidecar of each.

    Attributes:
        tree: The source tree of the release before.
        names: The gateways' names among the processes.
    """

    processes: StackProcesses
    tree: Path
    names: dict[str, str]

    def url(self, release: str) -> str:
        """The gateway's address."""
        return self.processes.url(self.names[release])

    def log(self, release: str) -> str:
        """What the gateway has logged."""
        return (self.processes.folder / "logs" / f"{self.names[release]}.log").read_text()

    @asynccontextmanager
    async def stack(self, release: str, key: str = KEY) -> AsyncGenerator[RunningStack]:
        """The stack at the gateway of a release."""
        url = self.url(release)
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30,
            http_client=openai.DefaultAsyncHttpxClient(verify=NO_TLS),
        ) as sdk:  # fmt: skip
            yield RunningStack(url, key, ADMIN_KEY, self.processes.url("provider"), sdk)

    async def ask(self, release: str, key: str, **fields: Any) -> httpx.Response:
        """One chat that no other is like, heard to its end."""
        body = {"model": "plain", "messages": say(f"hello {uuid4().hex}"), **fields}
        return await self.send(release, "POST", "/v1/chat/completions", key, body)

    async def send(
        self, release: str, method: str, path: str, key: str, body: object = None, **headers: str
    ) -> httpx.Response:
        """One request; `_` in a header's name is `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
            return await client.request(
                method,
                self.url(release) + path,
                json=body,
                headers={"authorization": f"Bearer {key}", **named},
            )

    async def make_key(self, release: str, **spec: object) -> Json:
        """A new key of a tenant of its own."""
        body = {"name": uuid4().hex, "tenant": uuid4().hex, "models": ["*"], **spec}
        made = await self.send(release, "POST", "/admin/keys", ADMIN_KEY, body)
        assert made.status_code == 201, made.text
        found: Json = made.json()
        return found


def run_before(tree: Path, made: StackProcesses, *words: str) -> str:
    """A command of the release before, on the stack's database; returns what it printed."""
    given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given |= {"PYTHONPATH": str(tree), "DATABASE_URL": made.database_url, "SIDECAR_DB_PASSWORD": PASSWORD}
    command = [str(release_before.gateway_python(tree)), *words]
    done = subprocess.run(command, cwd=made.folder, env=given, capture_output=True, text=True, check=True)
    return done.stdout


def add_gateway_before(tree: Path, made: StackProcesses, settings: dict[str, str]) -> str:
    """Makes a gateway of the release before known; returns its name."""
    name = made.add_gateway({**settings, "PYTHONPATH": str(tree)})
    spec = made.specs[name]
    made.specs[name] = replace(spec, argv=(str(release_before.gateway_python(tree)), *spec.argv[1:]))
    return name


def add_sidecars(tree: Path, made: StackProcesses) -> None:
    """Makes a sidecar of each release known."""
    config = made.folder / "litellm.yaml"
    config.write_text(json.dumps(CONFIG).replace("PROVIDER", made.url("provider")), encoding="utf-8")
    cache_url = valkey_url(made.ports["cache"], PASSWORD)
    behind = process_specs.SidecarBackends(MASTER_KEY, cache_url, made.call_log_url, None)
    for number in (1, 2):
        port = probe.free_port()
        spec = process_specs.sidecar_spec(number, port, config, behind, machine())
        made.add(spec.name, spec, port)
    ours = str(release_before.PROJECT_ROOT / "llm_proxy")
    argv = [one.replace(ours, str(tree / "llm_proxy")) for one in made.specs["sidecar-2"].argv[1:]]
    theirs = (str(release_before.litellm_python(tree)), *argv)
    made.specs["sidecar-2"] = replace(made.specs["sidecar-2"], argv=theirs)


@pytest.fixture(scope="module")
def releases(service_folder: Path) -> Iterator[Releases]:
    """The release before made the database and serves; this one migrates it beside the calls, and serves."""
    tree = release_before.unpack(service_folder)

    def migrate(made: StackProcesses) -> None:
        assert str(tree) in run_before(tree, made, "-c", "import llm_proxy; print(llm_proxy.__file__)")
        printed = run_before(tree, made, "-m", "llm_proxy", "migrate")
        assert f"applied {OLDEST_SCHEMA:03}_" in printed.splitlines()[-2]

    settings = {
        "LLM_PROXY__SEALING_KEYS": f"k1={'s' * 32}",
        "LLM_PROXY__STORE_RESPONSES": "all",
        "LLM_PROXY__AGENT_RPM": "0",
    }
    with run_stack(CONFIG, gateways=0, sidecars=0, migrate=migrate) as made:
        add_sidecars(tree, made)
        settings["CACHE_REDIS_URL"] = valkey_url(made.ports["cache"], PASSWORD)
        before = add_gateway_before(tree, made, settings)
        made.start("sidecar-1", "sidecar-2", before)
        with calls_run(made.url(before)) as statuses:
            process_specs.migrate_database(made.database_url, PASSWORD, made.folder, machine())
            this = made.add_gateway(settings)
            made.start(this)
        assert set(statuses) == {"200"}
        yield Releases(made, tree, {OLD: before, NEW: this})


_CALLS = """
import itertools, sys, httpx
client = httpx.Client(base_url=sys.argv[1], headers={"authorization": f"Bearer {sys.argv[2]}"}, timeout=30)
for turn in itertools.count():
    body = {"model": "plain", "messages": [{"role": "user", "content": str(turn)}], "stream": turn % 2 > 0}
    answer = client.post("/v1/chat/completions", json=body)
    print(answer.status_code if answer.is_success else answer.text.replace("\\n", " "), flush=True)
"""


@contextmanager
def calls_run(url: str) -> Generator[list[str]]:
    """Calls run at this gateway, whole and streamed; at the end the list has their statuses or errors."""
    command = [sys.executable, "-c", _CALLS, url, KEY]
    statuses: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        statuses.append(running.stdout.readline().strip())
        try:
            yield statuses
        finally:
            running.terminate()
            statuses += running.stdout.read().splitlines()


def test_the_floor_is_the_schema_of_the_release_before() -> None:
    """The release and its schema are named in two places, which agree."""
    if (lack := release_before.history_lack()) is not None:
        pytest.skip(lack)
    listed = release_before.git("ls-tree", "--name-only", release_before.COMMIT, "llm_proxy/schema/")
    numbers = re.findall(r"/(\d{3})_\w+\.sql$", listed.stdout.decode(), re.MULTILINE)
    assert max(map(int, numbers)) == OLDEST_SCHEMA <= all_migrations()[-1].number
    assert OLDEST_SCHEMA in {step.number for step in all_migrations()}


@BOTH_WAYS
@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_a_call_of_one_release_is_a_record_of_both(
    releases: Releases, first: str, second: str, way: str
) -> None:
    """With its tokens and its cost, whichever sidecar served it; the roll-ups have it once."""
    key = (await releases.make_key(first))["key"]
    fields: Json = {"stream": True, "stream_options": {"include_usage": True}} if way == "stream" else {}
    answers = [await releases.ask(first, key, **fields) for _ in range(4)]
    assert {one.status_code for one in answers} == {200}
    for release in (first, second):
        async with releases.stack(release) as stack:
            for answer in answers:
                story = await stack.story(answer.headers["x-request-id"])
                assert (story["prompt_tokens"], story["completion_tokens"]) == (17, 23)
                assert float(story["cost_usd"]) == pytest.approx(COST_USD)
                assert (story["outcome"], story["streamed"]) == ("ok", way == "stream")
        [used] = (await releases.send(release, "GET", "/v1/usage?group_by=key", key)).json()["data"]
        assert used["requests"] == 4
        assert float(used["cost_usd"]) == pytest.approx(4 * COST_USD)


@BOTH_WAYS
async def test_keys_and_admin_keys_of_one_release_hold_at_the_other(
    releases: Releases, first: str, second: str
) -> None:
    """Made, changed, revoked: by either, seen by both within a few seconds."""
    made = await releases.make_key(first)
    assert (await releases.ask(second, made["key"])).status_code == 200
    path = f"/admin/keys/{made['id']}"
    changed = await releases.send(second, "PATCH", path, ADMIN_KEY, {"models": ["other"]})
    assert changed.status_code == 200, changed.text
    await becomes(releases, first, made["key"], 404)
    assert (await releases.send(second, "DELETE", path, ADMIN_KEY)).status_code == 200
    for release in (first, second):
        await becomes(releases, release, made["key"], 401)
    body = {"name": uuid4().hex, "role": "viewer"}
    admin = (await releases.send(first, "POST", "/admin/admin-keys", ADMIN_KEY, body)).json()
    assert (await releases.send(second, "GET", "/admin/keys", admin["key"])).status_code == 200
    revoked = await releases.send(second, "DELETE", f"/admin/admin-keys/{admin['name']}", ADMIN_KEY)
    assert revoked.status_code == 200, revoked.text
    async with asyncio.timeout(10):
        while (await releases.send(first, "GET", "/admin/keys", admin["key"])).status_code != 401:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.1)


async def becomes(releases: Releases, release: str, key: str, status: int) -> None:
    """Waits until a call with this key is answered so."""
    async with asyncio.timeout(10):
        while (await releases.ask(release, key)).status_code != status:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.1)


@BOTH_WAYS
async def test_both_releases_count_in_the_same_counters(releases: Releases, first: str, second: str) -> None:
    """Requests, tokens, money and calls at once: what one has admitted the other knows."""
    key = (await releases.make_key(first, rpm=7))["key"]
    turns = [await releases.ask((first, second)[turn % 2], key) for turn in range(10)]
    assert [one.status_code for one in turns] == [200] * 7 + [429] * 3
    budget = [{"limit_usd": "5", "period": "day"}]
    key = (await releases.make_key(first, tpm=100_000, budgets=budget))["key"]
    for turn in range(6):
        assert (await releases.ask((first, second)[turn % 2], key)).status_code == 200
    standings = [
        (await releases.send(one, "GET", "/v1/limits", key)).json()["limits"] for one in (first, second)
    ]
    for limits in standings:
        by_kind = {one["kind"]: one for one in limits}
        assert float(by_kind["budget"]["used_usd"]) == pytest.approx(6 * COST_USD)
    tokens = [one["remaining"] for limits in standings for one in limits if one["kind"] == "tokens"]
    assert len(tokens) == 2
    assert abs(tokens[0] - tokens[1]) < 3000  # the window moves on between both readings
    key = (await releases.make_key(first, parallel=1))["key"]
    body = {"model": "plain", "messages": say(script(do="slow", gap_ms=300)), "stream": True}
    async with (
        httpx.AsyncClient(verify=NO_TLS, timeout=30, headers={"authorization": f"Bearer {key}"}) as client,
        client.stream("POST", f"{releases.url(first)}/v1/chat/completions", json=body) as running,
    ):
        assert running.status_code == 200
        assert (await releases.ask(second, key)).status_code == 429
        await running.aread()
    assert (await releases.ask(second, key)).status_code == 200


@BOTH_WAYS
async def test_what_one_release_keeps_the_other_reads(releases: Releases, first: str, second: str) -> None:
    """A stored response, which the other goes on from; an answer that its idempotency key repeats."""
    key = (await releases.make_key(first))["key"]
    async with releases.stack(first, key) as here, releases.stack(second, key) as there:
        said = await here.openai.responses.create(model="plain", input=f"first {script(do='ok')}")
        read = await there.openai.responses.retrieve(said.id)
        assert (read.id, read.output_text) == (said.id, said.output_text)
        again = await there.openai.responses.create(
            model="plain", input=f"second {script(do='ok')}", previous_response_id=said.id
        )
        assert (await here.openai.responses.retrieve(again.id)).previous_response_id == said.id
    for stream in (False, True):
        body = {"model": "plain", "messages": say(uuid4().hex), "stream": stream}
        name = {"idempotency_key": uuid4().hex}
        answers = [
            await releases.send(release, "POST", "/v1/chat/completions", key, body, **name)
            for release in (first, second)
        ]
        assert answers[0].content == answers[1].content
        assert answers[1].headers["idempotency-replayed"] == "true"


@pytest.fixture(scope="module")
def consoles(releases: Releases) -> Iterator[dict[str, ConsoleProcess]]:
    """A console of each release, before its gateway."""
    made = releases.processes
    tree = {"PYTHONPATH": str(releases.tree)}
    with (
        serve_console(made.folder, made.database_url, releases.url(OLD), tree, ("--no-link",)) as before,
        serve_console(made.folder, made.database_url, releases.url(NEW)) as this,
    ):
        yield {OLD: before, NEW: this}


@BOTH_WAYS
async def test_a_session_of_one_console_holds_at_the_other(
    releases: Releases, consoles: dict[str, ConsoleProcess], first: str, second: str
) -> None:
    """Its pages open, and it ends at both."""
    async with releases.stack(first) as stack:
        here = RunningConsole(consoles[first], stack)
        async with here.signed_in() as browser:
            cookies = dict(browser.cookies)
            async with httpx.AsyncClient(
                base_url=consoles[second].url, cookies=cookies, verify=NO_TLS, timeout=20
            ) as there:
                for page in ("/", "/usage", "/requests", "/keys", "/live", "/sessions"):
                    opened = await there.get(page, follow_redirects=True)
                    assert (opened.status_code, "/sign-in" in str(opened.url)) == (200, False), page
                token = re.search(r'name="csrf" value="([0-9a-f]{64})"', (await there.get("/sessions")).text)
                assert token is not None
                assert (await there.post("/sign-out", data={"csrf": token[1]})).status_code == 303
            assert (await browser.get("/keys")).headers["location"].startswith("/sign-in")


async def test_back_to_the_release_before_and_forward_again(releases: Releases) -> None:
    """On one spool: what a gateway of the one has, the other takes over; each call is recorded once."""
    made = releases.processes
    spool = {"LLM_PROXY__SPOOL_DIR": str(made.folder / "shared-spool")}
    name = made.add_gateway(spool)
    back = add_gateway_before(releases.tree, made, spool)
    roll = Releases(made, releases.tree, {NEW: name, OLD: back})
    key = (await releases.make_key(NEW))["key"]
    calls = 0
    for release in (NEW, OLD, NEW):
        await asyncio.to_thread(made.start, roll.names[release])
        for _ in range(3):
            assert (await roll.ask(release, key)).status_code == 200
        calls += 3
        if release == OLD:  # killed with a call in the air, which the newer one has to record
            async with roll.stack(release) as stack, asyncio.timeout(20):
                before = len(await stack.calls())
                flying = asyncio.create_task(roll.ask(release, key, messages=say(script(do="hang"))))
                while len(await stack.calls()) == before:  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.05)
            await made.kill(roll.names[release])
            with pytest.raises(httpx.HTTPError):
                await flying
            calls += 1
        elif release == NEW:
            await until_counted(roll, release, key, calls)
            await asyncio.to_thread(made.stop, roll.names[release])
    assert "Traceback" not in roll.log(NEW) + roll.log(OLD)


async def until_counted(releases: Releases, release: str, key: str, calls: int) -> None:
    """Waits until a key's calls are recorded, each once."""
    async with asyncio.timeout(20):
        while True:
            data = (await releases.send(release, "GET", "/v1/usage?group_by=key", key)).json()["data"]
            if data and data[0]["requests"] >= calls:
                break
            await asyncio.sleep(0.1)
    assert data[0]["requests"] == calls


async def test_the_release_before_finds_nothing_to_do_and_one_older_does_not_start(
    releases: Releases,
) -> None:
    """Neither release has logged a statement that Postgres rejects; both wrote one audit chain."""
    made = releases.processes
    assert (await made.command("audit", "verify"))[0] == 0
    printed = await asyncio.to_thread(run_before, releases.tree, made, "-m", "llm_proxy", "migrate")
    assert "nothing to do" in printed
    for release in (OLD, NEW):
        log = releases.log(release)
        assert "Traceback" not in log
        assert "postgres refuses" not in log
        assert "postgres rejects" not in log
        assert "will never take" not in log
        assert "rejects a record for good" not in log
    connection = await asyncpg.connect(made.database_url)
    try:
        await connection.execute("UPDATE schema_floor SET oldest = 999")
        code, said = await made.command("serve", "--port", str(probe.free_port()))
        assert (code, said.strip().splitlines()[-1].count("is too old: install a newer one")) == (3, 1)
        code, said = await made.command("migrate")
        assert (code, said.count("on which versions with schema 999 or newer run")) == (1, 1)
    finally:
        await connection.execute("UPDATE schema_floor SET oldest = $1", OLDEST_SCHEMA)
        await connection.close()
