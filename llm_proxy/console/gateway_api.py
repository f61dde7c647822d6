"""The gateway's API as a viewer of the console may use it: every request carries the session's credential.

Invariants: the console has no rights of its own at the gateway; a redirect is not followed; what the gateway
rejects is raised with its status and message, as `GatewayRejected`.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from llm_proxy.console.watched_gateway import GatewaySilent, WatchedGateway
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json, as_object

TIMEOUT_S = 20.0
STREAM_IDLE_S = 120.0
UNREACHABLE = "gateway_unreachable"
"""The code of a `GatewayRejected` without an answer."""
_MAX_MESSAGE_CHARS = 500

GatewayResponse = httpx.Response
QueryValue = str | int | float | bool | None


class GatewayRejected(APIError):  # noqa: N818 -- errors are named for the state they report
    """The gateway's answer is an error, or it does not answer (503)."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status


@dataclass(frozen=True, slots=True)
class MultipartForm:
    """A form with files: by field their name, data and content type."""

    fields: Mapping[str, str]
    files: Mapping[str, tuple[str, bytes, str]] = field(repr=False)


class GatewayAPI:
    """Requests to the gateway with one credential."""

    def __init__(self, client: WatchedGateway, credential: str, client_ip: str | None) -> None:
        self._client = client
        self._credential = credential
        self._client_ip = client_ip

    @property
    def base_url(self) -> str:
        """The gateway's address, without `/v1`."""
        return self._client.base_url

    def __repr__(self) -> str:
        """Returns no credential."""
        return f"GatewayAPI({self._client.base_url})"

    async def get(self, path: str, **parameters: QueryValue) -> Json:
        """Returns a route's JSON; parameters that are None are left out. Raises `GatewayRejected`."""
        return await self.send("GET", path, parameters=parameters)

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        parameters: Mapping[str, QueryValue] | None = None,
    ) -> Json:
        """Returns a route's JSON, empty for an answer without a body; raises `GatewayRejected`."""
        response = await self.fetch(method, path, body, parameters=parameters)
        try:
            return as_object(orjson.loads(response.content)) if response.content else {}
        except ValueError:
            raise GatewayRejected(502, "The gateway's answer is not JSON.") from None

    async def fetch(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        parameters: Mapping[str, QueryValue] | None = None,
    ) -> httpx.Response:
        """Returns a successful response with its headers; raises `GatewayRejected`."""
        response = await self._ask(self._request(method, path, body, parameters, None))
        if not response.is_success:
            raise _rejection(response)
        return response

    async def health(self) -> Json:
        """Returns the gateway's health report, also when it serves nothing; raises `GatewayRejected`."""
        response = await self._ask(self._request("GET", "/health", None, None, None))
        try:
            return as_object(orjson.loads(response.content))
        except ValueError:
            raise _rejection(response) from None

    async def _ask(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Returns the response to a request, whatever its status; raises `GatewayRejected` without one."""
        try:
            return await self._client.send(request, stream=stream)
        except httpx.HTTPError as fault:
            raise _unreachable(fault, request.method) from None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        form: MultipartForm | None = None,
    ) -> AsyncGenerator[httpx.Response]:
        """Yields a response whose body is read as it arrives, whatever its status.

        Args:
            method: The HTTP method.
            path: The route.
            body: Sent as JSON.
            key: Another credential than the session's.
            form: Sent instead of a JSON body.
        """
        request = self._request(method, path, body, None, key, form)
        request.extensions["timeout"] = httpx.Timeout(TIMEOUT_S, read=STREAM_IDLE_S).as_dict()
        response = await self._ask(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    def _request(
        self,
        method: str,
        path: str,
        body: object,
        parameters: Mapping[str, QueryValue] | None,
        key: str | None,
        form: MultipartForm | None = None,
    ) -> httpx.Request:
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        headers = {"Authorization": f"Bearer {key or self._credential}"}
        if self._client_ip:
            headers["X-Forwarded-For"] = self._client_ip
        content: Any = None
        if body is not None:
            content = orjson.dumps(body)
            headers["Content-Type"] = "application/json"
        parts: Any = {} if form is None else {"data": form.fields, "files": form.files}
        return self._client.build_request(
            method, path, params=given or None, headers=headers, content=content, **parts
        )


def _unreachable(fault: httpx.HTTPError, method: str) -> GatewayRejected:
    if isinstance(fault, GatewaySilent):
        message = "The gateway does not answer: it is frozen, or its machine cannot be reached."
    elif isinstance(fault, httpx.TimeoutException):
        message = "The gateway did not answer in time."
    else:
        message = "The gateway does not answer."
    if method != "GET" and not isinstance(fault, httpx.ConnectError):
        message += " Whether it did what was asked is not known."
    return GatewayRejected(503, message, code=UNREACHABLE)


def _rejection(response: httpx.Response) -> GatewayRejected:
    try:
        error = as_object(as_object(orjson.loads(response.content)).get("error"))
    except ValueError:
        error = {}
    message = str(error.get("message") or f"The gateway answered with status {response.status_code}.")
    return GatewayRejected(
        response.status_code, message[:_MAX_MESSAGE_CHARS], param=error.get("param"), code=error.get("code")
    )
