"""A real browser for tests of pages: Chromium, driven by Playwright, from `.browser/` (`make setup-dev`).

Invariants: a `WatchedPage` fails its test for an error in the console, an exception of a script, a request to
another host, an answer of 5xx, or what axe-core finds against WCAG 2.2 AA; pages are looked at in light and
dark, on a telephone of 360 px and on a wide screen.
"""

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    Response,
    ViewportSize,
    async_playwright,
)

FOLDER = Path(__file__).parents[1] / ".browser"
AXE = FOLDER / "node_modules" / "axe-core" / "axe.min.js"
TELEPHONE, WIDE = (360, 740), (1440, 900)
_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
_RUN_AXE = """
async (tags) => (await axe.run(document, {runOnly: tags})).violations.map(
  (one) => `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html.slice(0, 200)).join(" | ")}`)
"""
_SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
Scheme = Literal["light", "dark"]


@asynccontextmanager
async def run_chromium() -> AsyncGenerator[Browser]:
    """Yields a browser; without `.browser/` it says how to get one."""
    program = FOLDER / "chromium"
    assert program.exists(), "no browser: run `make setup-dev`"
    arguments = ["--headless", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass  # Playwright sets attributes on it
class WatchedPage:
    """A page and what went wrong on it.

    Attributes:
        page: Playwright's page.
        faults: What the test fails for.
    """

    page: Page
    origin: str
    faults: list[str] = field(default_factory=list[str])
    _expected: set[int] = field(default_factory=set[int])

    def watch(self) -> None:
        """Notes faults from now on."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("request", self._on_request)
        self.page.on("response", self._on_response)

    async def visit(self, path: str) -> None:
        """Opens a page of the console and checks it."""
        await self.page.goto(self.origin + path)
        await self.check()

    async def sign_in(self, key: str) -> None:
        """Signs in as a person does."""
        await self.page.goto(f"{self.origin}/sign-in")
        await self.page.get_by_label("Admin key or virtual key").fill(key)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.wait_for_url(lambda url: "/sign-in" not in url)

    async def check(self) -> None:
        """Fails for barriers, and for a page that is wider than its window."""
        await self.page.evaluate(AXE.read_text(encoding="utf-8"))
        violations: list[str] = await self.page.evaluate(_RUN_AXE, list(_RULES))
        where = f"{self.page.url} at {self.page.viewport_size}"
        assert not violations, f"{where}: {violations}"
        assert not await self.page.evaluate(_SIDEWAYS), f"{where} is wider than its window"

    @contextmanager
    def expecting(self, *statuses: int) -> Generator[None]:
        """Within it, answers of these statuses are no faults."""
        self._expected |= set(statuses)
        try:
            yield
        finally:
            self._expected -= set(statuses)

    def _on_console(self, message: ConsoleMessage) -> None:
        is_status = message.text.startswith("Failed to load resource") and any(
            f"status of {status}" in message.text for status in self._expected
        )
        if message.type in ("error", "warning") and not is_status:
            self.faults.append(f"{message.type}: {message.text} at {message.location}")

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.faults.append(f"a request to {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 500 and response.status not in self._expected:
            self.faults.append(f"{response.status} at {response.url}")


@asynccontextmanager
async def watched_page(
    browser: Browser,
    origin: str,
    *,
    size: tuple[int, int] = WIDE,
    scheme: Scheme = "light",
    javascript: bool = True,
) -> AsyncGenerator[WatchedPage]:
    """Yields an empty page of a browser without cookies; fails for what went wrong on it."""
    context = await browser.new_context(
        viewport=ViewportSize(width=size[0], height=size[1]),
        color_scheme=scheme,
        locale="en-GB",  # a machine without one gives a tag that uPlot cannot read
        java_script_enabled=javascript,
    )
    try:
        watched = WatchedPage(await context.new_page(), origin)
        watched.page.set_default_timeout(15_000)
        watched.watch()
        yield watched
        assert not watched.faults, watched.faults
    finally:
        await context.close()
