"""`GET /v1/requests` over HTTP: who finds which requests, page by page and as CSV."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from running_stack import RunningStack, say, script

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """Calls of one tenant with one key: two that succeeded, one that failed, one that a limit rejected."""

    client: httpx.AsyncClient
    tenant: str
    key: str
    good: tuple[str, ...]
    failed: str
    refused: str

    async def search(self, key: str, **query: str | int) -> httpx.Response:
        """Searches with a credential."""
        headers = {"Authorization": f"Bearer {key}"}
        return await self.client.get("/v1/requests", headers=headers, params=query)

    async def ids(self, key: str, **query: str | int) -> list[str]:
        """Returns the ids that a search finds."""
        answer = await self.search(key, **query)
        assert answer.status_code == 200, answer.text
        return [row["request_id"] for row in answer.json()["data"]]


@pytest.fixture
async def made(stack: RunningStack) -> AsyncIterator[Made]:
    """The calls, once they are recorded."""
    tenant = uuid4().hex
    key = await stack.new_key(tenant=tenant, rpm=3)
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=20) as client:

        async def call(said: str, session: str) -> str:
            body = {"model": "plain", "messages": say(said)}
            headers = {"Authorization": f"Bearer {key}", "X-Session-Id": session}
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)
            return answer.headers["x-request-id"]

        good = (await call("a", "=s-1"), await call("b", "s-2"))
        failed, refused = await call(script(do="status-500"), "s-1"), await call("c", "s-1")
        found = Made(client, tenant, key, good, failed, refused)
        async with asyncio.timeout(15):
            while len(await found.ids(stack.admin_key, tenant=tenant)) < 4:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.1)
        yield found


async def test_a_search_is_filtered_paged_and_exported(made: Made, stack: RunningStack) -> None:
    """The same rows in JSON, page by page, and in CSV; a text that looks like a formula is quoted."""
    newest_first = [made.refused, made.failed, *reversed(made.good)]
    assert await made.ids(stack.admin_key, tenant=made.tenant) == newest_first
    assert await made.ids(stack.admin_key, tenant=made.tenant, outcome="failed") == newest_first[:2]
    assert await made.ids(stack.admin_key, tenant=made.tenant, cause="key:requests") == [made.refused]
    assert await made.ids(stack.admin_key, tenant=made.tenant, session="s-2", model="plain") == [made.good[1]]
    paged: list[str] = []
    place: dict[str, str] = {}
    while True:
        page = (await made.search(stack.admin_key, tenant=made.tenant, limit=1, **place)).json()
        paged += [row["request_id"] for row in page["data"]]
        if not page["has_more"]:
            break
        place = {"after": page["after"]}
    assert paged == newest_first
    [row] = (await made.search(stack.admin_key, tenant=made.tenant, outcome="error")).json()["data"]
    story = await stack.story(made.failed)
    names = row.keys() - {"key_name"}
    assert {name: row[name] for name in names} == {name: story[name] for name in names}
    sheet = await made.search(stack.admin_key, tenant=made.tenant, format="csv")
    assert sheet.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(sheet.text)))
    assert [line["request_id"] for line in rows] == newest_first
    assert rows[-1]["session_id"] == "'=s-1"
    assert (rows[0]["outcome"], rows[0]["cause"]) == ("refused", "rate_limit_exceeded")
    assert "3 of 3 requests" in rows[0]["limit"]


async def test_a_key_finds_its_own_and_a_tenants_admin_its_tenants(made: Made, stack: RunningStack) -> None:
    """Whatever they search for; other callers find none."""
    four = [made.refused, made.failed, *reversed(made.good)]
    assert await made.ids(made.key) == four
    other = await stack.new_key()
    assert await made.ids(other) == []
    assert await made.ids(other, tenant=made.tenant) == []
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS) as client:
        spec = {"name": uuid4().hex, "role": "tenant", "tenant": made.tenant}
        headers = {"Authorization": f"Bearer {stack.admin_key}"}
        admin = (await client.post("/admin/admin-keys", json=spec, headers=headers)).json()["key"]
    assert await made.ids(admin) == four
    assert (await made.search(admin, tenant="another")).status_code == 403
    assert "provider_message" not in (await made.search(made.key, outcome="error")).json()["data"][0]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"colour": "red"}, 400), ({"after": "nowhere"}, 400), ({"since": "tomorrow"}, 400),
        ({"limit": "0"}, 400),
        ({"since": "2026-11-02", "until": "2026-11-01"}, 400), ({"format": "xml"}, 400),
        ({"key": "nobody"}, 404),
    ],
)  # fmt: skip
async def test_a_wrong_search_is_an_error(stack: RunningStack, query: dict[str, str], status: int) -> None:
    """Which names what is wrong."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS) as client:
        headers = {"Authorization": f"Bearer {stack.admin_key}"}
        answer = await client.get("/v1/requests", headers=headers, params=query)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


async def test_a_stranger_finds_nothing(stack: RunningStack) -> None:
    """Without a credential, or with a wrong one."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS) as client:
        assert (await client.get("/v1/requests")).status_code == 401
