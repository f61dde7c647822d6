"""Pages of names that a browser or a router would take for something else are opened by their links."""

from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import pytest
from chromium import WatchedPage
from flow.console.test_requests_pages import chat
from running_console import RunningConsole
from running_stack import ADMIN_KEY

from llm_proxy.path_names import page_segment


@pytest.mark.parametrize("name", ["..", "a/../b", "~2F%2e%2e"])
async def test_tenant_key_and_run_of_an_odd_name(
    page: WatchedPage, console: RunningConsole, name: str
) -> None:
    key_name = f"{name}/{uuid4().hex}/change"
    key = await console.stack.new_key(name=key_name, tenant=name)
    answer = await chat(console.stack, key, **{"X-Run-Id": name})
    await console.stack.story(answer.headers["x-request-id"])
    await page.sign_in(ADMIN_KEY)
    await page.page.goto(f"{console.url}/keys?text={quote(key_name, safe='')}")
    await page.page.get_by_role("link", name=name, exact=True).first.click()
    await page.page.get_by_role("heading", name=f"Tenant {name}", exact=True).wait_for()
    await page.page.goto(f"{console.url}/keys/{page_segment(key_name)}")
    await page.page.get_by_role("link", name="Change", exact=True).click()
    await page.page.get_by_role("button", name="Save").wait_for()
    await page.page.goto(f"{console.url}/runs?{urlencode({'run': name, 'tenant': name})}")
    await page.page.get_by_role("main").get_by_role("link", name=name, exact=True).first.click()
    await page.page.get_by_role("heading", name=f"Run {name}", exact=True).wait_for()
    assert urlsplit(page.page.url).path == f"/runs/{page_segment(name)}"
