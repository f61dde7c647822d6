"""An error that was answered ends its request, and not the connection."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_proxy.edge.answered_errors import run_application


async def _broken(_: Request) -> Response:
    raise ZeroDivisionError


async def _answer(_: Request, __: Exception) -> Response:
    return PlainTextResponse("failed", 500)


async def _begun(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 -- ASGI's
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    raise ZeroDivisionError


async def run(app: ASGIApp) -> list[Message]:
    """Sends one request; returns the messages of the answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    await run_application(app, scope, receive, send)
    return sent


async def test_an_error_with_a_whole_answer_is_not_raised_again() -> None:
    app = Starlette(routes=[Route("/", _broken)], exception_handlers={Exception: _answer})
    start, body = await run(app)
    assert (start["status"], body["body"]) == (500, b"failed")


async def test_an_error_of_an_answer_that_broke_off_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await run(_begun)
