"""Two questions of an operator, in a browser: why did this call fail, and how do I stop that runaway."""

import re
from uuid import uuid4

from chromium import WatchedPage
from flow.console.test_requests_pages import failed_call, running_call
from running_console import RunningConsole
from running_stack import ADMIN_KEY


async def test_why_did_this_call_fail(page: WatchedPage, console: RunningConsole) -> None:
    """One paste of the error's text; or three clicks: requests, the outcome, the request."""
    request_id = await failed_call(console.stack, await console.stack.new_key())
    await page.sign_in(ADMIN_KEY)
    search = page.page.get_by_role("searchbox")
    await search.fill(f"openai.InternalServerError: the provider failed (request {request_id}).")
    await search.press("Enter")
    await page.page.wait_for_url(f"**/requests/{request_id}")
    await page.check()
    assert "plain answered 500" in await page.page.locator("p.problem").first.inner_text()
    await page.page.get_by_role("link", name="Requests", exact=True).click()
    await page.page.get_by_label("Outcome").select_option("failed")
    await page.page.get_by_role("button", name="Search").click()
    await page.page.locator(f'a[href="/requests/{request_id}"]').first.click()
    await page.page.wait_for_url(f"**/requests/{request_id}")


async def test_stop_that_runaway(page: WatchedPage, console: RunningConsole) -> None:
    """Two clicks and a yes; the page shows running calls without being loaded again."""
    name = f"runaway-{uuid4().hex[:8]}"
    key = await console.stack.new_key(name=name)
    await page.sign_in(ADMIN_KEY)
    await page.visit("/live")
    async with running_call(console.stack, key) as (request_id, rest):
        button = page.page.get_by_role("button", name=f"Stop the call {request_id}")
        await button.wait_for(timeout=20_000)
        await page.check()
        page.page.once("dialog", lambda dialog: dialog.accept())
        await button.click()
        await page.page.get_by_text(re.compile(f"Stopped a call of {name}")).wait_for(timeout=20_000)
        assert "stopped_by_operator" in await rest


async def test_pages_without_rows_stay_usable(page: WatchedPage) -> None:
    """A search without a match, a page that is held still, an unknown id, a wrong range."""
    await page.sign_in(ADMIN_KEY)
    await page.visit("/requests?agent=unknown&since=7d&min_cost=1")
    assert await page.page.locator("p.empty").inner_text() == "No request matches."
    await page.visit("/live?refresh=off")
    assert await page.page.locator("[hx-trigger]").count() == 0
    with page.expecting(404):
        await page.visit("/find?id=nothing-1")
        assert "No request matches an id in this text." in await page.page.locator("p.empty").inner_text()
    with page.expecting(400):
        await page.visit("/requests?since=tomorrow")
        assert "tomorrow" in await page.page.locator("p.problem").inner_text()
