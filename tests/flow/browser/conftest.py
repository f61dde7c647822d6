"""The console in a real browser, before the flow's stack."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from chromium import WatchedPage, run_chromium, watched_page
from playwright.async_api import Browser
from running_console import ConsoleProcess, RunningConsole, serve_console
from running_stack import RunningStack


@pytest.fixture(scope="package")
def console_process(
    service_folder: Path, postgres_url: str, stack_ports: dict[str, int]
) -> Iterator[ConsoleProcess]:
    """The console's process."""
    with serve_console(service_folder, postgres_url, f"http://127.0.0.1:{stack_ports['gateway']}") as served:
        yield served


@pytest.fixture
def console(console_process: ConsoleProcess, stack: RunningStack) -> RunningConsole:
    """The running console."""
    return RunningConsole(console_process, stack)


@pytest.fixture(scope="package")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:  # noqa: ARG001 -- the loop it runs in
    """A browser."""
    async with run_chromium() as running:
        yield running


@pytest.fixture
async def page(browser: Browser, console: RunningConsole) -> AsyncIterator[WatchedPage]:
    """A page of a new visitor; its test fails for what goes wrong on it."""
    async with watched_page(browser, console.url) as watched:
        yield watched
