"""The dialect of `/v1/responses`: native where a group's providers speak it, else translated into chats.

Invariants: both ways a body passes the same checks; a translated call keeps in `Call.context` what its answer
needs; errors have OpenAI's envelope, and name the caller's fields. Source: docs/responses.md.
"""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import orjson

from llm_proxy.dialects.call import Call, Count
from llm_proxy.dialects.dialect import (
    BodyLimits,
    HeaderPairs,
    ListedModel,
    ModelIndex,
    ResponseMeta,
    StreamRenderer,
)
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request import ParseContext, build_call, parse_object
from llm_proxy.dialects.request.native_call import build_native_call, resolve_group
from llm_proxy.dialects.request.url_guard import INVALID_URL, reject_private_urls
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.dialects.response_ids import PREVIOUS, ResponseIds
from llm_proxy.dialects.responses.answer import ResponseBuilder, render_answer
from llm_proxy.dialects.responses.native import native_response, open_items
from llm_proxy.dialects.responses.reasoning import ReasoningSeal
from llm_proxy.dialects.responses.request import (
    ResponseContext,
    countable_chat,
    echo,
    in_the_callers_terms,
    refuse_uncountable,
    translate,
)
from llm_proxy.dialects.responses.schema import check_body
from llm_proxy.dialects.responses.stream import NativeStream, TranslatedStream
from llm_proxy.dialects.translation.carried import NOT_FOR_OPENAI, Carried, carried_for
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError, BadRequest
from llm_proxy.json_access import Json
from llm_proxy.sealing import Sealer

OPTIONAL_FIELDS = ("reasoning_effort", "verbosity", *NOT_FOR_OPENAI)
"""Left out where a model is known not to have them: clients set them by a model's name."""
_TOKEN_BYTES = 24


@dataclass(frozen=True, slots=True)
class ResponsesDialect:
    """OpenAI's Responses.

    Attributes:
        seal: Seals a model's reasoning for its caller to keep; None without a key.
        ids: Opens the ids of stored responses.
    """

    seal: ReasoningSeal | None = None
    ids: ResponseIds = field(default_factory=partial(ResponseIds, None))
    name: str = "responses"

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a body, native or translated; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse_object(body, limits.max_depth)
        checked = check_body(parsed, limits.max_messages)
        context = ParseContext(self.name, endpoint, len(body), reports_usage=True)
        model, group = resolve_group(checked, context, options, models)
        if models.speaks_natively(models.resolved(group), endpoint):
            return native_response(checked, context, options, models, limits, self.ids)
        return self._translated(
            checked | {"model": model}, carried_for(group, models), context, options, models, limits
        )

    def parse_count(
        self, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Count:
        """Returns what `input_tokens` counts: the chat of a body, or a native body's as far as it is one."""
        parsed = parse_object(body, limits.max_depth)
        checked = check_body(parsed, limits.max_messages)
        context = ParseContext(self.name, "responses", len(body))
        model, group = resolve_group(checked, context, options, models)
        if models.speaks_natively(models.resolved(group), "responses"):
            checked, _, pinned = open_items(checked, self.ids)
            refuse_uncountable(checked, refers=pinned is not None)
            build_native_call(checked, context, options, models, limits)
            chat = {**countable_chat(checked, self.seal), "responses": checked}
        else:
            carried = carried_for(group, models)
            call = self._translated(checked | {"model": model}, carried, context, options, models, limits)
            chat = call.body
        asked: Json = {name: chat[name] for name in ("messages", "tools", "responses") if name in chat}
        return Count({"model": group, **asked}, len(body))

    def _translated(
        self,
        checked: Json,
        carried: Carried,
        context: ParseContext,
        options: RequestOptions,
        models: ModelIndex,
        limits: BodyLimits,
    ) -> Call:
        own, history = checked, options.history
        if history is not None:
            checked = {**own, "input": [*history.items, *input_items(own.get("input", []))]}
            del checked[PREVIOUS]
        translated = translate(checked, carried, self.seal)
        chat = context._replace(endpoint="chat.completions")
        try:
            call = build_call(translated.body, chat, options, models, limits)
        except BadRequest as error:
            if error.code == INVALID_URL:
                reject_private_urls(own)  # its path is the caller's
            param, message = in_the_callers_terms(error)
            raise BadRequest(message, param=param, code=error.code) from None
        echoed = echo(checked, translated.tools)
        echoed["model"] = call.model
        echoed[PREVIOUS] = history.ref.token if history is not None else None
        kept = ResponseContext(
            token=secrets.token_hex(_TOKEN_BYTES),
            created_at=int(time.time()),
            echo=echoed,
            callers=translated.tools.callers,
            is_signed=carried.thinking_blocks,
            items=tuple(input_items(checked["input"])),
            history=history,
            wants_store=own.get("store") is not False,
        )
        return call._replace(context=kept, optional_fields=OPTIONAL_FIELDS)

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:
        """Returns the response; a native one unchanged."""
        if not isinstance(call.context, ResponseContext):
            return reply
        return orjson.dumps(render_answer(call.context, self.seal, reply, meta.latency_ms))

    def open_stream(self, call: Call) -> StreamRenderer:
        """Returns the renderer of one stream."""
        if not isinstance(call.context, ResponseContext):
            return NativeStream()
        return TranslatedStream(ResponseBuilder(call.context, self.seal))

    def error(self, error: APIError, request_id: str = "") -> Json:  # noqa: ARG002 -- in a header
        """OpenAI's envelope, with the field at fault as Responses name it."""
        param, message = in_the_callers_terms(error)
        fields = {"message": message, "type": error.error_type, "param": param, "code": error.code}
        return {"error": fields}

    def status(self, error: APIError) -> int:
        """The error's own."""
        return error.status

    def headers(self, request_id: str, error: APIError | None = None) -> HeaderPairs:
        """None beside those of OpenAI's chats."""
        return OPENAI.headers(request_id, error)

    def render_models(self, listed: Iterable[ListedModel]) -> Json:
        """The list object of `GET /v1/models`."""
        return OPENAI.render_models(listed)


def input_items(given: str | list[Json]) -> list[Json]:
    """Returns the items of an input; a text is a user's message."""
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


def responses_dialect(sealer: Sealer | None) -> ResponsesDialect:
    """Returns the dialect of a gateway that has these keys to seal with."""
    return ResponsesDialect(ReasoningSeal(sealer) if sealer is not None else None, ResponseIds(sealer))
