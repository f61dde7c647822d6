"""The built site in a real browser: no barrier, error or other host; search works. `make docs` runs it.

It is opened as files, which is how a reader without a server has it, and as a server would send it.
"""

from contextlib import AbstractContextManager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import pytest
from chromium import TELEPHONE, WIDE, Scheme, run_chromium, watched_page
from threaded_server import serving

SITE = Path(__file__).parents[2] / "site"
PAGES = ("index", "quickstart", "configuration", "api/chat", "console", "keys")
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
SETTING = "LLM_PROXY__MESSAGES_PING_S"
LOOKS = list(product((TELEPHONE, WIDE), SCHEMES))
pytestmark = pytest.mark.timeout(300)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it
        """Writes nothing."""


def served_site() -> AbstractContextManager[str]:
    """Yields the address of a server of the site."""
    return serving(ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(SITE))))


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
async def test_pages_have_no_barriers(size: tuple[int, int], scheme: Scheme) -> None:
    """Narrow and wide, light and dark; nothing is fetched from another host."""
    barriers: list[str] = []
    with served_site() as url:
        async with run_chromium() as browser, watched_page(browser, url, size=size, scheme=scheme) as page:
            for name in PAGES:
                try:
                    await page.visit(f"/{name}.html")
                except AssertionError as error:
                    barriers.append(str(error))
    assert not barriers


@pytest.mark.parametrize("is_served", [True, False])
async def test_the_search_finds_a_setting(*, is_served: bool) -> None:
    """Its name finds its page first, and leads there."""
    with served_site() as url:
        origin = url if is_served else "file://"
        start = "/index.html" if is_served else f"{SITE}/index.html"
        async with run_chromium() as browser, watched_page(browser, origin) as watched:
            page = watched.page
            await page.goto(origin + start)
            await page.keyboard.press("/")
            await page.keyboard.type(SETTING, delay=20)
            result = page.get_by_role("option").first.and_(
                page.locator(f"[href$='/configuration.html?h={SETTING}']")
            )
            await result.wait_for()
            await result.click()
            await page.wait_for_url(f"**/configuration.html?h={SETTING}*")
