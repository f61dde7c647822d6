"""A provider's request as LiteLLM sent it once, sent again for calls of the same form by the same client.

Invariants: the connection, its TLS settings, proxy and timeouts are those of LiteLLM's own client; redirects
are not followed; exceptions are those that LiteLLM's client raises.
"""

import asyncio
import copy
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from time import perf_counter
from typing import Any, NoReturn

from llm_proxy.endpoints import ENDPOINTS, NATIVE_ENDPOINTS
from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import direct_internals
from llm_proxy.sidecar.body_tap import take_each
from llm_proxy.sidecar.call_outcome import DirectAttempt
from llm_proxy.sidecar.direct_templates import (
    CONTENT_FIELDS,
    FREE_FIELDS,
    BodyTemplate,
    DirectCall,
    learn_body,
    learn_headers,
)
from llm_proxy.sidecar.kept_request import MAX_BODY_BYTES, KeptRequest, keep_request
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.provider_http import in_ascii

CONSTANT_HEADERS = frozenset({b"x-litellm-model-name", b"x-litellm-model-api-base", b"x-litellm-version"})
"""Headers of LiteLLM's answer that name the deployment or LiteLLM."""
STREAM_HEADERS = frozenset({b"cache-control", b"content-type", b"x-accel-buffering"})
"""Headers of every stream of LiteLLM's, beside those of a cost that is not known yet."""
COST_PREFIX = b"x-litellm-response-cost"
ENCODING_HEADER = "content-encoding"
SDK_HEADER = "x-stainless-lang"
"""OpenAI's SDK sends it: LiteLLM's other clients parse answers by code of each provider."""
SESSION_CLOSED = "Session is closed"
TRANSPORT = "LiteLLMAiohttpTransport"
KEPT_DETAILS = frozenset(
    {"model", "custom_llm_provider", "optional_params", "call_type", "base_model", "user"}
)
TEXT_DETAILS = frozenset({"proxy_server_request", *CONTENT_FIELDS.values(), *FREE_FIELDS})
KEPT_METADATA = frozenset({"model_group", "deployment", "model_info", "api_base", "deployment_model_name"})


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """A provider's complete answer.

    Attributes:
        headers: As LiteLLM keeps them: lower case, each once, ASCII.
        raw: Its body, decompressed by LiteLLM's client.
        sent: Its body as it came.
        provider_s: The time between request and answer, in seconds.
    """

    status: int
    headers: dict[str, str]
    raw: bytes
    sent: bytes
    provider_s: float

    def as_response(self, request: Untyped) -> Untyped:
        """Return the answer as httpx's response to a request, its body decompressed."""
        made = import_module("httpx").Response
        return made(self.status, headers=self.headers, content=self.sent, request=request)


def as_answer(
    answer: ProviderAnswer | BaseException | None,
) -> Callable[[Untyped], Awaitable[Untyped]] | None:
    """Return what answers LiteLLM's own request; None if LiteLLM has to send it."""
    if answer is None:
        return None

    async def give(request: Untyped) -> Untyped:
        if isinstance(answer, asyncio.CancelledError):
            await asyncio.Event().wait()  # LiteLLM sees the disconnect too, and cancels its request
        if isinstance(answer, BaseException):
            raise answer
        return answer.as_response(request)

    return give


class OpenedStream:
    """A provider's answer whose body is read as it comes; a cancelled read can be repeated.

    Attributes:
        headers: As LiteLLM keeps them.
    """

    def __init__(self, response: Untyped) -> None:
        self._response = response
        self.status: int = response.status
        self.headers = _headers(response.headers)

    @property
    def is_ended(self) -> bool:
        """Whether the body was read to its end, so that its connection is free."""
        return bool(self._response.content.at_eof())

    def __aiter__(self) -> "OpenedStream":
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes; raise what LiteLLM's client raises."""
        try:
            chunk: bytes = await self._response.content.readany()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- raised again
            _raise_as_client(error)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def take_each(self, take: Callable[[bytes], bool]) -> None:
        """Call a function with the bytes at once as they come; see `body_tap.take_each`."""
        await take_each(self._response, take)

    async def aclose(self) -> None:
        """Close the connection, unless the body is read to its end."""
        self._response.close()

    def as_response(self, request: Untyped, body: AsyncIterator[bytes]) -> Untyped:
        """Return httpx's response to a request, with another body."""
        made = import_module("httpx").Response
        stream = _stream_class()(body, self.aclose)
        return made(self.status, headers=self._response.headers, stream=stream, request=request)


def _raise_as_client(error: BaseException) -> NoReturn:
    """Raise what LiteLLM's client raises for an exception of a read."""
    if isinstance(error, RuntimeError):
        raise import_module("httpx").ReadError(str(error)) from error
    with direct_internals.client_exceptions():
        raise error


@cache
def _stream_class() -> Untyped:
    parent = import_module("httpx").AsyncByteStream

    class Stream(parent):  # type: ignore[misc,valid-type]  # httpx accepts no other kind of object
        def __init__(self, body: AsyncIterator[bytes], close: Callable[[], Awaitable[None]]) -> None:
            self._body, self._close = body, close

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._body

        async def aclose(self) -> None:
            await self._close()

    return Stream


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A provider's request.

    Attributes:
        body: Its body.
        path: The path of its URL.
        kept: What sends a body; None if aiohttp's client has to.
        pricing: LiteLLM's logging object of the call it was learned from, without its texts.
        constant_headers: Of LiteLLM's answer.
    """

    body: BodyTemplate
    path: str
    transport: Untyped
    url: Untyped
    options: Mapping[str, Any]
    kept: KeptRequest | None
    pricing: Untyped
    constant_headers: tuple[tuple[bytes, bytes], ...]

    @property
    def deployment(self) -> str:
        """The id of the deployment."""
        return str(as_object(self.pricing.litellm_params.get("model_info")).get("id") or "")

    async def send(self, body: bytes) -> ProviderAnswer | Exception | None:
        """Return the answer or the exception of LiteLLM's client; None if nothing was sent."""
        began = perf_counter()
        try:
            with direct_internals.client_exceptions():
                response = await self._post(body)
                try:
                    sent = await response.read()
                finally:
                    response.release()
            provider_s, headers = perf_counter() - began, _headers(response.headers)
            raw = _decompressed(sent, headers) if ENCODING_HEADER in headers else sent
        except RuntimeError as error:
            return None if SESSION_CLOSED in str(error) else import_module("httpx").ReadError(str(error))
        except Exception as error:  # noqa: BLE001 -- LiteLLM raises it
            return error
        return ProviderAnswer(response.status, headers, raw, sent, provider_s)

    async def open(self, body: bytes) -> OpenedStream | Exception | None:
        """Return the answer with its body unread, or the exception; None if nothing was sent."""
        try:
            with direct_internals.client_exceptions():
                return OpenedStream(await self._post(body))
        except RuntimeError as error:
            return None if SESSION_CLOSED in str(error) else import_module("httpx").ReadError(str(error))
        except Exception as error:  # noqa: BLE001 -- LiteLLM raises it
            return error

    async def _post(self, body: bytes) -> Untyped:
        """Return aiohttp's object of the answer, whose body is read as it comes."""
        session, kept = self.transport.get_valid_client_session(), self.kept
        if kept is not None and kept.session is session and len(body) <= MAX_BODY_BYTES:
            return await kept.post(body)
        return await session.request("POST", self.url, data=body, **self.options)


def _decompressed(sent: bytes, headers: dict[str, str]) -> bytes:
    """Return a body as LiteLLM's client reads it; raise what that raises."""
    plain: bytes = import_module("httpx").Response(200, headers=headers, content=sent).content
    return plain


def _headers(given: Untyped) -> dict[str, str]:
    """Return headers as httpx would: names in lower case, values of one name joined."""
    found: dict[str, str] = {}
    for name, value in in_ascii(given.items()):
        lower = name.lower()
        text = value if isinstance(value, str) else value.decode()
        found[lower] = f"{found[lower]}, {text}" if lower in found else text
    return found


def learn_request(
    direct: DirectAttempt, call: DirectCall, content_field: str, head: Iterable[tuple[bytes, bytes]]
) -> RequestTemplate | None:
    """Return the template of the request that LiteLLM sent for a call; None if it cannot be repeated.

    Args:
        direct: What LiteLLM did.
        call: The call.
        content_field: The field of its texts.
        head: The headers of LiteLLM's answer.
    """
    request, logging = direct.request, direct.logging
    if request is None or logging is None:
        return None
    body, headers = learn_body(request.content, call, content_field), learn_headers(request.headers)
    transport = direct.client._transport_for_url(request.url)  # noqa: SLF001 -- httpx has no other way
    if body is None or headers is None or type(transport).__name__ != TRANSPORT:
        return None
    if call.endpoint in NATIVE_ENDPOINTS:
        if not _is_native(request, call, direct.deployment):
            return None
    elif SDK_HEADER not in headers or not direct_internals.takes_answer_unchanged(logging):
        return None
    timeout = as_object(request.extensions.get("timeout"))
    aiohttp = import_module("aiohttp")
    options: dict[str, Any] = {
        "headers": headers,
        "allow_redirects": False,
        "auto_decompress": False,
        "timeout": aiohttp.ClientTimeout(
            sock_connect=timeout.get("connect"), sock_read=timeout.get("read"), connect=timeout.get("pool")
        ),
        "proxy": transport.proxy_cache.get(request.url.host),
    }
    if transport._ssl_verify is not None:  # noqa: SLF001 -- as the transport sends it
        options["ssl"] = transport._ssl_verify  # noqa: SLF001 -- the same
    constant = tuple(pair for pair in head if _is_constant(pair[0], call))
    url = import_module("yarl").URL(str(request.url), encoded=True)
    kept = keep_request(url, options, transport.get_valid_client_session())
    return RequestTemplate(body, request.url.path, transport, url, options, kept, _pricing(logging), constant)


def _is_native(request: Untyped, call: DirectCall, deployment: Untyped) -> bool:
    """Whether LiteLLM sent a native call as one, with a key that does not expire."""
    token = str(request.headers.get("authorization") or "").removeprefix("Bearer ")
    stated = as_object(deployment["litellm_params"]).get("api_key")
    is_kept = not token or token == stated or token in os.environ.values()
    return is_kept and request.url.path.endswith(ENDPOINTS[call.endpoint].path.removeprefix("/v1"))


def _is_constant(name: bytes, call: DirectCall) -> bool:
    has_costs = call.endpoint not in NATIVE_ENDPOINTS  # those of another call, or of nothing
    of_streams = call.streams and (name in STREAM_HEADERS or (has_costs and name.startswith(COST_PREFIX)))
    return name in CONSTANT_HEADERS or of_streams


def _pricing(logging: Untyped) -> Untyped:
    """Return a copy of LiteLLM's logging object with what prices depend on, without texts."""
    found = copy.copy(logging)
    given = as_object(logging.litellm_params)
    params = {name: value for name, value in given.items() if name not in TEXT_DETAILS}
    for place in {"metadata", "litellm_metadata"} & given.keys():
        metadata = as_object(given[place])
        params[place] = {name: value for name, value in metadata.items() if name in KEPT_METADATA}
    details: Json = as_object(logging.model_call_details)
    found.model_call_details = {name: value for name, value in details.items() if name in KEPT_DETAILS}
    optional = as_object(details.get("optional_params"))
    kept = {name: value for name, value in optional.items() if name not in TEXT_DETAILS}
    found.model_call_details["optional_params"] = found.optional_params = kept
    found.model_call_details["litellm_params"] = found.litellm_params = params
    found.messages = found.truncated_messages_for_logging = None
    found.llm_caching_handler = None
    found.streaming_chunks, found.sync_streaming_chunks = [], []
    return found
