"""What every answer of the console has, and which requests it does not take: the browser's side of security.

Invariants: no script, style or frame but the console's own files; no other site embeds it or reads it; pages
are kept in no cache; a request under another host name is rejected (DNS rebinding), and so is a large body.
"""

import re
from collections.abc import Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_proxy.edge.answered_errors import run_application

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; media-src 'self' data: blob:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "x-robots-tag": "noindex, nofollow",
}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+)(?::[0-9]{1,5})?")
_HSTS = "max-age=31536000"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class HardenedApp:
    """An application behind the checks and headers that every answer has.

    Attributes:
        routes: The application's.
    """

    def __init__(
        self, app: ASGIApp, routes: Iterable[BaseRoute], *, console_url: str | None, max_body_bytes: int
    ) -> None:
        self._app = app
        self.routes = tuple(routes)
        self._hosts = _LOOPBACK | {urlsplit(console_url or "").hostname or "localhost"}
        self._is_secure = (console_url or "").startswith("https:")
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(message)
            await send(message)

        headers = Headers(scope=scope)
        if _host_of(headers.getlist("host")) not in self._hosts:
            answer = PlainTextResponse("This host name is not the console's.\n", 421)
            await answer(scope, receive, send_hardened)
        elif _is_larger(headers, self._max_body_bytes):
            await PlainTextResponse("The body is too large.\n", 413)(scope, receive, send_hardened)
        else:
            await run_application(self._app, scope, receive, send_hardened)

    def _add_headers(self, message: MutableMapping[str, Any]) -> None:
        headers = MutableHeaders(raw=message["headers"])
        for name, value in _HEADERS.items():
            headers[name] = value
        headers.setdefault("cache-control", "no-store")
        if self._is_secure:
            headers["strict-transport-security"] = _HSTS
        message["headers"] = headers.raw


def _host_of(given: Iterable[str]) -> str | None:
    """Returns the host that the one `Host` header names, without its port; None for anything else."""
    hosts = list(given)
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    return match[1].strip("[]").lower() if match else None


def _is_larger(headers: Headers, limit: int) -> bool:
    """Whether a body is too large, or may be: browsers state the length of each form."""
    if "transfer-encoding" in headers:
        return True
    stated = headers.get("content-length", "0")
    return not stated.isascii() or not stated.isdigit() or int(stated[:20]) > limit
