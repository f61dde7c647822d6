"""What an error of a page does to its connection."""

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llm_proxy.console.hardening import HardenedApp


async def broken(_: Request) -> Response:
    """A page that fails."""
    raise ZeroDivisionError


async def cut(_: Request) -> Response:
    """A page that fails while it is sent."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"begun"
        raise ZeroDivisionError

    return StreamingResponse(parts())


async def page_of_error(_: Request, __: Exception) -> Response:
    """The page of an error."""
    return PlainTextResponse("This page failed.", 500)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client that sees an exception where a server would close the connection."""
    app = Starlette(
        routes=[Route("/broken", broken), Route("/cut", cut)], exception_handlers={Exception: page_of_error}
    )
    hardened = HardenedApp(app, (), console_url=None, max_body_bytes=10)
    transport = httpx.ASGITransport(hardened, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as one:
        yield one


async def test_an_error_that_has_its_page_leaves_the_connection_open(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        answer = await client.get("/broken")
        assert (answer.status_code, answer.text) == (500, "This page failed.")
        assert answer.headers["x-frame-options"] == "DENY"


async def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(client: httpx.AsyncClient) -> None:
    with pytest.raises(ZeroDivisionError):
        await client.get("/cut")
