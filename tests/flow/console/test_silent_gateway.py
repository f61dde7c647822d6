"""A gateway that is frozen: pages say so soon, and show what they have without it."""

import asyncio
import socket
from collections.abc import Iterator

import httpx
import pytest
from running_console import ConsoleProcess, RunningConsole, post, serve_console
from running_stack import RunningStack, script

READ_FROM_DATABASE = ("/overview", "/usage", "/live", "/requests")
PARTLY = ("/runs", "/playground", "/self-check", "/overview/problems")
OF_THE_GATEWAY = ("/keys", "/tenants", "/tenants/acme", "/limits", "/models", "/configuration", "/audit",
                  "/notifications", "/overview/budgets")  # fmt: skip
SILENT = "The gateway does not answer"


@pytest.fixture(scope="module")
def frozen_process(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[ConsoleProcess]:
    """A console before a port that takes connections and answers nothing, as that of a stopped process."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serve_console(tmp_path_factory.mktemp("frozen"), postgres_url, address) as served:
            yield served


@pytest.fixture
def frozen(stack: RunningStack, frozen_process: ConsoleProcess) -> RunningConsole:
    """That console, on the database of a stack that runs."""
    return RunningConsole(frozen_process, stack)


async def test_every_page_answers_while_the_gateway_is_frozen(frozen: RunningConsole) -> None:
    """What the database has is shown; what only the gateway knows is named as missing, and why."""
    async with frozen.signed_in() as client, asyncio.timeout(15):  # a page's own wait would be 20 s, or 40

        async def page(path: str) -> httpx.Response:
            return await client.get(path)

        pages = {path: await page(path) for path in READ_FROM_DATABASE}
        assert {path: one.status_code for path, one in pages.items()} == dict.fromkeys(
            READ_FROM_DATABASE, 200
        )
        assert SILENT in pages["/live"].text
        assert "The last" in pages["/live"].text
        runs, playground, check, problems = [await page(path) for path in PARTLY]
        assert (runs.status_code, runs.text.count(SILENT)) == (503, 1)
        assert "Which runs the loop guard has stopped is not known" in runs.text
        assert 'aria-label="Filters"' in runs.text
        assert playground.status_code == 200
        assert f"Which models are served is not known. {SILENT}" in playground.text
        assert "It does not answer." in check.text
        assert f"Not everything is known now: {SILENT}" in problems.text
        for path in OF_THE_GATEWAY:
            one = await page(path)
            assert (one.status_code, SILENT in one.text) == (503, True), path
            assert "Overview, Usage, Live and Requests" in one.text


async def test_a_change_says_that_its_end_is_not_known(frozen: RunningConsole) -> None:
    """It may have been made."""
    async with frozen.signed_in() as client, asyncio.timeout(15):
        answer = await post(client, "/configuration/reload")
        assert answer.status_code == 503
        assert "Whether it did what was asked is not known." in answer.text


async def test_a_slow_answer_of_a_gateway_that_lives_is_awaited(console: RunningConsole) -> None:
    """A model that takes longer than a sign of life may take is no silence."""
    async with console.signed_in() as client:
        fields = {
            "path": "/v1/chat/completions", "model": "plain", "action": "call",
            "prompt": script(do="slow-first", first_ms=2500),
        }  # fmt: skip
        answer = await post(client, "/playground", **fields)
        assert answer.status_code == 200, answer.text
        assert SILENT not in answer.text
