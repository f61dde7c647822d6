"""The dialect of `:generateContent` and `:streamGenerateContent`: native at Google, else translated.

Invariants: the path names the model and says whether the answer streams; a native body and its answer pass
as they are. Source: docs/gemini.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qs

import orjson

from llm_proxy.dialects.call import Call, Count
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta, StreamRenderer
from llm_proxy.dialects.gemini.answer import render_answer
from llm_proxy.dialects.gemini.envelope import GeminiEnvelope
from llm_proxy.dialects.gemini.fields import invalid, named
from llm_proxy.dialects.gemini.native import counted_contents, native_call
from llm_proxy.dialects.gemini.request import USUAL, GeminiContext, translate_request
from llm_proxy.dialects.gemini.schema import read_body
from llm_proxy.dialects.gemini.stream import GeminiStream, NativeGeminiStream
from llm_proxy.dialects.request import ParseContext, build_call, parse_object
from llm_proxy.dialects.request.native_call import resolve_group
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.dialects.translation.carried import NOT_FOR_OPENAI, carried_for
from llm_proxy.endpoints import Endpoint
from llm_proxy.identity import NO_ATTRIBUTION
from llm_proxy.json_access import Json

OPTIONAL_FIELDS = ("max_tokens", "reasoning_effort", "thinking", *NOT_FOR_OPENAI)
"""Left out where a model is known not to have them: the answer differs little without them."""
JSON_STREAM = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class GeminiDialect(GeminiEnvelope):
    """Google's dialect.

    Attributes:
        streams: It is the dialect of `:streamGenerateContent`.
    """

    streams: bool = False

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a body; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse_object(body, limits.max_depth)
        context = ParseContext(self.name, endpoint, len(body), reports_usage=True)
        is_array = self.streams and not wants_events(options.query)
        model, group = resolve_group({}, context, options, models)
        if models.speaks_natively(models.resolved(group), endpoint):
            return self._framed(native_call(parsed, context, options, models, limits), is_array=is_array)
        read = read_body(parsed, limits)
        carried = carried_for(group, models)
        chat, kept = translate_request(read, carried)
        if (most := models.max_output_tokens(models.resolved(group))) is not None:
            chat |= {"max_tokens": min(chat["max_tokens"], most)} if "max_tokens" in chat else {}
        chat |= {"model": model, "stream": self.streams}
        call = build_call(
            chat, context._replace(endpoint="chat.completions"), options, models, limits, NO_ATTRIBUTION
        )
        call = call._replace(context=kept, optional_fields=(*OPTIONAL_FIELDS, *_client_defaults(chat)))
        return self._framed(call, is_array=is_array)

    def _framed(self, call: Call, *, is_array: bool) -> Call:
        """The call, which says how its answer streams."""
        if not self.streams:
            return call
        context = replace(_context(call), is_array=is_array)
        stream_type = JSON_STREAM if is_array else call.stream_type
        body = call.body | {"stream": True}
        return call._replace(
            body=body, streaming=True, wants_usage=True, context=context, stream_type=stream_type
        )

    def parse_count(
        self, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Count:
        """Returns what `countTokens` counts; raises `BadRequest` or `ModelNotFound`."""
        context = ParseContext(self.name, "generate_content", len(body))
        counted_body = named(parse_object(body, limits.max_depth), "")
        whole = counted_body.get("generateContentRequest")
        if whole is not None and counted_body.get("contents") is not None:
            raise invalid("contents", "given beside 'generateContentRequest'.")
        counted_body = counted_body if whole is None else named(whole, "generateContentRequest")
        group = resolve_group({}, context, options, models)[1]
        if models.speaks_natively(models.resolved(group), "generate_content"):
            call = native_call(counted_body, context, options, models, limits)
            return Count({"model": group, "google": counted_contents(call.body)}, len(body))
        chat, _ = translate_request(read_body(counted_body, limits), carried_for(group, models))
        counted: Json = {name: chat[name] for name in ("messages", "tools") if name in chat}
        return Count({"model": group, **counted}, len(body))

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- headers name the provider
        """Returns Google's response; raises `ProviderFailed` when the answer is none."""
        context = _context(call)
        return reply if context.is_native else orjson.dumps(render_answer(reply, call.model, context))

    def open_stream(self, call: Call) -> StreamRenderer:
        """Returns the renderer of one stream."""
        context = _context(call)
        return NativeGeminiStream(context) if context.is_native else GeminiStream(call.model, context)


def wants_events(query: str) -> bool:
    """Whether a query asks for events; raises `BadRequest` for another form than Google's two."""
    stated = parse_qs(query, keep_blank_values=True)
    forms = stated.get("alt") or stated.get("$alt") or ["json"]
    if forms[-1] not in {"json", "sse"}:
        raise invalid("alt", "expected 'sse' or 'json'.")
    return forms[-1] == "sse"


def _client_defaults(chat: Mapping[str, object]) -> list[str]:
    """Fields with what Google's clients send by default."""
    return [name for name, value in USUAL.items() if chat.get(name) == value]


def _context(call: Call) -> GeminiContext:
    return call.context if isinstance(call.context, GeminiContext) else GeminiContext()


GENERATE_CONTENT = GeminiDialect()
STREAM_GENERATE_CONTENT = GeminiDialect(streams=True)
