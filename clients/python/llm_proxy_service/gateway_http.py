"""HTTP to the gateway: connections, further attempts, events of a stream.

Invariants: a request is sent again only where no model can have run; a response that is closed before its end
closes its connection, by which the gateway ends the call; nothing but `LLMProxyError` is raised.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from llm_proxy_service.errors import (
    ConfigurationError,
    InvalidRequestError,
    LLMProxyError,
    ProviderError,
)
from llm_proxy_service.gateway_errors import Failure, answered, not_answered
from llm_proxy_service.json_reading import NOTHING, Json, as_object
from llm_proxy_service.options import MAX_RETRIES, TIMEOUT_S, ServiceOptions

CONNECT_TIMEOUT_S = 10.0
QUERY_TIMEOUT_S = 5.0
FIRST_WAIT_S, LONGEST_WAIT_S, LONGEST_STATED_WAIT_S = 0.5, 8.0, 60.0


@dataclass(frozen=True, slots=True)
class GatewayCall:
    """One request of inference.

    Attributes:
        timeout: Seconds without a byte; None takes the service's.
    """

    path: str
    body: Json
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    timeout: float | None = None


class GatewayConnection:
    """The connections to one gateway.

    Raises:
        ConfigurationError: The address or the key cannot be one.
    """

    def __init__(self, options: ServiceOptions) -> None:
        self.url = _address(options.base_url or "")
        self._timeout_s = TIMEOUT_S if options.timeout is None else options.timeout
        self._max_retries = MAX_RETRIES if options.max_retries is None else options.max_retries
        key = options.api_key
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise ConfigurationError("api_key is no key: it has other characters", code="invalid_setting")
        self._headers = {"Authorization": f"Bearer {key.strip()}"} if key else {}
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Make the connections' pool on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers=self._headers,
            timeout=self._timeouts(self._timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=50),
        )

    async def close(self) -> None:
        """Close every connection; what still waits for an answer ends in an error."""
        if self._client is not None:
            await self._client.aclose()

    @asynccontextmanager
    async def answer(self, call: GatewayCall) -> AsyncGenerator[httpx.Response]:
        """The head of a successful answer, whose body is read within the block.

        Raises:
            LLMProxyError: There is no such answer, after further attempts where they are safe.
        """
        attempt = 0
        while isinstance(found := await self._send(call), Failure):
            await asyncio.sleep(self._wait_s(found, attempt))
            attempt += 1
        try:
            yield found
        except httpx.HTTPError as fault:
            raise self._with_id(not_answered(fault, self.url).error, found) from fault
        finally:
            await found.aclose()

    async def read_json(self, response: httpx.Response) -> Json:
        """The object that is an answer's whole body.

        Raises:
            ProviderError: It is something else, such as a page of another server.
        """
        body = await response.aread()
        try:
            document = as_object(json.loads(body))
        except ValueError:
            document = NOTHING
        if not document:
            wrong = ProviderError(f"what {self.url} answered is no JSON object", code="invalid_answer")
            raise self._with_id(wrong, response)
        return document

    async def get(self, path: str, **query: str) -> Json:
        """A document of the gateway's API; one attempt, of at most `QUERY_TIMEOUT_S` seconds.

        Raises:
            LLMProxyError: There is none.
        """
        client = self._opened()
        try:
            response = await client.get(path, params=query, timeout=QUERY_TIMEOUT_S)
        except httpx.HTTPError as fault:
            raise not_answered(fault, self.url).error from fault
        if response.status_code != 200:
            raise self._failure(response, response.content).error
        return await self.read_json(response)

    async def _send(self, call: GatewayCall) -> httpx.Response | Failure:
        client = self._opened()
        timeouts = self._timeouts(self._timeout_s if call.timeout is None else call.timeout)
        try:
            request = client.build_request(
                "POST", call.path, json=call.body, headers=dict(call.headers), timeout=timeouts
            )
        except (TypeError, ValueError) as fault:
            raise InvalidRequestError(f"the request is no JSON: {fault}", code="invalid_request") from fault
        try:
            response = await client.send(request, stream=True)
            if response.status_code == 200:
                return response
            try:
                body = await response.aread()
            finally:
                await response.aclose()
        except httpx.HTTPError as fault:
            return not_answered(fault, self.url)
        return self._failure(response, body)

    def _failure(self, response: httpx.Response, body: bytes) -> Failure:
        return answered(response.status_code, response.headers, body, with_key=bool(self._headers))

    def _wait_s(self, failure: Failure, attempt: int) -> float:
        """Seconds until the next attempt; raises the error where there is none."""
        stated = failure.error.retry_after
        too_long = stated is not None and stated > LONGEST_STATED_WAIT_S
        if not failure.nothing_ran or attempt >= self._max_retries or too_long:
            raise failure.error
        if stated is not None:
            return stated
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 -- a wait

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None or self._client.is_closed:
            raise LLMProxyError("the service is not started, or was stopped", code="stopped")
        if self._loop is not asyncio.get_running_loop():
            raise LLMProxyError("the service was started on another event loop", code="other_loop")
        return self._client

    @staticmethod
    def _timeouts(seconds: float) -> httpx.Timeout:
        return httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT_S))

    @staticmethod
    def _with_id(error: LLMProxyError, response: httpx.Response) -> LLMProxyError:
        error.request_id = response.headers.get("x-request-id")
        error.provider = response.headers.get("x-llm-proxy-provider")
        return error


async def events(response: httpx.Response) -> AsyncGenerator[str]:
    """The data of each server-sent event, `[DONE]` too.

    Lines end at LF or CRLF only: text of a model may hold what Python takes for a line's end.
    """
    data: list[bytes] = []
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for line in (one.removesuffix(b"\r") for one in lines):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data).decode(errors="replace")
                data = []


def _address(base_url: str) -> str:
    """The gateway's address, with or without the `/v1` that OpenAI's SDKs want."""
    expected = "an address such as http://127.0.0.1:7007"
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL:
        raise ConfigurationError(f"base_url is not {expected}", code="invalid_setting") from None
    if url.userinfo:
        raise ConfigurationError("base_url has a user in it: give the key as api_key", code="invalid_setting")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigurationError(f"base_url is {base_url!r}, not {expected}", code="invalid_setting")
    return str(url).rstrip("/").removesuffix("/v1").rstrip("/")
