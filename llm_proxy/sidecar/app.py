"""The sidecar's ASGI application: inference, health, models, catalog, counts of tokens, cache; 404 elsewhere.

Invariants: no route of LiteLLM's own application is reachable, so there is no admin API; every request but
health checks needs the traffic key; LiteLLM's endpoint functions are called directly.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version

from llm_proxy.endpoints import ENDPOINTS, IMAGES, NATIVE_ENDPOINTS, OPAQUE_ENDPOINTS, Endpoint, EndpointSpec
from llm_proxy.json_access import as_list, read_object
from llm_proxy.rotation import OldSecretUses
from llm_proxy.sidecar import (
    catalog,
    cohere_embed,
    embeddings,
    guardrails,
    image_answers,
    litellm_internals,
    native_wires,
    opaque_calls,
    response_state,
    responses,
    token_count,
    transcripts,
)
from llm_proxy.sidecar.call_outcome import CallOutcome, outcome_in_context
from llm_proxy.sidecar.config_file import ConfigReport
from llm_proxy.sidecar.direct_calls import DirectCalls
from llm_proxy.sidecar.disconnects import cancel_on_disconnect
from llm_proxy.sidecar.http_protocol import request_of
from llm_proxy.sidecar.json_repair import repair_value
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.process_log import log_line
from llm_proxy.sidecar.response_cache import CacheableCall, ResponseCache
from llm_proxy.sidecar.responses import (
    App,
    Message,
    Receive,
    ReceiveAgain,
    Scope,
    Send,
    error_body,
    read_body,
    request_header,
    request_headers,
    send_json,
    send_result,
)

INFERENCE_ENDPOINTS: dict[str, tuple[Endpoint, EndpointSpec]] = {
    one.path: (name, one) for name, one in ENDPOINTS.items()
}
"""Path -> the operation."""
JSON_CONTENT_TYPE = [(b"content-type", b"application/json")]
UNREADABLE_RESPONSE = error_body("The model's answer could not be read.", "server_error", "provider_error")
COUNT_PATH = "/llmp/count_tokens"
CATALOG_PATH = "/llmp/catalog"
COOLDOWNS_PATH = "/llmp/cooldowns"
DESCRIPTION_PATHS = frozenset({"/v1/models", CATALOG_PATH, COOLDOWNS_PATH, "/llmp/config"})
OPTIONAL_HEADER = b"x-llmp-optional-fields"
AFFINITY_HEADER = b"x-llmp-affinity"
KEY_VARIABLE = "LITELLM_MASTER_KEY"
KEY_HEADER = b"x-llmp-key"
"""Tells the gateway that this 401 is about its key: it may send the call again with another."""
HEALTH_PATHS = ("/health/liveliness", "/health/readiness")


@dataclass(slots=True)
class SidecarApp:
    """The ASGI application.

    Attributes:
        keys: The traffic keys, newest first: each is a bearer token of the gateway's.
        old_keys: Counts calls with another key than the first.
        ready: Whether the warm-up has ended; readiness is 503 before.
        draining: Whether the process is about to stop: it still accepts calls; gateways send it none.
        relieved: Whether another process serves the port: each connection ends with its next response.
        completed: The number of calls that have ended.
        in_flight: The number of calls that run now.
        states_timeouts: Whether the configuration states timeouts, which the gateway then needs.
        has_observers: Whether a callback other than ours receives the calls.
        cache: The response cache; None if the configuration has no cache in Redis.
        direct: Sends calls past LiteLLM's code.
        config_report: The report on the configuration file; None without a file.
    """

    keys: tuple[str, ...]
    old_keys: OldSecretUses = field(default_factory=lambda: OldSecretUses(_report_old_key))
    ready: bool = False
    draining: bool = False
    relieved: bool = False
    completed: int = 0
    in_flight: int = 0
    states_timeouts: bool = False
    has_observers: bool = False
    cache: ResponseCache | None = None
    direct: DirectCalls = field(default_factory=lambda: DirectCalls(frozenset()))
    config_report: ConfigReport | None = None
    _token: bytes = field(init=False)
    _old_tokens: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._token, *self._old_tokens = (b"Bearer " + key.encode() for key in self.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one HTTP request; any other connection type is ignored."""
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        if self.relieved:
            send = _closing(send)
        if method == "GET" and path in HEALTH_PATHS:
            await self._send_health(path, send)
        elif not self._is_authorized(scope):
            await send_json(
                send,
                401,
                error_body("The sidecar's key is wrong or missing.", "auth_error", "invalid_api_key"),
                [(KEY_HEADER, b"refused")],
            )
        elif method == "POST" and path in INFERENCE_ENDPOINTS:
            await self._count(self._process_call(path, scope, receive, send))
        elif path.startswith(response_state.PREFIX) and response_state.header(
            scope, response_state.GROUP_HEADER
        ):
            await self._count(_process_stored(scope, receive, send))
        elif method == "GET" and path in DESCRIPTION_PATHS:
            await self._send_description(path, send)
        elif method == "POST" and path == COUNT_PATH:
            await self._count_tokens(receive, send)
        elif method == "DELETE" and path == "/llmp/cache":
            await self._purge_cache(receive, send)
        else:
            await send_json(send, 404, error_body("No such route.", "invalid_request_error", "not_found"))

    async def _send_description(self, path: str, send: Send) -> None:
        router = litellm_internals.router()
        if path == "/v1/models":
            found = catalog.list_models(router)
        elif path == CATALOG_PATH:
            found = catalog.build_catalog(
                router,
                observed=self.has_observers,
                guardrails=guardrails.list_guardrails(),
                with_timeouts=self.states_timeouts,
            )
        elif path == COOLDOWNS_PATH:
            found = await catalog.list_cooldowns(router)
        else:
            found = {} if self.config_report is None else await asyncio.to_thread(self.config_report.current)
            found = {"litellm": version("litellm"), **found}
        await send_json(send, 200, found)

    async def _count(self, call: Awaitable[None]) -> None:
        self.in_flight += 1
        try:
            await call
        finally:
            self.in_flight -= 1
            self.completed += 1

    async def _process_call(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        account, outcome = _account(scope), None
        if account == frozenset():
            await send_json(send, 404, response_state.GONE)
            return
        call, sending = None, StartedFlag(send)
        try:
            if self.cache is not None and path in self.cache.paths:
                raw = await read_body(receive)
                if raw is None:
                    return
                call = self.cache.cacheable_call(scope, raw)
                if call is not None and await self.cache.replay(call, scope, sending):
                    return
                receive = ReceiveAgain(raw, receive)
            outcome = CallOutcome(optional_fields=_optional_fields(scope), account=account)
            outcome.affinity = request_header(scope, AFFINITY_HEADER) or None
            await self._forward(path, call, outcome, scope, receive, sending)
        except Exception as error:  # noqa: BLE001 -- uvicorn would log it with the provider's text, or a prompt
            log_line(f"call failed: {type(error).__name__}")
            if not sending.started:
                outcome = outcome or CallOutcome()
                outcome.set_error_if_none(error)
                headers = outcome.error_headers(responses.configured_secrets(litellm_internals.router()))
                await send_json(send, 502, UNREADABLE_RESPONSE, [*headers, *outcome.headers()])

    async def _forward(
        self,
        path: str,
        call: CacheableCall | None,
        outcome: CallOutcome,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Respond to a call that the cache has no answer to; `call` is None if its answer is not kept."""
        app: App = partial(_call_litellm, path, outcome)
        name = INFERENCE_ENDPOINTS[path][0]
        if name in self.direct.endpoints:
            app = partial(self.direct.respond, name, app, outcome)
        if self.cache is not None and call is not None:
            await self.cache.forward(call, outcome, app, scope, receive, send)
            return
        not_cached_by_us = self.cache is not None and path != "/v1/embeddings"
        outcome.without_cache = not_cached_by_us or litellm_internals.litellm_module().cache is None
        if name in OPAQUE_ENDPOINTS:
            app = partial(cancel_on_disconnect, app)
        await app(scope, receive, send)

    async def _count_tokens(self, receive: Receive, send: Send) -> None:
        body = read_object(await read_body(receive) or b"")
        await send_json(send, *await token_count.count_tokens(body))

    async def _purge_cache(self, receive: Receive, send: Send) -> None:
        if self.cache is None:
            missing = error_body(
                "There is no response cache in a Redis.", "invalid_request_error", "no_cache"
            )
            await send_json(send, 404, missing)
            return
        patterns = as_list(read_object(await read_body(receive) or b"").get("patterns"))
        purged, complete = await self.cache.purge(one for one in patterns if isinstance(one, str))
        await send_json(send, 200 if complete else 503, {"purged": purged, "complete": complete})

    async def _send_health(self, path: str, send: Send) -> None:
        if path == "/health/readiness" and not self.ready:
            await send_json(send, 503, {"status": "starting"})
        else:
            status = "leaving" if self.draining else "healthy"
            counts = {"in_flight": self.in_flight, "answered": self.completed, "direct": self.direct.sent}
            body = {"status": status, **counts}
            await send_json(send, 200, body)

    def _is_authorized(self, scope: Scope) -> bool:
        headers, named = scope["headers"], request_headers(scope)
        repeated = len(named) < len(headers) and [name for name, _ in headers].count(b"authorization") > 1
        if repeated:
            return False
        given = named.get(b"authorization", b"")
        is_current = hmac.compare_digest(given, self._token)
        is_old = [hmac.compare_digest(given, token) for token in self._old_tokens]
        if any(is_old):
            self.old_keys.note(KEY_VARIABLE)
            return True
        return is_current


def _report_old_key(setting: str, uses: int) -> None:
    log_line(f"an old key of {setting} is still used: {uses} requests of gateways since the last such line")


def _closing(send: Send) -> Send:
    """Return a `send` that ends the connection with its response."""

    async def send_and_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_and_close


def _optional_fields(scope: Scope) -> tuple[str, ...]:
    stated = request_header(scope, OPTIONAL_HEADER)
    return tuple(stated.split(",")) if stated else ()


def _account(scope: Scope) -> frozenset[str] | None:
    """Return the deployments that may serve a call which goes on at a stored response; None for any call."""
    if not request_headers(scope).get(response_state.DEPLOYMENT_HEADER):
        return None
    deployment = response_state.header(scope, response_state.DEPLOYMENT_HEADER)
    return response_state.same_account(response_state.header(scope, response_state.GROUP_HEADER), deployment)


async def _process_stored(scope: Scope, receive: Receive, send: Send) -> None:
    outcome, sending = CallOutcome(), StartedFlag(send)
    try:
        await response_state.respond(scope, receive, sending, outcome)
    except Exception as error:  # noqa: BLE001 -- uvicorn would log it with the provider's text
        log_line(f"a stored response: {type(error).__name__}")
        if not sending.started:
            await response_state.send_failure(send, error, outcome)


class StartedFlag:
    """Wraps `send` of one response.

    Attributes:
        started: Whether anything was sent.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    @property
    def write_chunk(self) -> Callable[[bytes], bool] | None:
        """Return what writes a part of a stream at once; None if nothing does."""
        cycle = request_of(self._send)
        return None if cycle is None else cycle.write_chunk

    def write_whole(self, start: Message, body: bytes) -> bool:
        """Write a complete response at once; return False, with nothing done, if it has to be sent."""
        cycle = request_of(self._send)
        if cycle is None or not cycle.write_whole(start, body):
            return False
        self.started = True
        return True

    def write_answer(self, head: bytes, body: bytes) -> bool:
        """Write a complete answer at once; return False, with nothing done, if it has to be sent."""
        cycle = request_of(self._send)
        if cycle is None or not cycle.write_answer(head, body):
            return False
        self.started = True
        return True

    async def __call__(self, message: Message) -> None:
        """Send the message."""
        self.started = True
        await self._send(message)


_NAME_ARGUMENTS: dict[str, dict[str, str | None]] = {"generate_content": {"model_name": ""}}
"""What LiteLLM's functions take of a path; the body names the model."""


async def _call_litellm(path: str, outcome: CallOutcome, scope: Scope, receive: Receive, send: Send) -> None:
    proxy = litellm_internals.proxy_module()
    name, endpoint = INFERENCE_ENDPOINTS[path]
    outcome.endpoint = name
    opaque, streams = name in OPAQUE_ENDPOINTS, False
    own = _NAME_ARGUMENTS.get(name, {} if opaque or name in NATIVE_ENDPOINTS else {"model": None})
    scope["app"] = proxy.app
    if not endpoint.files:  # with another type LiteLLM would parse a form
        scope["headers"] = [one for one in scope["headers"] if one[0] != b"content-type"] + JSON_CONTENT_TYPE
    request, head = proxy.Request(scope, receive), proxy.Response()
    if name in NATIVE_ENDPOINTS:
        streams = await native_wires.prepare_request(name, request, outcome)
    if name == "embeddings":
        cohere_embed.prepare_request(request, await request.body(), outcome)
    body = await opaque_calls.prepare_call(name, request, outcome) if opaque else {}
    with outcome_in_context(outcome):
        try:
            if name in IMAGES:
                result = await image_answers.make_images(name, request, body, head, outcome)
            elif endpoint.files:
                result = await transcripts.transcribe(name, request, head, outcome)
            else:
                call = litellm_internals.call_endpoint
                result = await call(endpoint, request, head, streams=streams, **own)
            if name == "embeddings":
                embeddings.encode_as_requested(result, await request.body())
                result = cohere_embed.answer_to_send(result, outcome)
            elif opaque:
                result = await opaque_calls.answer_to_send(name, result, body, outcome)
        except proxy.ProxyException as error:
            outcome.set_error_if_none(error)
            _make_error_sendable(error)
            result = await proxy.openai_exception_handler(request, error)
        await send_result(result, head.raw_headers, outcome, scope, receive, send)


def _make_error_sendable(error: Untyped) -> None:
    """Replace characters that LiteLLM cannot send: surrogates in texts, anything but ASCII in headers."""
    for name in ("message", "type", "param", "provider_specific_fields"):
        setattr(error, name, repair_value(getattr(error, name, None)))
    error.headers = {name: value.encode("ascii", "replace").decode() for name, value in error.headers.items()}
