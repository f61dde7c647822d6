"""The ASGI application: inference routes by exact path, everything else to FastAPI; CORS headers.

Invariants: paths are compared as sent, undecoded; nothing is redirected or normalised; a body is never read
for an unknown path or method, nor after an ambiguous head; a body read before authentication is bounded in
bytes and time; a page of an origin that is not listed gets no `Access-Control-*` header.
"""

import asyncio

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.routes import InferenceRoute, RouteTable, canonical_path
from llm_proxy.edge.answered_errors import run_application
from llm_proxy.edge.inference import InferenceEndpoint, RequestLimits
from llm_proxy.edge.request import Message, Receive, Scope, Send, validate_head
from llm_proxy.edge.responses import send_error_of
from llm_proxy.edge.routes import gemini, messages, response_tokens
from llm_proxy.edge.unserved_paths import not_served
from llm_proxy.errors import (
    APIError,
    BodyTooLarge,
    MethodNotAllowed,
    NotFound,
    RequestTimeout,
    UpgradeRequired,
)
from llm_proxy.telemetry import uuid7

MAX_MANAGEMENT_BODY_BYTES = 2**20
"""Bound of a management route's body: FastAPI reads it before authentication."""
HOLDING_CALLS = frozenset({"/v1/explain", *messages.COUNT_PATHS, *response_tokens.COUNT_PATHS})
"""The management routes that take inference bodies; they authenticate first."""


class Dispatcher:
    """The gateway as one ASGI application."""

    def __init__(
        self,
        routes: RouteTable,
        inference: InferenceEndpoint,
        management: ASGIApp,
        limits: RequestLimits,
    ) -> None:
        self._routes = routes
        self._inference = inference
        self._management = management
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one ASGI request."""
        if scope["type"] != "http":
            await self._management(scope, receive, send)
            return
        method, path = scope["method"], scope["raw_path"]
        route = self._routes.find(method, path, scope["query_string"])
        if route is not None and method in route.methods:
            await self._inference(route, scope, receive, send)
            return
        try:
            _reject_websocket(route, scope)
            validate_head(scope)
            if route is not None:
                allowed = ", ".join(route.methods)
                raise MethodNotAllowed(f"This path takes {allowed}.", headers=(("allow", allowed),))
        except APIError as error:
            await send_error_of(send, error, str(uuid7()), route.dialect if route is not None else OPENAI)
            return
        # Path parameters are decoded later (`management_app`); for HEAD, uvicorn drops the body.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope = {**scope, "path": canonical_path(scope["raw_path"].decode("ascii")), "method": method}
        limits, holds_call = self._limits, _holds_call(scope["path"])
        max_bytes = limits.max_body_bytes if holds_call else MAX_MANAGEMENT_BODY_BYTES
        bounded = _bounded_receive(receive, max_bytes, limits.body_timeout_s)
        await run_application(self._management, scope, bounded, _with_request_id(send))


def _holds_call(path: str) -> bool:
    return path in HOLDING_CALLS or path.endswith(gemini.COUNT)


def _reject_websocket(route: InferenceRoute | None, scope: Scope) -> None:
    """Raises `UpgradeRequired` for a WebSocket where clients ask for one first, and then send a POST.

    Raises `NotFound` for one of an operation that is not served.
    """
    if not any(name == b"upgrade" and value.lower() == b"websocket" for name, value in scope["headers"]):
        return
    if route is None and (reason := not_served(scope["path"])):
        message = f"Unknown request URL: {scope['method']} {scope['path'][:200]}.{reason}"
        raise NotFound(message, code="unknown_url", headers=(("connection", "close"),))
    if route is None or route.endpoint != "responses" or not route.paths or scope["method"] != "GET":
        return
    raise UpgradeRequired("This path serves no WebSocket; send a POST.", headers=_NO_WEBSOCKET)


def _bounded_receive(receive: Receive, max_bytes: int, timeout_s: float) -> Receive:
    """Bounds a body: raises `BodyTooLarge` beyond `max_bytes`, `RequestTimeout` after `timeout_s`."""
    size, complete, ends_at = 0, False, asyncio.get_running_loop().time() + timeout_s

    async def bounded() -> Message:
        nonlocal size, complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout_at(ends_at):
                message = await receive()
        except TimeoutError:
            raise RequestTimeout(
                "The request's body did not arrive in time.", headers=(("connection", "close"),)
            ) from None
        size += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if size > max_bytes:
            raise BodyTooLarge(f"The request's body is larger than {max_bytes} bytes.")
        return message

    return bounded


def _with_request_id(send: Send) -> Send:
    """Adds `x-request-id` to a response that has none."""

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if not any(name.lower() == b"x-request-id" for name, _ in headers):
                message["headers"] = [*headers, (b"x-request-id", str(uuid7()).encode())]
        await send(message)

    return send_with_id


_NO_WEBSOCKET = (("upgrade", "HTTP/1.1"), ("connection", "upgrade, close"))
CORS_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
EXPOSED_HEADERS = (
    "x-request-id", "request-id", "retry-after", "x-should-retry", "server-timing",
    "x-llm-proxy-model", "x-llm-proxy-provider", "x-llm-proxy-cost-usd", "x-llm-proxy-cache",
    "idempotency-replayed", "x-llm-proxy-replay-of",
    "x-llm-proxy-attempts", "x-llm-proxy-fallback-from", "x-llm-proxy-refused-by", "x-llm-proxy-budget-reset",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
)  # fmt: skip
ALLOWED_HEADERS = (
    "authorization", "content-type", "cache-control", "x-api-key", "api-key", "x-goog-api-key",
    "x-litellm-api-key", "x-goog-api-client", "x-server-timeout",
    "x-internal-secret", "x-internal-auth", "idempotency-key",
    "x-request-id", "x-request-timeout", "x-priority", "x-provider", "x-agent-id", "x-tenant-id",
    "x-session-id", "x-run-id", "x-tags", "x-user-id", "traceparent", "tracestate",
    "x-stainless-arch", "x-stainless-lang", "x-stainless-os", "x-stainless-package-version",
    "x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version", "x-stainless-timeout",
    "x-stainless-helper", "x-stainless-helper-method", "x-stainless-poll-helper",
    "x-stainless-custom-poll-interval", "openai-organization", "openai-project", "openai-beta",
    "anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access",
)  # fmt: skip
"""Headers the gateway reads, and those that OpenAI's, Anthropic's and Google's SDKs add in browsers."""


def with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Returns the application with CORS headers for these origins (`*`: any); unchanged without origins."""
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
