"""Calls that LiteLLM would send unchanged reach the provider without LiteLLM's code around the request.

LiteLLM chooses the deployment of each call (`direct_choice`). The first call of a form goes LiteLLM's way,
and its request becomes a template (`direct_templates`). Invariants: only a good answer is sent from here, as
LiteLLM would (`direct_answers`); anything else becomes the answer to LiteLLM's own request, so that retries,
fallbacks, cooldowns and errors are LiteLLM's.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

from llm_proxy.endpoints import ENDPOINTS, NATIVE_ENDPOINTS, Endpoint
from llm_proxy.json_access import Json
from llm_proxy.sidecar import (
    direct_answers,
    direct_choice,
    direct_internals,
    litellm_internals,
    native_answers,
)
from llm_proxy.sidecar.call_outcome import CallOutcome, DirectAttempt, outcome_in_context
from llm_proxy.sidecar.direct_answers import GoodAnswer
from llm_proxy.sidecar.direct_requests import ProviderAnswer, RequestTemplate, as_answer, learn_request
from llm_proxy.sidecar.direct_streams import DirectStream
from llm_proxy.sidecar.direct_templates import (
    CONTENT_FIELDS,
    MAX_CALL_ID_CHARS,
    REQUEST_HEADERS,
    DirectCall,
    may_serve,
    read_call,
)
from llm_proxy.sidecar.disconnects import unless_disconnected
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.native_streams import DirectNativeStream
from llm_proxy.sidecar.patches.patch import installed
from llm_proxy.sidecar.responses import (
    CALL_ID_HEADER,
    App,
    Message,
    Receive,
    ReceiveAgain,
    Scope,
    Send,
    read_body,
    request_header,
    send_result,
)

READERS: dict[Endpoint, Callable[..., GoodAnswer | None]] = {
    "chat.completions": direct_answers.read_answer,
    "embeddings": direct_answers.read_vectors,
    "responses": native_answers.read_response,
    "messages": native_answers.read_message,
}
MAX_TEMPLATES = 4096
MAX_TEMPLATE_BYTES = 16 * 2**20
"""Of all templates, as JSON: tools, schemas and predictions of which each call may have its own."""
USER_OF_LITELLM = "llm-proxy"
"""The key's name of every call (`litellm_internals.gateway_user`): LiteLLM's pins hold it."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A call as the gateway sent it, its body read."""

    scope: Scope
    raw: bytes
    receive: Receive
    send: Send
    call_id: str

    def receive_again(self) -> Receive:
        """Return a `receive` that returns the body first."""
        return ReceiveAgain(self.raw, self.receive)


@dataclass(frozen=True, slots=True)
class _DirectGroup:
    """How calls of a model group are made.

    Attributes:
        may_serve: Whether they may be direct.
        is_plain: Whether nothing but cooldowns and the strategy decides which deployment serves one.
    """

    may_serve: bool
    is_plain: bool


@dataclass(slots=True)
class DirectCalls:
    """Sends calls to providers directly.

    Attributes:
        endpoints: The operations whose calls may be direct.
        templates: What LiteLLM sent, by group, deployment and form; None where it may not be repeated.
        sent: The number of calls that were answered from here.
        size_bytes: What the templates' fields take.
    """

    endpoints: frozenset[Endpoint]
    templates: OrderedDict[Hashable, RequestTemplate | None] = field(
        default_factory=OrderedDict[Hashable, RequestTemplate | None]
    )
    sent: int = 0
    size_bytes: int = 0
    _groups: dict[str, _DirectGroup] = field(default_factory=dict[str, _DirectGroup])

    async def respond(
        self,
        endpoint: Endpoint,
        forward: App,
        outcome: CallOutcome,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Respond to a call, by itself or LiteLLM's way.

        Args:
            endpoint: The operation, one of `CONTENT_FIELDS`.
            forward: Runs the call in LiteLLM.
            outcome: The call's record.
            scope: The request's ASGI scope.
            receive: The request's ASGI receive.
            send: The request's ASGI send.
        """
        began = perf_counter()
        raw = await read_body(receive)
        if raw is None:
            return
        request = _Request(scope, raw, receive, send, request_header(scope, CALL_ID_HEADER))
        call = self._read(endpoint, request, outcome)
        direct = await self._choose(call, outcome) if call is not None else None
        if call is None or direct is None:
            await forward(scope, request.receive_again(), send)
            return
        outcome.endpoint = endpoint
        key = (call.group, direct.deployment["model_info"]["id"], call.form)
        template = self.templates.get(key)
        if template is not None:
            self.templates.move_to_end(key)
            if call.streams:
                make = DirectNativeStream if endpoint in NATIVE_ENDPOINTS else DirectStream
                stream = make(template, call, outcome, began)
                await self._pass(stream, direct, outcome, forward, request)
                return
            answer = await self._answer(template, call, outcome, direct, receive)
            if answer is not None:
                self.sent += 1
                overhead_s = perf_counter() - began - answer.provider_s
                head = answer.head(request.call_id, overhead_s)
                await send_result(answer.body(), head, outcome, scope, receive, send)
                answer.log(request.call_id, outcome)
                return
        outcome.attempts.clear()
        await self._learn(key, call, direct, outcome, forward, request)

    async def _learn(
        self,
        key: Hashable,
        call: DirectCall,
        direct: DirectAttempt,
        outcome: CallOutcome,
        forward: App,
        request: _Request,
    ) -> None:
        """Let LiteLLM respond, and keep the template of its request."""
        learning = _Head(request.send)
        await forward(request.scope, request.receive_again(), learning)
        if key not in self.templates and learning.status == 200 and len(outcome.attempts) == 1:
            self.keep(key, learn_request(direct, call, CONTENT_FIELDS[call.endpoint], learning.headers))

    async def _pass(
        self,
        stream: DirectStream,
        direct: DirectAttempt,
        outcome: CallOutcome,
        forward: App,
        request: _Request,
    ) -> None:
        """Pass a stream on, or let LiteLLM do it from where it is."""
        try:
            with outcome_in_context(outcome):
                await self._note_sent(outcome, direct)
                done = await stream.respond(request.call_id, request.receive, request.send)
            if done:
                self.sent += 1
                return
            stream.hand_over(direct)
            outcome.attempts.clear()
            receive, send = stream.receive_later(request.receive_again()), stream.send_rest(request.send)
            await forward(request.scope, receive, send)
        finally:
            await stream.close()

    def keep(self, key: Hashable, template: RequestTemplate | None) -> None:
        """Keep a template; those that were not used for longest are dropped for it."""
        self.templates[key] = template
        self.size_bytes += _size_bytes(template)
        while len(self.templates) > MAX_TEMPLATES or self.size_bytes > MAX_TEMPLATE_BYTES:
            _, given_up = self.templates.popitem(last=False)
            self.size_bytes -= _size_bytes(given_up)

    def _read(self, endpoint: Endpoint, request: _Request, outcome: CallOutcome) -> DirectCall | None:
        if not all(name in REQUEST_HEADERS for name, _ in request.scope["headers"]):
            return None
        if len(request.call_id) > MAX_CALL_ID_CHARS:
            return None
        call = read_call(endpoint, request.raw, outcome.optional_fields, request.scope["headers"])
        if call is None or not self._group(call.group).may_serve:
            return None
        is_chat = endpoint not in NATIVE_ENDPOINTS
        if call.streams and is_chat and "frames" not in installed:
            return None
        may_be_cached = ENDPOINTS[endpoint].litellm_call_type in direct_internals.cached_call_types()
        return None if may_be_cached and not call.without_cache else call

    def _group(self, name: str) -> _DirectGroup:
        """Return how a group's calls are made: direct only if every deployment's may be; an alias's never."""
        found = self._groups.get(name)
        if found is None:
            router = litellm_internals.router()
            named = [one for one in router.model_list if one["model_name"] == name]
            deployments = named or direct_internals.wildcard_deployments(name)
            is_alias = name in direct_internals.names_of_aliases()
            may = bool(deployments) and not is_alias and all(map(may_serve, deployments))
            is_id = not named and any(one["model_info"]["id"] == name for one in router.model_list)
            is_plain = may and not is_id and direct_choice.is_plain_group(deployments, router)
            found = _DirectGroup(may, is_plain)
            if len(self._groups) < MAX_TEMPLATES:
                self._groups[name] = found
        return found

    async def _choose(self, call: DirectCall, outcome: CallOutcome) -> DirectAttempt | None:
        """Let LiteLLM's router choose the deployment; return None if it has none."""
        chosen: Untyped = None
        with outcome_in_context(outcome):
            try:
                if self._group(call.group).is_plain:
                    chosen = await direct_choice.choose(call.group, outcome)
                if chosen is None:
                    metadata = {"user_api_key_hash": USER_OF_LITELLM, "model_group": call.group}
                    options: Json = {**call.parameters, "metadata": metadata}
                    field = CONTENT_FIELDS[call.endpoint]
                    chosen = await direct_internals.choose_deployment(
                        call.group, field, call.content, options
                    )
            except Exception:  # noqa: BLE001 -- LiteLLM raises it again, and answers with it
                return None
        if not outcome.attempts:
            return None  # `attempts` is not installed
        outcome.direct = DirectAttempt(deployment=chosen, attempt=outcome.attempts[-1])
        return outcome.direct

    async def _note_sent(self, outcome: CallOutcome, direct: DirectAttempt) -> None:
        """Do what LiteLLM does before it sends a request."""
        if outcome.affinity:
            await direct_internals.claim_affinity(direct.deployment, USER_OF_LITELLM)
        outcome.attempts[-1].sent = True

    async def _answer(
        self,
        template: RequestTemplate,
        call: DirectCall,
        outcome: CallOutcome,
        direct: DirectAttempt,
        receive: Receive,
    ) -> GoodAnswer | None:
        """Return a good answer; None after the answer to LiteLLM's own request is set."""
        with outcome_in_context(outcome):
            await self._note_sent(outcome, direct)
            answer = await unless_disconnected(template.send(template.body.fill(call)), receive)
            if isinstance(answer, ProviderAnswer) and answer.status == 200:
                found: GoodAnswer | None = None
                with suppress(Exception):  # LiteLLM's own code gets the same answer, and does the same again
                    found = READERS[call.endpoint](answer, template, call, outcome)
                if found is not None:
                    return found
        direct.answer = as_answer(answer)
        return None


def _size_bytes(template: RequestTemplate | None) -> int:
    return template.body.size_bytes if template is not None else 0


class _Head:
    """Wraps `send` of one response; keeps its status and headers."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, message: Message) -> None:
        """Send the message."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        await self._send(message)
