"""The ASGI application: inference routes by exact path, everything else to FastAPI; CORS headers.

Invariants: paths are compared as sent, undecoded; nothing is redirected or normalised; a body is never read
for an unknown path or method, nor after an ambiguous head; a body read before authentication is bounded in
bytes and time; a page of an origin that is not listed gets no `Access-Control-*` header.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from llm_proxy.dialects.routes import ROUTES_BY_PATH, canonical_path
from llm_proxy.edge.inference import InferenceEndpoint, RequestLimits
from llm_proxy.edge.request import Message, Receive, Scope, Send, validate_head
from llm_proxy.edge.responses import error_headers, send_json
from llm_proxy.errors import APIError, BodyTooLarge, MethodNotAllowed, RequestTimeout
from llm_proxy.telemetry import uuid7

ASGIApplication = Callable[[Any, Any, Any], Awaitable[None]]

MAX_MANAGEMENT_BODY_BYTES = 2**20
"""A body for a door that leads to no model, which FastAPI reads before it asks who sends it."""
EXPLAIN_PATH = b"/v1/explain"
"""The one such door that takes a model's bodies; it asks first."""


class Dispatcher:
    """The gateway as one ASGI application."""

    def __init__(self, serve: InferenceEndpoint, rest: ASGIApplication, limits: RequestLimits) -> None:
        self._serve = serve
        self._rest = rest
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        door = ROUTES_BY_PATH.get(scope["raw_path"])
        if door is not None and scope["method"] == "POST":
            await self._serve(door, scope, receive, send)
            return
        try:
            validate_head(scope)
        except APIError as refused:
            await _send_error(send, refused)
            return
        if door is not None:
            await _send_error(send, MethodNotAllowed("This path takes POST.", headers=(("allow", "POST"),)))
            return
        # Routes decode what a path only holds (`rest`). The server sends no body to who asked with HEAD.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope = {**scope, "path": canonical_path(scope["raw_path"].decode("ascii")), "method": method}
        limits, explained = self._limits, scope["raw_path"] == EXPLAIN_PATH
        most = limits.max_body_bytes if explained else MAX_MANAGEMENT_BODY_BYTES
        await self._rest(
            scope, _bounded_receive(receive, most, limits.body_timeout_s), _with_request_id(send)
        )


async def _send_error(send: Send, refused: APIError) -> None:
    headers = error_headers(refused)
    headers.append((b"x-request-id", str(uuid7()).encode()))
    await send_json(send, refused.status, orjson.dumps(refused.body()), headers)


def _bounded_receive(receive: Receive, max_bytes: int, patience_s: float) -> Receive:
    """A body that ends, and in time: more is `BodyTooLarge`, slower `RequestTimeout`."""
    size, whole, ends_at = 0, False, asyncio.get_running_loop().time() + patience_s

    async def bounded() -> Message:
        nonlocal size, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(ends_at):
                message = await receive()
        except TimeoutError:
            why = "The request's body did not arrive in time."
            raise RequestTimeout(why, headers=(("connection", "close"),)) from None
        size += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if size > max_bytes:
            raise BodyTooLarge(f"The request's body is larger than {max_bytes} bytes.")
        return message

    return bounded


def _with_request_id(send: Send) -> Send:
    """Every response has a request id, whoever answers."""

    async def tagged(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if not any(name.lower() == b"x-request-id" for name, _ in headers):
                message["headers"] = [*headers, (b"x-request-id", str(uuid7()).encode())]
        await send(message)

    return tagged


CORS_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
EXPOSED_HEADERS = (
    "x-request-id", "retry-after", "x-should-retry", "server-timing",
    "x-llm-proxy-model", "x-llm-proxy-provider", "x-llm-proxy-cost-usd", "x-llm-proxy-cache",
    "x-llm-proxy-attempts", "x-llm-proxy-fallback-from", "x-llm-proxy-refused-by", "x-llm-proxy-budget-reset",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
)  # fmt: skip
ALLOWED_HEADERS = (
    "authorization", "content-type", "cache-control", "x-api-key", "api-key", "x-goog-api-key",
    "x-internal-secret", "x-internal-auth",
    "x-request-id", "x-request-timeout", "x-provider", "x-agent-id", "x-tenant-id", "x-session-id",
    "x-run-id", "x-tags", "x-user-id", "traceparent", "tracestate",
    "x-stainless-arch", "x-stainless-lang", "x-stainless-os", "x-stainless-package-version",
    "x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version", "x-stainless-timeout",
)  # fmt: skip
"""Ours, and those the OpenAI SDK for browsers adds."""


def with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """The application, open to pages of these origins (`*`: of any); itself when there are none."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=CORS_METHODS,
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        max_age=600,
    )
