"""Live, requests and one request: what each viewer finds, follows and stops."""

import asyncio
import csv
import io
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from loopback import NO_TLS
from running_console import RunningConsole, post
from running_stack import RunningStack, say, script

XSS = "<img src=x onerror=alert(1)>"


async def chat(
    stack: RunningStack, key: str, text: str = "x", model: str = "plain", **headers: str
) -> httpx.Response:
    """Makes a call; returns any response."""
    body = {"model": model, "messages": say(text)}
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=20) as client:
        return await client.post(
            "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}", **headers}
        )


async def failed_call(stack: RunningStack, key: str, **headers: str) -> str:
    """Makes a call that its provider fails; returns its id once it is recorded."""
    answer = await chat(stack, key, script(do="status-500"), **headers)
    request_id: str = answer.headers["x-request-id"]
    await stack.story(request_id)
    return request_id


@asynccontextmanager
async def running_call(stack: RunningStack, key: str) -> AsyncGenerator[tuple[str, "asyncio.Task[str]"]]:
    """A stream that runs: its id, and what its caller gets in the end."""
    body = {"model": "plain", "messages": say(script(do="slow", gap_ms=100, frames=600)), "stream": True}
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=90) as client:
        request = client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
        )
        async with request as answer:
            lines = answer.aiter_lines()
            await anext(lines)

            async def rest() -> str:
                return "\n".join([line async for line in lines])

            reading = asyncio.create_task(rest())
            try:
                yield answer.headers["x-request-id"], reading
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


async def test_a_failed_request_is_found_by_filters_and_its_page_says_why(console: RunningConsole) -> None:
    key = await console.stack.new_key(name=f"team-{uuid4().hex[:8]}", agent="*")
    agent = uuid4().hex
    request_id = await failed_call(console.stack, key, **{"X-Agent-Id": agent})
    async with console.signed_in() as client:
        listed = await client.get("/requests", params={"agent": agent, "outcome": "failed"})
        assert listed.status_code == 200
        assert f'href="/requests/{request_id}"' in listed.text
        assert f'value="{agent}"' in listed.text
        shown = (await client.get(f"/requests/{request_id}")).text
    for part in (
        "Failed",
        "Hop 1: plain at plain",
        "status 500",
        "Request received",
        agent,
        "response cache",
    ):
        assert part in shown, part
    assert re.search(r'class="problem">[^<]*plain answered 500: ', shown)


@pytest.mark.parametrize("outcome", ["rejected", "refused"])
async def test_the_form_shows_rejected_for_both_of_its_names(console: RunningConsole, outcome: str) -> None:
    async with console.signed_in() as client:
        shown = await client.get("/requests", params={"outcome": outcome})
    assert '<option value="rejected" selected>rejected</option>' in shown.text
    assert 'value="refused"' not in shown.text


@pytest.mark.parametrize(
    "pasted",
    ["{id}", "Error code: 502 - The provider failed (request {id}).", "x-request-id: {own}", "{own}"],
)
async def test_any_id_finds_its_request_in_one_paste(console: RunningConsole, pasted: str) -> None:
    own = f"job-{uuid4().hex[:12]}"
    request_id = await failed_call(console.stack, await console.stack.new_key(), **{"x-request-id": own})
    async with console.signed_in() as client:
        found = await client.get("/find", params={"id": pasted.format(id=request_id, own=own)})
    assert (found.status_code, found.headers["location"]) == (303, f"/requests/{request_id}")


async def test_nothing_is_found_of_an_unknown_id(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        assert (await client.get("/find", params={"id": XSS})).status_code == 404
        assert XSS not in (await client.get("/find", params={"id": XSS})).text
        assert (await client.get("/find")).status_code == 404
        unknown = await client.get(f"/requests/{uuid4()}")
        assert (unknown.status_code, "No record" in unknown.text) == (404, True)
        assert (await client.get("/requests/nonsense")).status_code == 404


async def test_viewers_find_the_requests_of_their_scope_alone(console: RunningConsole) -> None:
    tenants = (uuid4().hex, uuid4().hex)
    keys = [await console.stack.new_key(tenant=tenant) for tenant in tenants]
    ids = [await failed_call(console.stack, key) for key in keys]
    async with console.signed_in(keys[0]) as holder, console.admin("tenant", tenants[0]) as admin:
        for client in (holder, admin):
            page = (await client.get("/requests")).text
            assert ids[0] in page
            assert ids[1] not in page
            assert (await client.get(f"/requests/{ids[0]}")).status_code == 200
            assert (await client.get(f"/requests/{ids[1]}")).status_code == 404
            assert (await client.get("/find", params={"id": ids[0]})).status_code == 303
            assert ids[1] not in (await client.get("/requests.csv")).text
            assert (await client.get(f"/requests/{ids[0]}/text")).status_code == 403
        for client in (holder, admin):
            live = (await client.get("/live")).text
            assert ids[0] in live
            assert ids[1] not in live


async def test_the_csv_has_all_matches_and_the_pages_too(console: RunningConsole) -> None:
    agent = uuid4().hex
    made = [
        await chat(console.stack, console.stack.key, model="nickname", **{"X-Agent-Id": agent})
        for _ in range(3)
    ]
    await console.stack.story(made[-1].headers["x-request-id"])
    async with console.signed_in() as client, asyncio.timeout(15):
        rows: list[dict[str, str]] = []
        while len(rows) < 3:
            sheet = await client.get("/requests.csv", params={"agent": agent})
            rows = list(csv.DictReader(io.StringIO(sheet.text)))
            await asyncio.sleep(0.1)
        assert [row["request_id"] for row in rows] == [one.headers["x-request-id"] for one in reversed(made)]
        assert {row["agent"] for row in rows} == {agent}


@pytest.mark.parametrize(
    "query",
    ["since=tomorrow", "status=x", "outcome=good", "colour=red", "min_cost=-1", "after=zzz", "key=nobody"],
)
async def test_a_wrong_filter_is_said_on_the_page(console: RunningConsole, query: str) -> None:
    async with console.signed_in() as client:
        shown = await client.get(f"/requests?{query}")
    assert shown.status_code == 400
    assert 'role="alert"' in shown.text


async def test_a_runaway_is_seen_and_stopped(console: RunningConsole) -> None:
    name = f"runaway-{uuid4().hex[:8]}"
    key = await console.stack.new_key(name=name)
    async with running_call(console.stack, key) as (request_id, rest), console.signed_in() as client:
        async with asyncio.timeout(20):
            while f"/live/{request_id}/stop" not in (await client.get("/live/now")).text:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.1)
        shown = (await client.get("/live")).text
        assert name in shown
        assert "streaming" in shown
        assert "Runs now" in (await client.get(f"/requests/{request_id}")).text
        assert (await client.get("/find", params={"id": request_id})).headers["location"].endswith(request_id)
        async with console.admin("viewer") as viewer:
            page = (await viewer.get("/live/now")).text
            assert request_id in page
            assert f"/live/{request_id}/stop" not in page
            assert (await post(viewer, f"/live/{request_id}/stop")).status_code == 403
        async with (
            console.signed_in(key) as holder,
            console.signed_in(await console.stack.new_key()) as other,
        ):
            assert f"/live/{request_id}/stop" in (await holder.get("/live/now")).text
            assert "Runs now" in (await holder.get(f"/requests/{request_id}")).text
            assert request_id not in (await other.get("/live/now")).text
            assert (await other.get(f"/requests/{request_id}")).status_code == 404
            await post(other, f"/live/{request_id}/stop")
            assert "No running call" in (await other.get("/live")).text
        async with console.admin("tenant", uuid4().hex) as stranger:
            assert request_id not in (await stranger.get("/live/now")).text
            await post(stranger, f"/live/{request_id}/stop")
            assert "No running call" in (await stranger.get("/live")).text
        assert not rest.done()
        assert (await post(client, f"/live/{request_id}/stop")).headers["location"] == "/live"
        assert "stopped_by_operator" in await rest
        assert f"Stopped a call of {name}" in (await client.get("/live")).text
        await console.stack.story(request_id)
        story = (await client.get(f"/requests/{request_id}")).text
    assert "It was stopped while it ran" in story


async def test_a_keys_holder_stops_its_own_call(console: RunningConsole) -> None:
    name = f"own-{uuid4().hex[:8]}"
    key = await console.stack.new_key(name=name)
    async with running_call(console.stack, key) as (request_id, rest), console.signed_in(key) as holder:
        async with asyncio.timeout(20):
            while f"/live/{request_id}/stop" not in (await holder.get("/live/now")).text:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.1)
        assert f"/live/{request_id}/stop" in (await holder.get(f"/requests/{request_id}")).text
        await post(holder, f"/live/{request_id}/stop")
        assert f"Stopped a call of {name}" in (await holder.get("/live")).text
        assert "stopped_by_operator" in await rest


async def test_what_callers_write_is_shown_as_text(console: RunningConsole) -> None:
    headers = {"X-Agent-Id": XSS, "X-User-Id": XSS, "X-Session-Id": XSS, "x-request-id": XSS}
    request_id = await failed_call(console.stack, console.stack.key, **headers)
    async with console.signed_in() as client:
        for path in ("/live", f"/requests?agent={XSS}", f"/requests/{request_id}", f"/find?id={XSS}x1"):
            shown = (await client.get(path)).text
            assert XSS not in shown
            assert path.startswith("/find") or "&lt;img" in shown


async def test_a_megabyte_of_text_is_shown_in_part_and_whole_on_demand(
    console: RunningConsole, postgres_url: str
) -> None:
    """To those who may read it; the audit log notes each reading."""
    request_id = await failed_call(console.stack, await console.stack.new_key())
    started_at = datetime.fromisoformat((await console.stack.story(request_id))["started_at"])
    prompt = f"{XSS} " + "long " * 2**18
    connection = await asyncpg.connect(postgres_url)
    try:
        insert = "INSERT INTO payloads (request_id, started_at, prompt) VALUES ($1, $2, $3)"
        await connection.execute(insert, UUID(request_id), started_at, prompt)
    finally:
        await connection.close()
    async with console.signed_in() as client, console.admin("tenant", "acme") as tenant:
        shown = await client.get(f"/requests/{request_id}/text")
        assert len(shown.text) < 40_000
        assert XSS not in shown.text
        assert f"of {len(prompt):,} characters" in shown.text
        whole = await client.get(f"/requests/{request_id}/text/prompt")
        assert whole.text == prompt
        assert whole.headers["content-type"].startswith("text/plain")
        assert (await client.get(f"/requests/{request_id}/text/secrets")).status_code == 404
        assert (await client.get(f"/requests/{uuid4()}/text")).status_code == 404
        assert (await tenant.get(f"/requests/{request_id}/text/prompt")).status_code == 403
    headers = {"Authorization": f"Bearer {console.stack.admin_key}"}
    async with httpx.AsyncClient(base_url=console.stack.url, headers=headers, verify=NO_TLS) as gateway:
        query = {"action": "payloads.read", "subject": request_id}
        assert len((await gateway.get("/admin/audit", params=query)).json()["data"]) == 3
