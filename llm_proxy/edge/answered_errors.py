"""Errors of an application that were answered: such an error ends the request, not the connection.

Invariants: an error is raised unless the whole answer was sent; one whose answer broke off always is.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def run_application(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Runs an ASGI application; raises its error unless that was answered in whole.

    Starlette raises an error again after it was answered and logged. The server would log the traceback a
    second time, and close the connection, which the caller may be about to use again.
    """
    is_answered = False

    async def send_noting_the_end(message: Message) -> None:
        nonlocal is_answered
        await send(message)
        is_answered = message["type"] == "http.response.body" and not message.get("more_body", False)

    try:
        await app(scope, receive, send_noting_the_end)
    except Exception:
        if not is_answered:
            raise
