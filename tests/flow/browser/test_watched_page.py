"""What fails a test of pages does fail it."""

import pytest
from chromium import watched_page
from playwright.async_api import Browser

BARRIERS = {
    "image-alt": '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">',
    "label": '<input name="key">',
    "color-contrast": '<p style="color: #bbb; background: #fff">faint</p>',
    "wider": '<div style="width: 3000px">wide</div>',
}
FAULTS = {
    "error: broken": "<script>console.error('broken')</script>",
    "exception": "<script>throw new Error('thrown')</script>",
    "a request to http://other.test/": '<link rel="stylesheet" href="http://other.test/x.css">',
}


@pytest.mark.parametrize("barrier", BARRIERS)
async def test_a_barrier_is_found(browser: Browser, barrier: str) -> None:
    async with watched_page(browser, "http://127.0.0.1:9") as page:
        await page.page.set_content(
            f'<html lang="en"><title>x</title><main><h1>x</h1>{BARRIERS[barrier]}</main>'
        )
        with pytest.raises(AssertionError, match=barrier):
            await page.check()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_found(browser: Browser, fault: str) -> None:
    async with watched_page(browser, "http://127.0.0.1:9") as page:
        await page.page.route("http://other.test/**", lambda route: route.fulfill(body=""))
        await page.page.set_content(f"<!doctype html><title>x</title>{FAULTS[fault]}")
        assert any(one.startswith(fault) for one in page.faults)
        page.faults.clear()
