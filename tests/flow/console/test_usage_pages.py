"""The overview and usage of the console: their numbers are the API's, each viewer sees its own."""

import csv
import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import asyncpg
import httpx
import pytest
from loopback import NO_TLS
from running_console import RunningConsole
from running_stack import Json
from usage_records import record, write_records

from llm_proxy.console.rendering import duration_ms, money
from llm_proxy.ledger import UsageRecord

SCRIPT = "<script>alert(1)</script>"
FIGURE = re.compile(r'data-figure="(\w+)">(.*?)</span>')
NAMES = re.compile(r'<tr data-name="([^"]*)">')


def calls_of(tenant: str) -> list[UsageRecord]:
    """Calls of this week and of the one before: one agent costs more now, another less."""
    now = datetime.now(UTC)
    spent = [("rises", 0, 5), ("rises", 8, 1), ("falls", 1, 1), ("falls", 9, 2), (SCRIPT, 0, 3)]
    return [
        record(
            started_at=now - timedelta(days=days), tenant=tenant, agent=f"{tenant}:{agent}",
            key_id=f"k-{tenant}", cost_nano_usd=dollars * 10**9, latency_ms=dollars * 100.0, ttft_ms=50.0,
            user=f"{tenant}-ann", outcome="error" if days == 1 else "ok",
            session=f"s{days}" if days < 8 else None, run=f"r{days}",
            cache="hit" if dollars == 3 else "miss",
        )
        for agent, days, dollars in spent
    ]  # fmt: skip


@pytest.fixture
async def tenant(postgres_url: str, console: RunningConsole) -> str:  # noqa: ARG001 -- it has migrated
    """A tenant with calls of two weeks."""
    name = f"t{uuid4().hex[:10]}"
    await store(postgres_url, calls_of(name))
    return name


async def store(postgres_url: str, records: Sequence[UsageRecord]) -> None:
    """Writes them as a gateway does."""
    async with asyncpg.create_pool(postgres_url, min_size=0, max_size=1) as pool:
        await write_records(pool, records)


async def usage(console: RunningConsole, **parameters: str) -> httpx.Response:
    """The API's answer to an owner."""
    headers = {"Authorization": f"Bearer {console.stack.admin_key}"}
    async with httpx.AsyncClient(base_url=console.stack.url, headers=headers, verify=NO_TLS) as client:
        answer = await client.get("/v1/usage", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer


def shown(total: Json) -> dict[str, str]:
    """What a page shows of a usage row."""
    calls = total["requests"]
    return {
        "cost_usd": money(Decimal(str(total["cost_usd"]))),
        "requests": f"{calls:,}",
        "failed": f"{100 * (calls - total['succeeded']) / calls:.1f} %",
        "p50_latency_ms": duration_ms(total["p50_latency_ms"]),
        "p95_latency_ms": duration_ms(total["p95_latency_ms"]),
        "p50_ttft_ms": duration_ms(total["p50_ttft_ms"]),
        "cache_hits": f"{100 * total['cache_hits'] / calls:.1f} %",
        "total_tokens": f"{total['total_tokens']:,}",
    }


async def test_the_overviews_numbers_are_the_apis(console: RunningConsole, tenant: str) -> None:
    """With what explains the change; whatever an agent is called is text."""
    async with console.signed_in() as client:
        page = (await client.get("/overview", params={"tenant": tenant, "since": "6d"})).text
    total = (await usage(console, tenant=tenant, since="6d")).json()["total"]
    assert total["requests"] == 3
    assert dict(FIGURE.findall(page)) == shown(total)
    assert f"200 % more ({money(3)} before)" in page
    why = page[page.index("Why more") : page.index("By key")]
    assert why.index(f"{tenant}:rises") > 0
    assert f"+{money(4)}" in why
    assert SCRIPT not in page
    assert "&lt;script&gt;" in page
    by_agent = page[page.index('id="top-agent"') :]
    assert NAMES.findall(by_agent[: by_agent.index("</table>")])[:3] == [
        f"{tenant}:rises", f"{tenant}:&lt;script&gt;alert(1)&lt;/script&gt;", f"{tenant}:falls",
    ]  # fmt: skip


async def test_usage_and_its_exports_are_the_apis(console: RunningConsole, tenant: str) -> None:
    """The table over time, a row for each name, CSV and FOCUS."""
    question = {"tenant": tenant, "since": "12d"}
    async with console.signed_in() as client:
        for measure, column in (("cost", "cost_usd"), ("requests", "requests"), ("tokens", "total_tokens")):
            page = (await client.get("/usage", params={**question, "by": "agent", "measure": measure})).text
            values = [float(one) for one in re.findall(r'data-value="([^"]*)"', page)]
            rows = (await usage(console, **question, group_by="agent,day")).json()["data"]
            assert sorted(value for value in values if value) == sorted(row[column] for row in rows)
        total = (await usage(console, **question)).json()["total"]
        found = dict(FIGURE.findall(page))
        assert found == {name: text for name, text in shown(total).items() if name in found}
        sheet = await client.get("/usage/export", params={**question, "by": "agent"})
        assert sheet.headers["content-type"] == "text/csv; charset=utf-8"
        of_api = (await usage(console, **question, group_by="agent,day", format="csv")).text
        assert list(csv.DictReader(io.StringIO(sheet.text))) == list(csv.DictReader(io.StringIO(of_api)))
        focus = await client.get("/usage/export", params={**question, "format": "focus"})
        assert focus.text == (await usage(console, **question, format="focus")).text
        wrong = await client.get("/usage", params={"by": "shoe-size"})
        assert wrong.status_code == 400
        assert (await client.get("/usage", params={"measure": "x"})).status_code == 400
        assert (await client.get("/overview", params={"since": "never"})).status_code == 400
        assert (await client.get("/overview", params={"agent": "nobody-at-all"})).status_code == 404


@pytest.mark.parametrize("by", ["root_key", "session", "run"])
async def test_usage_by_names_that_sums_do_not_keep(console: RunningConsole, tenant: str, by: str) -> None:
    """From rows: the same numbers as the API's; a session or run leads to its requests."""
    question = {"tenant": tenant, "since": "12d"}
    async with console.signed_in() as client:
        page = (await client.get("/usage", params={**question, "by": by})).text
    values = [float(one) for one in re.findall(r'data-value="([^"]*)"', page)]
    rows = (await usage(console, **question, group_by=f"{by},day")).json()["data"]
    assert sorted(value for value in values if value) == sorted(row["cost_usd"] for row in rows)
    named = {str(row[by]) for row in rows if row[by]}
    linked = re.findall(r'href="/requests\?(?:session|run)=([^"]*)"', page)
    assert len(named) >= 1
    assert len(linked) == (0 if by == "root_key" else len(named))


async def test_a_tenants_admin_and_a_keys_holder_see_their_own(console: RunningConsole, tenant: str) -> None:
    """Of the same pages, within the seconds that results are kept."""
    async with console.signed_in() as owner:
        assert (await owner.get("/overview", params={"tenant": tenant})).status_code == 200
    async with console.admin("tenant", tenant) as client:
        page = (await client.get("/overview", params={"since": "6d"})).text
        total = (await usage(console, tenant=tenant, since="6d")).json()["total"]
        assert dict(FIGURE.findall(page)) == shown(total)
        assert "By tenant" not in page
        assert (await client.get("/overview", params={"tenant": "another"})).status_code == 403
        assert (await client.get("/usage/export", params={"tenant": "another"})).status_code == 403
        assert (await client.get("/usage", params={"by": "tenant"})).status_code == 400
        assert tenant in (await client.get("/usage/export", params={"by": "agent"})).text
    async with console.admin("tenant", f"{tenant}-other") as client:
        assert (await client.get("/usage", params={"agent": f"{tenant}:rises"})).status_code == 404
        assert dict(FIGURE.findall((await client.get("/overview")).text))["requests"] == "0"
    async with console.signed_in(await console.stack.new_key(tenant=tenant)) as client:
        assert dict(FIGURE.findall((await client.get("/overview")).text))["requests"] == "0"
        assert (await client.get("/usage", params={"key": f"k-{tenant}"})).status_code == 404
        assert "By tenant" not in (await client.get("/overview")).text
        assert (await client.get("/usage", params={"by": "tenant"})).status_code == 400
        assert (await client.get("/usage", params={"by": "key"})).status_code == 200
        assert (await client.get("/overview/budgets")).status_code == 403


async def test_budgets_that_end_early_are_told_with_what_to_do(console: RunningConsole, tenant: str) -> None:
    """On the page of budgets, in what is wrong now, and to the key's own holder."""
    budget = {"limit_requests": 1, "period": "month"}
    key = await console.stack.new_key(tenant=tenant, budgets=[budget])
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "plain", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    async with httpx.AsyncClient(base_url=console.stack.url, headers=headers, verify=NO_TLS) as caller:
        answer = await caller.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
    await console.stack.story(answer.headers["x-request-id"])
    async with console.admin("tenant", tenant) as client:
        page = (await client.get("/overview/budgets")).text
        assert "used up" in page
        assert "1 requests" in page
        wrong = await client.get("/overview/problems", headers={"hx-request": "true"})
        assert "is used up: 1 requests of 1 requests a month" in wrong.text
        assert "<html" not in wrong.text
    async with console.signed_in(key) as client:
        assert "is used up" in (await client.get("/overview/problems")).text
    async with console.signed_in() as client:
        assert (await client.get("/overview/problems")).status_code == 200
