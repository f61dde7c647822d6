"""An operator in a browser: a key, its calls, a runaway stopped, a budget used up, and the plot of it."""

import asyncio
import re

import httpx
from chromium import WatchedPage
from flow.browser.test_keys import create_key, new_name
from flow.console.test_requests_pages import chat, running_call
from loopback import NO_TLS
from playwright.async_api import expect
from running_console import RunningConsole
from running_stack import ADMIN_KEY, RunningStack

BUDGET = 3


async def test_a_key_from_its_creation_to_its_used_up_budget(
    page: WatchedPage, console: RunningConsole
) -> None:
    """Sign in, create, call, find, follow, stop, hit the budget, compare the plot, load it again."""
    stack, name = console.stack, new_name()
    await page.sign_in(ADMIN_KEY)
    text = await create_key(page, name, Tenant=name, **{"Limit 1": str(BUDGET)}, unit="requests")
    key_path = page.page.url.removeprefix(console.url)
    await follow_a_call(page, stack, text, name)
    await stop_a_stream(page, stack, text, name)
    last = await chat(stack, text)
    assert last.status_code == 200, last.text
    await stack.story(last.headers["x-request-id"])
    rejected = await chat(stack, text)
    assert rejected.status_code == 429, rejected.text
    await see_the_budget(page, key_path, name, rejected.headers["x-request-id"])
    await compare_the_plot(page, stack, name)


async def follow_a_call(page: WatchedPage, stack: RunningStack, key: str, name: str) -> None:
    """Makes a call, finds it by the key's name, and reads its steps."""
    answer = await chat(stack, key)
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-request-id"]
    story = await stack.story(request_id)
    await search(page, name, "ok")
    await page.page.locator(f'a[href="/requests/{request_id}"]').first.click()
    await page.page.get_by_role("heading", name="Steps").wait_for()
    steps = page.page.get_by_role("region", name="Steps")
    await expect(steps).to_contain_text("plain")
    facts = await page.page.locator("dl.pairs").all_inner_texts()
    assert re.search(rf"Tokens out\s+{story['completion_tokens']}\b", "\n".join(facts)), facts
    await page.check()


async def stop_a_stream(page: WatchedPage, stack: RunningStack, key: str, name: str) -> None:
    """Starts a stream and stops it from Live; its story says who did."""
    await page.page.get_by_role("link", name="Live", exact=True).click()
    async with running_call(stack, key) as (request_id, rest):
        button = page.page.get_by_role("button", name=f"Stop the call {request_id}")
        await button.wait_for()
        page.page.once("dialog", lambda dialog: dialog.accept())
        await button.click()
        await page.page.get_by_text(f"Stopped a call of {name}").wait_for()
        assert "stopped_by_operator" in await rest
    await stack.story(request_id)
    await page.visit(f"/requests/{request_id}")
    await expect(page.page.locator("p.problem").first).to_contain_text("It was stopped while it ran")


async def see_the_budget(page: WatchedPage, key_path: str, name: str, rejected: str) -> None:
    """The used up budget on the key's page, and the rejected request in the search."""
    await page.visit(key_path)
    row = page.page.locator("tbody tr").filter(has_text="used up")
    await expect(row.locator("meter")).to_have_text("100 %")
    await expect(row).to_contain_text(f"{BUDGET} requests")
    link = page.page.locator(f'a[href="/requests/{rejected}"]').first
    async with asyncio.timeout(20):
        while not await link.count():  # rejected requests are sampled once a second
            await search(page, name, "rejected")
    await link.click()
    await page.page.wait_for_url(f"**/requests/{rejected}")
    await expect(page.page.locator("p.problem").first).to_contain_text("budget")
    await page.check()


async def compare_the_plot(page: WatchedPage, stack: RunningStack, name: str) -> None:
    """The plot of calls by key has the API's numbers, also when it is loaded again."""
    await page.visit(f"/usage?tenant={name}&by=key&measure=requests&since=24h")
    figure = page.page.locator("figure[data-plot]")
    headers = {"Authorization": f"Bearer {stack.admin_key}"}
    question = {"tenant": name, "since": "24h", "group_by": "key,hour"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, verify=NO_TLS) as client:
        rows = (await client.get("/v1/usage", params=question)).json()["data"]
    calls = sorted(row["requests"] for row in rows)
    for _ in range(2):
        await figure.locator("canvas").wait_for()
        values = await figure.evaluate("one => one.values")
        assert len(values["names"]) == 1
        assert sorted(value for value in values["values"][0] if value) == calls
        assert sum(calls) == BUDGET
        await page.page.reload()
    await page.check()


async def search(page: WatchedPage, key: str, outcome: str) -> None:
    """Searches the requests of a key as a person does."""
    await page.page.get_by_role("link", name="Requests", exact=True).click()
    await page.page.get_by_label("Outcome").select_option(outcome)
    await page.page.get_by_label("Key", exact=True).fill(key)
    await page.page.get_by_role("button", name="Search").click()
    await page.page.wait_for_url(lambda url: f"key={key}" in url)
