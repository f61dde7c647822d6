"""The inference endpoint: authenticates, reads and parses a request, runs the call, sends the response.

Invariants: the credential is checked before the body is read; inference and `/v1/explain` read a request by
the same code; each caller gets exactly one response, and each call is accounted for once (see `pipeline`); a
broken stream ends in one error event and no `[DONE]`; a disconnected caller's call is cancelled.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

import orjson
from starlette.requests import Request

from llm_proxy.background import attempt
from llm_proxy.call_context import CallContext
from llm_proxy.call_guard import GroupTimeouts, TimeoutPolicy
from llm_proxy.dialects import Call
from llm_proxy.dialects.asked_model import asked_model
from llm_proxy.dialects.call import Count
from llm_proxy.dialects.dialect import BodyLimits, CountingDialect
from llm_proxy.dialects.form import form_body
from llm_proxy.dialects.model_paths import decoded_model
from llm_proxy.dialects.request.validators import missing
from llm_proxy.dialects.request_options import History, RequestOptions, parse_request_options
from llm_proxy.dialects.responses.native import require_own
from llm_proxy.dialects.routes import InferenceRoute, RouteTable
from llm_proxy.edge.auth import AuthFailureReporter
from llm_proxy.edge.form import is_json, read_form
from llm_proxy.edge.idempotency import KEY, IdempotentCalls, OwnedCall, ReadRequest
from llm_proxy.edge.live_answer import LiveAnswer
from llm_proxy.edge.replay import replay
from llm_proxy.edge.request import (
    READ_HEADERS,
    ClientDisconnected,
    Headers,
    Receive,
    Scope,
    Send,
    read_body,
    read_headers,
)
from llm_proxy.edge.responder import Responder
from llm_proxy.edge.responses import send_error
from llm_proxy.edge.stored_calls import StoredCalls
from llm_proxy.endpoints import ENDPOINTS, endpoint_paths
from llm_proxy.errors import (
    APIError,
    BadRequest,
    Forbidden,
    InternalError,
    Overloaded,
    ProviderAuthError,
    ProviderQuotaExceeded,
    RateLimited,
    UnsupportedTransferEncoding,
    endpoint_not_served,
    with_request_id,
)
from llm_proxy.identity import Authenticator, Caller, RunSources, attribution_from_headers, on_behalf_of
from llm_proxy.identity.authenticator import read_credential
from llm_proxy.identity.caller import NO_ATTRIBUTION
from llm_proxy.json_access import Json
from llm_proxy.pipeline import ReplayedCall, Services, process_call, reject_early
from llm_proxy.settings import Settings
from llm_proxy.telemetry import uuid7
from llm_proxy.uploads import UploadedFile, UploadSpace
from llm_proxy.upstream import CallGuard, CurrentCatalog, interrupt_error, timeout_policy


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a route accepts: the headers that are read, bytes, seconds, and the bounds of a body."""

    max_header_bytes: int
    run_sources: RunSources
    header_names: frozenset[bytes]
    max_body_bytes: int
    max_upload_bytes: int
    body_timeout_s: float
    deadlines: TimeoutPolicy
    body: BodyLimits
    ping_after_s: float


def request_limits(settings: Settings, stated: GroupTimeouts | None = None) -> RequestLimits:
    """Returns the limits from the settings; `stated` returns the timeouts of the sidecar's file."""
    run_sources = RunSources.from_names(settings.run_sources)
    return RequestLimits(
        max_header_bytes=settings.max_header_bytes,
        run_sources=run_sources,
        header_names=READ_HEADERS | run_sources.headers,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        body_timeout_s=settings.body_timeout_s,
        deadlines=timeout_policy(settings, stated),
        body=BodyLimits(settings.max_json_depth, settings.max_messages, private_urls=settings.private_links),
        ping_after_s=settings.messages_ping_s,
    )


class RequestReader:
    """Authenticates and parses requests."""

    def __init__(
        self, routes: RouteTable, authenticator: Authenticator, limits: RequestLimits, catalog: CurrentCatalog
    ) -> None:
        self.routes = routes
        self.limits = limits
        self._authenticator = authenticator
        self._catalog = catalog

    def read_headers(self, scope: Scope) -> Headers:
        """Returns the headers of a request that are read; raises as `edge.request.read_headers` does."""
        limits = self.limits
        return read_headers(scope, max_bytes=limits.max_header_bytes, names=limits.header_names)

    def authenticate(self, headers: Headers) -> Awaitable[Caller]:
        """Returns the caller of the credential; raises `Unauthorized`, now or when awaited."""
        return self._authenticator.authenticate(headers.derived(read_credential))

    def named_by_headers(self, caller: Caller, headers: Headers) -> Caller:
        """Returns a caller as the headers name it, for the record of a request whose body is not read."""
        with contextlib.suppress(BadRequest, Forbidden):
            run_id = self.limits.run_sources.run_of(headers, NO_ATTRIBUTION)
            return on_behalf_of(caller, attribution_from_headers(headers), NO_ATTRIBUTION, run_id)
        return caller

    def parse(
        self,
        route: InferenceRoute,
        caller: Caller,
        headers: Headers,
        body: bytes,
        history: History | None = None,
        files: tuple[UploadedFile, ...] = (),
    ) -> tuple[Caller, Call]:
        """Returns the caller to admit and bill, and the call, which goes on from `history`.

        Raises `BadRequest`, `ModelNotFound` or `Forbidden`.
        """
        models, limits = self._catalog.models_for(caller), self.limits.body
        if models.served is not None and route.endpoint not in models.served:
            raise endpoint_not_served(endpoint_paths([route.endpoint])[0])
        if caller.max_tokens_cap is not None:
            limits = replace(limits, max_tokens_cap=caller.max_tokens_cap)
        options = headers.derived(_options)
        if history is not None or files:
            options = replace(options, history=history, files=files)
        if route.model is not None:
            options = replace(options, model=decoded_model(route.model), query=route.query)
        call = route.dialect.parse(route.endpoint, body, options, models, limits)
        if options.priority is not None:
            call = call._replace(priority=options.priority)
        run_id = self.limits.run_sources.run_of(headers, call.attribution)
        by_header = headers.derived(attribution_from_headers)
        caller = on_behalf_of(caller, by_header, call.attribution, run_id)
        require_own(call, caller, models)
        return caller, call

    async def read_count(
        self, request: Request, dialect: CountingDialect, model: str | None = None
    ) -> tuple[Caller, Count]:
        """Returns the caller of a request to count tokens, and what to count; raises `APIError`.

        `model` is the name that stands in the path.
        """
        headers = self.read_headers(request.scope)
        caller = await self.authenticate(headers)
        body = await read_body(request.receive, headers, max_bytes=self.limits.max_body_bytes)
        options = replace(_options(headers), model=model)
        return caller, dialect.parse_count(body, options, self._catalog.models_for(caller), self.limits.body)

    async def read_explain_request(
        self, request: Request, of_key: Caller | None = None
    ) -> tuple[Caller, Call]:
        """Returns caller and call of a request to `/v1/explain`; `?path=` names the inference route.

        `of_key` is the caller of the key that an admin named.
        """
        headers = self.read_headers(request.scope)
        caller = of_key or await self.authenticate(headers)
        path, _, query = request.query_params.get("path", "/v1/chat/completions").encode().partition(b"?")
        route = self.routes.find("POST", path, query)
        if route is None or not route.paths:
            raise BadRequest("Invalid 'path': no such route.", param="path", code="invalid_value")
        body = await read_body(request.receive, headers, max_bytes=self.limits.max_body_bytes)
        return self.parse(route, caller, headers, body)

    def describe(self, call: Call) -> Json:
        """Returns the guardrails and the timeouts of a call, for its explanation."""
        deadlines = self.limits.deadlines
        waits = deadlines.for_group(call.group)
        total_s = deadlines.total_s(call.group, call.timeout_s)
        timeouts = {"first_byte_s": waits.first_byte_s, "idle_s": waits.idle_s, "total_s": total_s}
        return self._catalog.describe(call) | {"timeouts": timeouts}


def _options(headers: Headers) -> RequestOptions:
    return parse_request_options(headers.items())


log = logging.getLogger(__name__)

_MAX_ID_BYTES = 200
MIN_UPLOAD_BYTES_PER_S = 32 * 2**10
"""The slowest average rate of an upload; the time that every body gets is added."""


class InferenceEndpoint:
    """Serves every inference route."""

    def __init__(
        self,
        services: Services,
        reader: RequestReader,
        auth_failures: AuthFailureReporter,
        stored: StoredCalls,
        uploads: UploadSpace,
        idempotent: IdempotentCalls | None = None,
    ) -> None:
        """`idempotent`: None where idempotency keys are not read."""
        self._idempotent = idempotent
        self._stored = stored
        self._uploads = uploads
        self._services = services
        self._reader = reader
        self._auth_failures = auth_failures

    async def __call__(self, route: InferenceRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request: authenticates it, then processes it under a guard."""
        context = CallContext(uuid7())
        try:
            headers = self._reader.read_headers(scope)
            context.client_request_id = _client_id(headers.get(b"x-request-id"))
            context.traceparent = headers.get(b"traceparent")
            context.caller = await self._reader.authenticate(headers)
        except Exception as fault:  # noqa: BLE001 -- it is logged there, and answered as an internal error
            error = self._note_error(scope, context, fault)
            self._services.ledger.request_rejected(context, error)
            await send_error(send, error, context, route.dialect)
            return
        calls, limits = self._services.running_calls, self._reader.limits
        guard = calls.open(context, asyncio.get_running_loop().time() + limits.body_timeout_s)
        responder = Responder(context, route.dialect, scope, send)
        try:
            await self._respond(route, context, guard, scope, receive, responder, headers)
        except asyncio.CancelledError:  # a second one, while the error was being sent
            if not guard.was_interrupted():
                raise
        finally:
            attempt("ended-calls", calls.close, guard)
            if responder.owned is not None and self._idempotent is not None:
                await self._idempotent.end(responder.owned, responder.error)

    async def _respond(
        self,
        route: InferenceRoute,
        context: CallContext,
        guard: CallGuard,
        scope: Scope,
        receive: Receive,
        responder: Responder,
        headers: Headers,
    ) -> None:
        """Processes a request; sends the error that ends it, if one does."""
        try:
            await self._process(route, context, guard, scope, receive, responder, headers)
        except ClientDisconnected:
            pass
        except asyncio.CancelledError:
            if not guard.was_interrupted():
                raise
            interrupted = interrupt_error(guard.reason)
            if interrupted is not None:
                await self._fail(responder, context, self._note_error(scope, context, interrupted))
        except Exception as fault:  # noqa: BLE001 -- it is logged there, and answered as an internal error
            await self._fail(responder, context, self._note_error(scope, context, fault))

    async def _process(
        self,
        route: InferenceRoute,
        context: CallContext,
        guard: CallGuard,
        scope: Scope,
        receive: Receive,
        responder: Responder,
        headers: Headers,
    ) -> None:
        caller, limits = context.caller, self._reader.limits
        assert caller is not None  # noqa: S101 -- it was authenticated
        if self._idempotent is None or KEY not in headers:  # a repeated answer takes no request of a limit
            try:
                reject_early(self._services, caller)
            except RateLimited:
                context.caller = self._reader.named_by_headers(caller, headers)
                raise
        target = scope["raw_path"] + b"?" + scope["query_string"] if KEY in headers else b""
        spec = ENDPOINTS[route.endpoint]
        if not spec.files or (spec.linked_files and is_json(headers)):
            body = await read_body(receive, headers, max_bytes=limits.max_body_bytes)
            guard.body_received(receive)
            await self._run(route, context, guard, responder, ReadRequest(target, headers, body))
            return
        self._services.upstream.check_capacity(caller, None)  # so that no upload is read in vain
        with self._uploads.open() as uploads:
            form = await read_form(
                receive,
                headers,
                spec.files,
                uploads,
                max_bytes=limits.max_upload_bytes,
                on_progress=partial(_extend_deadline, guard, guard.idle_deadline),
            )
            guard.body_received(receive)
            request = ReadRequest(target, headers, orjson.dumps(form_body(form)), form.files)
            await self._run(route, context, guard, responder, request)

    async def _run(
        self,
        route: InferenceRoute,
        context: CallContext,
        guard: CallGuard,
        responder: Responder,
        request: ReadRequest,
    ) -> None:
        """Processes a request that was read: parses it, runs the call, sends the response."""
        caller, limits = context.caller, self._reader.limits
        assert caller is not None  # noqa: S101 -- it was authenticated
        try:
            history = await self._stored.history(route, request.body)
            context.caller, call = self._reader.parse(
                route, caller, request.headers, request.body, history, request.files
            )
            _require_files(call, request)
            context.call, responder.keeping = self._stored.begin(call, context.caller)
        except APIError:
            context.find_model = partial(asked_model, route.model, request.body)
            raise
        guard.total_deadline = asyncio.get_running_loop().time() + limits.deadlines.total_s(
            call.group, call.timeout_s
        )
        if self._idempotent is not None and KEY in request.headers and call.operation is None:
            found = await self._idempotent.begin(request, context, guard)
            if not isinstance(found, OwnedCall):
                await self._replay(found, context, guard, responder)
                return
            responder.record(found, self._idempotent)
        admitting = process_call(self._services, context, guard)
        responder.open_stream(admitting, limits.ping_after_s)
        try:
            async with admitting as admitted:
                await responder.send(admitted)
        finally:
            await responder.stop_pings()

    async def _replay(
        self, found: tuple[UUID, LiveAnswer], context: CallContext, guard: CallGuard, responder: Responder
    ) -> None:
        """Sends the answer of the first call with an idempotency key."""
        first, answer = found
        responder.open_renderer()
        async with ReplayedCall(self._services, context, guard, first):
            await replay(answer, responder, context, first)

    def _note_error(self, scope: Scope, context: CallContext, fault: Exception) -> APIError:
        """Returns the error to send for a fault; logs it unless it is the caller's, or our own overload."""
        error = fault if isinstance(fault, APIError) else InternalError()
        if error is not fault:
            fields = {"request_id": context.id_text, "path": scope["path"]}
            log.error("a request failed", exc_info=fault, extra=fields)
        self._auth_failures.report(scope, error)
        is_own = isinstance(error, Overloaded | UnsupportedTransferEncoding)
        if (error.status >= 500 and not is_own) or isinstance(error, ProviderQuotaExceeded):
            _report(context, error)
            error.message = with_request_id(error.message, context.id_text)
        return error.with_traceback(None)  # its frames hold it: no cycle is left to the garbage collector

    async def _fail(self, responder: Responder, context: CallContext, error: APIError) -> None:
        """Sends an error that was noted."""
        if not responder.started:
            self._services.ledger.request_rejected(context, error)
        await responder.send_error(error)


def _require_files(call: Call, request: ReadRequest) -> None:
    """Raises `BadRequest` for a call that needs files and has neither uploads nor links."""
    linked = ENDPOINTS[call.endpoint].linked_files
    if linked and not request.files and linked not in call.body:
        raise missing(linked)


def _extend_deadline(guard: CallGuard, first_deadline: float, size: int) -> None:
    """Gives an upload the time that its bytes take at the slowest rate that is served."""
    guard.idle_deadline = first_deadline + size / MIN_UPLOAD_BYTES_PER_S


def _report(context: CallContext, error: APIError) -> None:
    """Logs why a call failed; ERROR for credentials that a provider rejects, which the operator must mend."""
    fields = {
        "request_id": str(context.request_id),
        "code": error.code,
        "status": error.status,
        "group": context.call.group if context.call else None,
        "provider_message": error.provider_message,
    }
    level = logging.ERROR if isinstance(error, ProviderAuthError) else logging.WARNING
    log.log(level, "a call failed", extra=fields)


def _client_id(value: bytes | None) -> str | None:
    if value is None:
        return None
    return value[:_MAX_ID_BYTES].decode("ascii", "replace")
