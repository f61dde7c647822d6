"""Each page of the console in a browser, narrow and wide, light and dark: no error, other host or barrier."""

from itertools import product

import pytest
from chromium import TELEPHONE, WIDE, Scheme, WatchedPage, watched_page
from playwright.async_api import Browser, expect
from running_console import RunningConsole
from running_stack import ADMIN_KEY

from llm_proxy.console.pages import PAGES
from llm_proxy.identity.console_sessions import ViewerRole

SCHEMES: tuple[Scheme, ...] = ("light", "dark")
LOOKS = list(product((TELEPHONE, WIDE), SCHEMES))


async def paths(watched: WatchedPage, role: ViewerRole) -> list[str]:
    """Returns the addresses in the navigation, which are those of a role."""
    links = await watched.page.get_by_role("navigation", name="Pages").get_by_role("link").all()
    found = [await link.get_attribute("href") for link in links]
    expected = [page.path for page in PAGES if page.label and role in page.roles]
    assert found == expected
    return expected


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
async def test_every_page_of_the_owner(
    browser: Browser, console: RunningConsole, size: tuple[int, int], scheme: Scheme
) -> None:
    async with watched_page(browser, console.url, size=size, scheme=scheme) as page:
        await page.visit("/sign-in")
        await page.sign_in(ADMIN_KEY)
        barriers: list[str] = []
        for path in await paths(page, "owner"):
            try:
                await page.visit(path)
            except AssertionError as error:
                barriers.append(str(error))
        assert not barriers
        with page.expecting(404):
            await page.visit("/no-such-page")


async def test_pages_of_one_thing_fit_a_telephone(browser: Browser, console: RunningConsole) -> None:
    """A key's and its tenant's, with limits and budgets, and those that only other pages link to."""
    budget = {"limit_usd": "40", "period": "month"}
    await console.stack.new_key(name="on-a-telephone", tenant="telephones", rpm=200, budgets=[budget])
    async with watched_page(browser, console.url, size=TELEPHONE) as page:
        await page.sign_in(ADMIN_KEY)
        headings: list[str] = []
        for path in ("/keys/on-a-telephone", "/tenants/telephones", "/overview/budgets", "/configuration"):
            await page.visit(path)
            headings.append(await page.page.get_by_role("heading", level=1).inner_text())
        assert headings == [
            "Key on-a-telephone active",
            "Tenant telephones",
            "Will the budgets last?",
            "Configuration",
        ]


async def test_every_page_of_a_keys_holder(page: WatchedPage, console: RunningConsole) -> None:
    await page.sign_in(await console.stack.new_key())
    for path in await paths(page, "key"):
        await page.visit(path)
        assert await page.page.get_by_role("heading", level=1).is_visible()


async def test_a_long_name_widens_no_page(browser: Browser, console: RunningConsole) -> None:
    name = "n" * 100
    await console.stack.new_key(name=name)
    async with watched_page(browser, console.url, size=TELEPHONE) as page:
        await page.sign_in(ADMIN_KEY)
        await page.visit(f"/keys/{name}")
        assert name in await page.page.get_by_role("heading", level=1).inner_text()


async def test_pages_are_whole_without_javascript(browser: Browser, console: RunningConsole) -> None:
    async with watched_page(browser, console.url, javascript=False) as page:
        await page.sign_in(ADMIN_KEY)
        for path in await paths(page, "owner"):
            answer = await page.page.goto(console.url + path)
            assert answer is not None
            assert answer.status == 200
            assert await page.page.get_by_role("heading", level=1).is_visible()


async def test_a_page_is_used_with_the_keyboard_alone(page: WatchedPage, console: RunningConsole) -> None:
    await page.page.goto(f"{console.url}/sign-in")
    await expect(page.page.get_by_label("Admin key or virtual key")).to_be_focused()
    await page.page.keyboard.type(ADMIN_KEY)
    await page.page.keyboard.press("Enter")
    await page.page.wait_for_url(lambda url: "/sign-in" not in url)
    await page.page.keyboard.press("Tab")
    await page.page.keyboard.press("Enter")  # "Skip to the content"
    assert await page.page.evaluate("document.activeElement.id") == "content"


async def test_another_site_can_neither_frame_nor_read_the_console(
    page: WatchedPage, console: RunningConsole
) -> None:
    await page.sign_in(ADMIN_KEY)
    content = page.page.context.pages[0]
    await content.route(
        "http://evil.test/",
        lambda route: route.fulfill(
            body=f'<iframe src="{console.url}/sessions"></iframe>', content_type="text/html"
        ),
    )
    await content.goto("http://evil.test/")
    frame = content.frames[-1]
    assert "Sessions" not in await frame.content()
    read = await content.evaluate(
        "url => fetch(url, {credentials: 'include'}).then(() => 'read', () => 'refused')",
        console.url + "/sessions",
    )
    assert read == "refused"
    page.faults.clear()  # of the other site
