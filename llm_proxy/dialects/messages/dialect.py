"""The dialect of `/v1/messages`: native where each deployment speaks Anthropic's protocol, else translated.

Invariants: the checks are the same for both; a native body and its answer pass as they are, and so does what
`count_tokens` counts. Source: docs/messages.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from llm_proxy.dialects.call import BYTES_PER_TOKEN, Call, Count
from llm_proxy.dialects.dialect import BodyLimits, ListedModel, ModelIndex, ResponseMeta, StreamRenderer
from llm_proxy.dialects.messages.answer import render_answer
from llm_proxy.dialects.messages.attribution import attribution_of
from llm_proxy.dialects.messages.betas import allowed_betas
from llm_proxy.dialects.messages.checks import check_field, filled
from llm_proxy.dialects.messages.error_body import error_event, error_status, is_final, render_error
from llm_proxy.dialects.messages.models import model_page
from llm_proxy.dialects.messages.request import MessagesContext, translate_request
from llm_proxy.dialects.messages.schema import SAMPLING, VERSIONS, check_body, check_version
from llm_proxy.dialects.messages.stream import PING, MessagesStream
from llm_proxy.dialects.request import ParseContext, build_call, parse_object
from llm_proxy.dialects.request.native_call import build_native_call, resolve_group
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.dialects.translation.carried import NOT_FOR_OPENAI, carried_for
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json, as_object

OPTIONAL_FIELDS = ("max_tokens", "reasoning_effort", "thinking", "user", *NOT_FOR_OPENAI)
"""Left out where a model is known not to have them: the answer differs little without them."""


_NATIVE = MessagesContext(native=True)


@dataclass(frozen=True, slots=True)
class MessagesDialect:
    """Anthropic's dialect.

    Attributes:
        betas: Words of `anthropic-beta` that an operator allows beside the published ones.
    """

    name: str = "messages"
    betas: frozenset[str] = frozenset()

    def parse_count(
        self, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Count:
        """Returns what `count_tokens` counts; raises `BadRequest` or `ModelNotFound`."""
        context = ParseContext(self.name, "messages", len(body))
        parsed, extra, group, is_native = _read(body, context, options, models, limits, counts=True)
        if is_native:
            build_native_call(parsed, context, options, models, limits)
            asked = {name: parsed[name] for name in ("messages", "system", "tools") if parsed.get(name)}
            return Count({"model": group, "native": True, **asked}, len(body))
        chat, _ = translate_request(parsed, extra, carried_for(group, models))
        asked = {name: chat[name] for name in ("messages", "tools") if name in chat}
        return Count({"model": group, **asked}, len(body))

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a body; raises `BadRequest` or `ModelNotFound`."""
        context = ParseContext(self.name, endpoint, len(body), reports_usage=True)
        parsed, extra, group, is_native = _read(body, context, options, models, limits)
        attribution = attribution_of(as_object(parsed.get("metadata")))
        if is_native:
            call = build_native_call(parsed, context, options, models, limits, attribution)
            return call._replace(context=_NATIVE, provider_headers=self._provider_headers(options))
        carried = carried_for(group, models)
        chat, kept = translate_request(parsed, extra, carried)
        if (most := models.max_output_tokens(models.resolved(group))) is not None:
            chat["max_tokens"] = min(chat["max_tokens"], most)
        context = context._replace(endpoint="chat.completions")
        call = build_call(chat, context, options, models, limits, attribution)
        kept = kept._replace(input_tokens=-(-call.prompt_bytes // BYTES_PER_TOKEN))
        return call._replace(context=kept, optional_fields=OPTIONAL_FIELDS)

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- headers name the provider
        """Returns Anthropic's message; raises `ProviderFailed` when the answer is none."""
        context = _context(call)
        return reply if context.native else orjson.dumps(render_answer(reply, call.model, context))

    def open_stream(self, call: Call) -> StreamRenderer:
        """Returns the renderer of one stream."""
        context = _context(call)
        return NativeMessagesStream() if context.native else MessagesStream(call.model, context)

    def error(self, error: APIError, request_id: str = "") -> Json:
        """Anthropic's envelope."""
        return render_error(error, request_id)

    def status(self, error: APIError) -> int:
        """The error's own; 529 for an overload, by which clients know one."""
        return error_status(error)

    def headers(self, request_id: str, error: APIError | None = None) -> tuple[tuple[str, str], ...]:
        """Returns `request-id`, and `x-should-retry: false` with an error that repeating cannot mend."""
        own = ("request-id", request_id)
        if error is None or error.retryable is not None or not is_final(error):
            return (own,)
        return own, ("x-should-retry", "false")

    def render_models(self, listed: Iterable[ListedModel]) -> Json:
        """Anthropic's first page of models."""
        return model_page(list(listed), {})

    def _provider_headers(self, options: RequestOptions) -> tuple[tuple[str, str], ...]:
        betas = allowed_betas(options.anthropic_betas, self.betas)
        sent = ("anthropic-version", check_version(options.anthropic_version))
        return (sent, ("anthropic-beta", ",".join(betas))) if betas else (sent,)


MESSAGES = MessagesDialect()


class NativeMessagesStream:
    """A provider's own events, which pass as they are."""

    __slots__ = ()

    def feed(self, chunk: bytes) -> bytes:
        """The frames."""
        return chunk

    def end(self, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- the provider ended it
        """Nothing: the provider's last event was the end."""
        return b""

    def fail(self, error: APIError) -> bytes:
        """The event that ends a stream that failed."""
        return error_event(error)

    def ping(self) -> bytes:
        """The event for a caller who waits."""
        return PING


class _Body(NamedTuple):
    """A checked body: its fields, those not published, its group, and whether that speaks this API."""

    parsed: Json
    extra: Json
    group: str
    is_native: bool


def _read(
    body: bytes,
    context: ParseContext,
    options: RequestOptions,
    models: ModelIndex,
    limits: BodyLimits,
    *,
    counts: bool = False,
) -> _Body:
    parsed = parse_object(body, limits.max_depth)
    version = check_version(options.anthropic_version)
    if parsed.get("model") is not None:
        check_field(filled, parsed["model"], "model")
    group = resolve_group(parsed, context, options, models)[1]
    is_native = models.speaks_natively(models.resolved(group), context.endpoint)
    extra = check_body(parsed, version, limits, counts=counts, is_native=is_native)
    if version != VERSIONS[0]:
        parsed = {name: value for name, value in parsed.items() if name not in SAMPLING}
    return _Body(parsed, extra, group, is_native)


def _context(call: Call) -> MessagesContext:
    return call.context if isinstance(call.context, MessagesContext) else MessagesContext()
