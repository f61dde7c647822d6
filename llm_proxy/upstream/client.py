"""Sends calls to the sidecars and returns their replies; also deletes cached answers at every sidecar.

Invariants: URL, `Host`, key and headers are ours, never the caller's; a call for which no connection could
be made goes to another sidecar at once; a call that may have run is never sent twice; calls at a sidecar
that has been silent too long end when it is given up.
"""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import NamedTuple
from urllib.parse import quote

import orjson

from llm_proxy.call_guard import CallGuard, TimeoutPolicy
from llm_proxy.dialects import Call, wants_batch
from llm_proxy.dialects.response_ids import (
    PREVIOUS,
    PREVIOUS_NOT_FOUND,
    response_not_found,
)
from llm_proxy.endpoints import ENDPOINTS
from llm_proxy.errors import APIError, NotFound, Overloaded, UpstreamUnreachable, backend_unreachable
from llm_proxy.identity import Caller, QueueShare
from llm_proxy.json_access import as_object
from llm_proxy.upstream.affinity import Affinity, header_of
from llm_proxy.upstream.catalog import CurrentCatalog
from llm_proxy.upstream.error_mapping import map_error
from llm_proxy.upstream.form_body import FormBody
from llm_proxy.upstream.http_client import ConnectError, ConnectionPool, HTTPConnection, SidecarAddress
from llm_proxy.upstream.litellm_protocol import (
    LiteLLMControls,
    RoutingInfo,
    cache_key_patterns,
    parse_failure_headers,
    parse_routing_headers,
)
from llm_proxy.upstream.pool import Sidecar
from llm_proxy.upstream.reply import Send, SidecarReply, connection_lost_error
from llm_proxy.upstream.sealed_ids import SealedIds
from llm_proxy.upstream.sidecar_keys import REFUSING_STATUSES, SidecarKeys, is_refusal_of_key
from llm_proxy.upstream.slot_queue import Slot, SlotQueue

MAX_ERROR_BYTES = 256 * 2**10
_USER_AGENT = "llm-proxy"
_JSON = b"application/json"
UPLOAD_BYTES_PER_S = 2**20
"""At this rate a provider may still be receiving an upload, when the wait for its answer begins."""
_SHOW_TEXT = "litellm-disable-message-redaction: true\r\n"
"""LiteLLM's header for: this call's text may be shown, although texts in general may not."""
DEPLOYMENT_GONE = b'"deployment_gone"'
"""Our sidecar's code for a deployment that its configuration no longer has."""
NO_TRANSLATIONS = b"has no /v1/audio/translations"
"""Our sidecar's error text for a provider that transcribes audio in its own protocol."""
OPTIONAL_HEADER = "x-llmp-optional-fields"
"""Our sidecar leaves these fields out where it knows that the model has none of them."""
DEPLOYMENT_HEADER, GROUP_HEADER = "x-llmp-deployment", "x-llmp-group"
"""The deployment whose account alone may serve a call, and the group it is a member of."""
CACHE_PATH = "/llmp/cache"
PURGE_TIMEOUT_S = 60.0


class SidecarClient:
    """Sends calls to the pool of sidecars."""

    def __init__(
        self,
        queue: SlotQueue,
        keys: SidecarKeys,
        timeouts: TimeoutPolicy,
        controls: LiteLLMControls,
        catalog: CurrentCatalog,
        *,
        on_failure: Callable[[str], None] = lambda _code: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Builds the client.

        Args:
            queue: The queue for slots at the sidecars.
            keys: Ours at the sidecars.
            timeouts: The longest waits of a call.
            controls: What is added to a call for LiteLLM.
            catalog: What the sidecars serve.
            tls: The authorities trusted behind `https`; the system's by default.
            on_failure: Called with the code of each failure at a sidecar, for metrics.
        """
        self.pool = queue.pool
        self.queue = queue
        self._on_failure = on_failure
        self._controls = controls
        self.catalog = catalog
        self.catalog_settled = False
        """A sidecar has sent its catalog, or has none."""
        self.timeouts = timeouts
        self._keys = keys
        self._connections = ConnectionPool(tls)
        self._affinity = Affinity(controls.affinity)
        self._targets: dict[tuple[str, str | None], tuple[SidecarAddress, bytes]] = {}

    def stop(self) -> None:
        """Closes every connection."""
        self._connections.close()

    async def get(self, sidecar: Sidecar, path: str, *, timeout_s: float = 5) -> tuple[int, bytes]:
        """Sends a small GET for health and the catalog; raises `OSError`, of which `TimeoutError` is one."""
        return await self._request(sidecar, ("GET", path), b"\r\n", timeout_s)

    async def delete(
        self, sidecar: Sidecar, path: str, body: bytes, *, timeout_s: float
    ) -> tuple[int, bytes]:
        """Sends a small DELETE with a JSON body; raises `OSError`, of which `TimeoutError` is one."""
        return await self._send_body(sidecar, ("DELETE", path), body, timeout_s)

    async def post(self, sidecar: Sidecar, path: str, body: bytes, *, timeout_s: float) -> tuple[int, bytes]:
        """Sends a POST that is no call; raises `OSError`, of which `TimeoutError` is one."""
        return await self._send_body(sidecar, ("POST", path), body, timeout_s)

    async def _send_body(
        self, sidecar: Sidecar, line: tuple[str, str], body: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        return await self._request(sidecar, line, b"content-length: %d\r\n\r\n" % len(body) + body, timeout_s)

    async def _request(
        self, sidecar: Sidecar, line: tuple[str, str], rest: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        async with asyncio.timeout(timeout_s):
            connection = await self._deliver(sidecar, line, rest)
            try:
                return connection.status, await connection.read_all()
            finally:
                self._connections.release(connection)

    async def _deliver(
        self,
        sidecar: Sidecar,
        line: tuple[str, str],
        rest: bytes,
        guard: CallGuard | None = None,
        form: FormBody | None = None,
    ) -> HTTPConnection:
        """Sends a request with a key that the sidecar takes; returns the connection, its status known.

        Raises `ConnectError` if nothing was sent, else `OSError`; no connection is held then.
        """
        key = self._keys.key_for(sidecar.url)
        tried: list[str | None] = []
        while True:
            address, head = self._target(sidecar, *line, key)
            if form is not None:
                head = head.replace(_JSON, form.content_type.encode())
            connection = await self._connections.acquire(address)
            try:
                if guard is not None:
                    guard.unsent = False
                blocks = form.blocks() if form is not None else None
                on_sent = guard.on_sent if guard is not None else None
                await connection.send_request(head + rest, blocks, on_sent)
                if connection.status not in REFUSING_STATUSES or not self._keys.may_change:
                    return connection
                refused = is_refusal_of_key(connection.headers, await connection.peek_all(MAX_ERROR_BYTES))
            except BaseException:
                self._connections.release(connection)
                raise
            tried.append(key)
            if not refused or (key := self._keys.next_after(sidecar.url, tried)) is None:
                return connection
            self._connections.release(connection)

    def compose(self, call: Call, caller: Caller, request_id: str) -> Send:
        """Composes a call's request; returns `_send` for it. No sidecar is chosen before that."""
        cached = call.operation is None and self._controls.uses_cache(call, caller, self.catalog.snapshot)
        body = self._body(call, caller, cached=cached)
        form = FormBody(orjson.loads(body), call.files) if call.files else None
        name = self._affinity.name_of(call, caller)
        headers = self._headers(call, caller, request_id, name)
        size, sent_at_once = (len(body), body) if form is None else (form.size_bytes, b"")
        waits = self.timeouts.for_group(call.group)
        composed = _ComposedCall(
            call,
            caller,
            request_id,
            body,
            form,
            cached=cached,
            line=call.operation[:2] if call.operation else ("POST", ENDPOINTS[call.endpoint].path),
            rest=f"{headers}content-length: {size}\r\n\r\n".encode() + sent_at_once,
            name=name,
            share=self.queue.shares.share_of(caller, wants_batch=wants_batch(call)),
            first_byte_s=waits.first_byte_s + size / UPLOAD_BYTES_PER_S,
            idle_s=waits.idle_s,
        )
        return partial(self._send, composed)

    async def _send(
        self, composed: "_ComposedCall", guard: CallGuard, traceparent: str | None
    ) -> SidecarReply:
        """Forwards a call; returns when the sidecar's status is known.

        Raises:
            UpstreamUnreachable: No sidecar took it, or the connection broke before an answer.
            Overloaded: Every sidecar is full, and stayed so for the queue's time.
            APIError: The sidecar answered with an error; see `error_mapping`.
        """
        guard.unsent = True
        name, share, rest = composed.name, composed.share, composed.rest
        tried: list[Sidecar] = []  # `list[Sidecar]()` raises within, and takes ten times as long
        if traceparent is not None:
            rest = f"traceparent: {traceparent}\r\n".encode() + rest
        while len(tried) < len(self.pool.sidecars):
            slot = self._take(name, share, guard, tried) or await self._wait(share, guard, tried)
            sidecar = self._begin(slot, name, guard)
            guard.idle_deadline = monotonic() + composed.first_byte_s
            try:
                connection = await self._deliver(sidecar, composed.line, rest, guard, composed.form)
            except ConnectError:
                guard.unsent = True
                self._release(slot, guard, None)
                self._record_failure(sidecar, "refused")
                tried.append(sidecar)
                continue
            except OSError as broken:
                self._release(slot, guard, None)
                self._record_failure(sidecar, "broke")
                raise connection_lost_error() from broken
            except BaseException:
                self._release(slot, guard, None)
                raise
            self._keys.note_call(sidecar.url)
            try:
                reply = self._reply(
                    composed, connection, guard, partial(self._release, slot, guard, connection)
                )
            except BaseException:
                self._release(slot, guard, connection)
                raise
            if connection.status != 200:
                raise await self._failure(composed, sidecar, connection, reply)
            sidecar.record_success()
            return reply
        raise backend_unreachable()

    def _take(
        self, name: str | None, share: QueueShare, guard: CallGuard, tried: list[Sidecar]
    ) -> Slot | None:
        """Takes a slot, at the preferred sidecar if it has a free one; None where the call has to wait."""
        guard.is_batch = share.is_batch
        others = self._affinity.passed_over(name, self.pool.sidecars) if name and not tried else None
        slot = self.queue.take(share, monotonic(), others) if others is not None else None
        return slot or self.queue.take(share, monotonic(), tried)

    def _begin(self, slot: Slot, name: str | None, guard: CallGuard) -> Sidecar:
        """Notes that a call runs at the sidecar of its slot; returns that."""
        sidecar = slot.sidecar
        sidecar.calls.add(guard)
        guard.sidecar, guard.phase = sidecar.url, "first_byte"
        if name is not None:
            self._affinity.began(name, guard, sidecar)
        return sidecar

    async def _wait(self, share: QueueShare, guard: CallGuard, tried: list[Sidecar]) -> Slot:
        began = monotonic()
        try:
            return await self.queue.wait(share, began, tried)
        finally:
            guard.queue_s += monotonic() - began

    def _headers(self, call: Call, caller: Caller, request_id: str, name: str | None) -> str:
        headers = f"x-litellm-call-id: {request_id}\r\n"
        headers += header_of(name, call, self.catalog.snapshot) if name is not None else ""
        for field, value in _headers_of(call):
            headers += f"{field}: {value}\r\n"
        return headers + (_SHOW_TEXT if self._controls.shows_text(caller, self.catalog.snapshot) else "")

    def check_capacity(self, caller: Caller, call: Call | None) -> None:
        """Raises `Overloaded` without a slot or a place in the queue for a call; None: it was not read."""
        if self.queue.is_full:
            share = self.queue.shares.share_of(caller, wants_batch=call is not None and wants_batch(call))
            self.queue.check(share, monotonic())

    def interrupt_calls_at(self, sidecar: Sidecar) -> None:
        """Ends the calls at a sidecar that has been silent too long; they are not repeated."""
        for guard in list(sidecar.calls):
            guard.interrupt("silent")

    def _body(self, call: Call, caller: Caller, *, cached: bool) -> bytes:
        if call.operation is None:
            return orjson.dumps(self._controls.body(call, caller, self.catalog.snapshot, cached=cached))
        return orjson.dumps(call.body) if call.body else b""

    def _sealed_ids(self, sent: "_ComposedCall", routing: RoutingInfo) -> SealedIds | None:
        """What replaces the provider's ids in an answer; None where there are none."""
        call, response = sent.call, sent.call.response
        if call.endpoint != "responses":
            return None
        known = {one.own_id: one.token for one in (*call.items, *([response] if response else []))}
        ids, facts = self._controls.response_ids, (sent.caller, call.group, routing.deployment or "")
        return SealedIds(partial(ids.seal, *facts), partial(ids.seal_item, *facts), known)

    def _reply(
        self, sent: "_ComposedCall", connection: HTTPConnection, guard: CallGuard, release: Callable[[], None]
    ) -> SidecarReply:
        """Returns the reply whose head has come; what it raises leaves the slot taken."""
        call, headers, catalog = sent.call, connection.headers, self.catalog.snapshot
        is_good = connection.status == 200
        if is_good:
            routing = parse_routing_headers(headers, call, catalog, cached=sent.cached)
        else:
            routing = parse_failure_headers(headers, call, catalog)
        ids = self._sealed_ids(sent, routing)
        reply = SidecarReply(connection, routing, guard, call, idle_s=sent.idle_s, on_close=release, ids=ids)
        if is_good and call.streaming:
            reply.begin_stream()
        return reply

    async def _failure(
        self, sent: "_ComposedCall", sidecar: Sidecar, connection: HTTPConnection, reply: SidecarReply
    ) -> APIError:
        """Returns the error that a reply is, and closes it."""
        try:
            text = await connection.read_all(MAX_ERROR_BYTES)
        except OSError as broken:
            raise connection_lost_error() from broken
        finally:
            reply.close()
        error = _in_the_callers_words(_error_of(connection, text, sent), text, sent.call)
        error.routing = reply.routing
        if error.retryable is None and error.origin == "provider" and (reply.routing.attempts or 0) > 1:
            error.retryable = False
        self._record_outcome(sidecar, error)
        return error

    def _record_outcome(self, sidecar: Sidecar, error: APIError) -> None:
        """Records a sidecar's own failures, never those it reports of a provider."""
        if isinstance(error, UpstreamUnreachable | Overloaded):
            self._record_failure(sidecar, error.code or "refused")
        else:
            sidecar.record_success()

    def _record_failure(self, sidecar: Sidecar, code: str) -> None:
        if code == "refused":
            sidecar.mark_down()
        else:
            sidecar.record_failure(monotonic())
        self._on_failure(code)

    def _release(self, slot: Slot, guard: CallGuard, connection: HTTPConnection | None) -> None:
        try:
            if connection is not None:
                self._connections.release(connection)
        finally:
            slot.sidecar.calls.discard(guard)
            self._affinity.ended(guard)
            self.queue.release(slot, monotonic())

    def _target(
        self, sidecar: Sidecar, method: str, path: str, key: str | None
    ) -> tuple[SidecarAddress, bytes]:
        """Returns the address of a request, and the part of its head that every request has."""
        target = self._targets.get((sidecar.url, key))
        if target is None:
            address = SidecarAddress.of(sidecar.url)
            headers = {
                "host": address.name,
                "accept-encoding": "identity",
                "user-agent": _USER_AGENT,
                "content-type": _JSON.decode(),
            }
            if key:
                headers["authorization"] = f"Bearer {key}"
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            target = self._targets[sidecar.url, key] = address, head.encode("latin-1")
        address, lines = target
        return address, f"{method} {address.path}{path} HTTP/1.1\r\n".encode("latin-1") + lines


def _headers_of(call: Call) -> tuple[tuple[str, str], ...]:
    """The headers that a call itself asks for."""
    headers = call.provider_headers
    if call.optional_fields:
        headers = *headers, (OPTIONAL_HEADER, ",".join(call.optional_fields))
    if call.response is not None:
        headers = *headers, (DEPLOYMENT_HEADER, quote(call.response.deployment))
    if call.response is not None or call.operation is not None:
        headers = *headers, (GROUP_HEADER, quote(call.group))
    return headers


def _in_the_callers_words(error: APIError, text: bytes, call: Call) -> APIError:
    """Returns the error of a call about a stored response, with the caller's id; 404 for a missing one."""
    response = call.response
    if call.endpoint == "audio.translations" and NO_TRANSLATIONS in text:
        message = (
            f"The provider of '{call.model[:200]}' has no translations of audio; it may have transcriptions."
        )
        return NotFound(message, param="model", code="endpoint_not_served")
    if response is None:
        return error
    if response in call.items:
        gone, param = response.own_id in error.message, "input"
    elif call.operation is not None and call.operation.is_free:
        gone, param = error.status == NotFound.status, "id"
    else:
        gone, param = error.code == PREVIOUS_NOT_FOUND or response.own_id in error.message, PREVIOUS
    if gone or DEPLOYMENT_GONE in text:
        return response_not_found(response.token, param)
    error.message = error.message.replace(response.own_id, response.token)
    return error


def _error_of(connection: HTTPConnection, text: bytes, sent: "_ComposedCall") -> APIError:
    """Returns the error for a response with an error status."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in connection.headers.items()}
    return map_error(
        connection.status,
        headers,
        text,
        model=sent.call.model,
        fields=sent.call.body.keys(),
        sent_body=sent.body,
        request_id=sent.request_id,
    )


class _ComposedCall(NamedTuple):
    """A call, composed to be sent.

    Attributes:
        form: What follows the head instead of `body`, where files are sent.
        cached: The response cache may answer it.
        line: The request's method and path.
        rest: What follows the head's lines that all requests to a sidecar have: its last ones, and the body.
        name: Names the calls that stay together.
        first_byte_s: The longest wait for its answer.
        idle_s: The longest wait between two events of its answer.
    """

    call: Call
    caller: Caller
    request_id: str
    body: bytes
    form: FormBody | None
    cached: bool
    line: tuple[str, str]
    rest: bytes
    name: str | None
    share: QueueShare
    first_byte_s: float
    idle_s: float


class CachePurge(NamedTuple):
    """The result of a purge.

    Attributes:
        entries: Cached answers and embeddings that were deleted.
        complete: Every sidecar has searched the whole cache.
    """

    entries: int
    complete: bool


async def purge_cache(client: SidecarClient, tenant: str | None, model: str | None) -> CachePurge:
    """Deletes the cached answers of a tenant, a model, or both; all of them without either.

    Raises:
        NotFound: No sidecar has a cache it can purge.
        UpstreamUnreachable: No sidecar runs.
    """
    group = None if model is None else client.catalog.resolved(model)
    body = orjson.dumps({"patterns": cache_key_patterns(tenant, group)})
    results = await asyncio.gather(*(_purge_sidecar(client, one, body) for one in client.pool.sidecars))
    answers = [one for one in results if one is not None]
    if not answers:
        raise backend_unreachable()
    if all(status in {404, 405} for status, _ in answers):
        raise NotFound("There is no response cache that can be purged.", code="no_cache")
    return CachePurge(sum(entries for _, entries in answers), all(status == 200 for status, _ in answers))


async def _purge_sidecar(client: SidecarClient, sidecar: Sidecar, body: bytes) -> tuple[int, int] | None:
    """The status of one sidecar's answer, 0 for none, and how many it deleted; None when it does not run."""
    try:
        status, raw = await client.delete(sidecar, CACHE_PATH, body, timeout_s=PURGE_TIMEOUT_S)
        entries = as_object(orjson.loads(raw)).get("purged")
    except ConnectError:
        return None
    except OSError:
        return 0, 0
    except orjson.JSONDecodeError:
        return 404, 0  # an unmodified LiteLLM's page
    return status, entries if isinstance(entries, int) else 0
