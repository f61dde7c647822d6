"""The dialect of `/llm-proxy/generate` and `/llm-proxy/stream`: camelCase names, both ways.

What differs from the internal dialect is here; the list of models is the same.
Invariants: OpenAI's own spelling is accepted too, never both of one field; an error names the field as it was
spelled. Source: docs/dialects/internal_and_generate.md.
"""

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import orjson

from llm_proxy import sse
from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta
from llm_proxy.dialects.internal import InternalDialect, InternalStream, require_one_choice
from llm_proxy.dialects.openai import TokenCounts, parse_completion
from llm_proxy.dialects.request import ParseContext, build_call, invalid, parse_object, wrong_type
from llm_proxy.dialects.request.openai_schema import FIELDS
from llm_proxy.dialects.request.validators import shown_name
from llm_proxy.dialects.request_options import RequestOptions, parse_provider
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError, BadRequest
from llm_proxy.json_access import Json, is_array, is_object


def _to_camel_case(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)


_FIELD_NAMES = {_to_camel_case(name): name for name in FIELDS["chat.completions"]} | {
    "userId": "user",
    "extraBody": "extra_body",
}
_MESSAGE_FIELD_NAMES = {
    _to_camel_case(name): name for name in ("tool_calls", "tool_call_id", "function_call")
}
_FORMAT_FIELD_NAMES = {"jsonSchema": "json_schema"}


@dataclass(frozen=True, slots=True)
class GenerateDialect(InternalDialect):
    """The dialect of `/llm-proxy`; its path, not its body, says whether it streams."""

    name: str = "generate"
    streaming: bool = False

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a body; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse_object(body, limits.max_depth)
        options = _options_with_provider(parsed.pop("provider", None), options)
        spellings: dict[str, str] = {}
        body_fields = _rename_fields(parsed, _FIELD_NAMES, "", spellings)
        streamed = body_fields.get("stream")
        if streamed is not None and streamed is not self.streaming:
            raise invalid("stream", "the path says whether the answer streams.")
        body_fields["stream"] = self.streaming
        messages, response_format = body_fields.get("messages"), body_fields.get("response_format")
        if is_array(messages):
            body_fields["messages"] = [
                _rename_message(message, at, spellings) for at, message in enumerate(messages)
            ]
        if is_object(response_format):
            body_fields["response_format"] = _rename_fields(
                response_format, _FORMAT_FIELD_NAMES, "response_format.", spellings
            )
        context = ParseContext(self.name, endpoint, len(body), model_optional=True, reports_usage=True)
        try:
            return require_one_choice(build_call(body_fields, context, options, models, limits))
        except BadRequest as error:
            raise _restore_spelling(error, spellings) from None

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- this dialect names no model
        """Returns `{content, usage{totalTokens, ...}}`, with `toolCalls` when there are any."""
        completion = parse_completion(reply)
        written: Json = {"content": completion.content}
        if completion.tool_calls:
            written["toolCalls"] = completion.tool_calls
        return orjson.dumps({**written, "usage": _usage(completion.usage)})

    def open_stream(self, call: Call) -> "GenerateStream":  # noqa: ARG002 -- the same for every call
        """Returns the renderer of one stream."""
        return GenerateStream(self.error)

    def error(self, error: APIError, request_id: str = "") -> Json:  # noqa: ARG002 -- in a header
        """Returns NestJS's exception body, with our code and field."""
        return {
            "statusCode": error.status,
            "message": error.message,
            "error": HTTPStatus(error.status).phrase,
            "code": error.code,
            "param": error.param,
        }


@dataclass(slots=True)
class GenerateStream(InternalStream):
    """Renders one stream: `content` chunks, then usage and finish reason."""

    tool_calls_field: str = "toolCalls"

    def end(self, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- this dialect names no model
        """Returns the last event and `[DONE]`."""
        event = {
            "content": "",
            "usage": _usage(self.chunks.usage),
            "finishReason": self.chunks.finish_reason or "stop",
        }
        return sse.encode_event(orjson.dumps(event)) + sse.DONE_EVENT


def _usage(usage: TokenCounts | None) -> Json:
    usage = usage or TokenCounts()
    return {"totalTokens": usage.total, "promptTokens": usage.prompt, "completionTokens": usage.completion}


def _options_with_provider(provider: Any, options: RequestOptions) -> RequestOptions:  # noqa: ANN401 -- unchecked JSON
    if provider is None:
        return options
    if type(provider) is not str:
        raise wrong_type("provider", "a string", provider)
    chosen = parse_provider(provider.encode(), "provider")
    if options.provider not in {None, chosen}:
        raise invalid("provider", "another provider than the X-Provider header's.")
    return replace(options, provider=chosen)


def _rename_message(message: Any, at: int, spellings: dict[str, str]) -> Any:  # noqa: ANN401 -- unchecked JSON
    return (
        _rename_fields(message, _MESSAGE_FIELD_NAMES, f"messages[{at}].", spellings)
        if is_object(message)
        else message
    )


def _rename_fields(document: Json, names: dict[str, str], path: str, spellings: dict[str, str]) -> Json:
    """Returns the object in OpenAI's spelling; adds the original spelling of each path to `spellings`."""
    renamed: Json = {}
    for name, value in document.items():
        snake_case = names.get(name, name)
        if snake_case in renamed:
            raise invalid(f"{path}{shown_name(name)}", "given in two spellings.")
        renamed[snake_case] = value
        if snake_case != name:
            spellings[path + snake_case] = path + name
    return renamed


def _restore_spelling(error: BadRequest, spellings: dict[str, str]) -> BadRequest:
    """Returns the error in the caller's spelling: inner names are restored before the outer ones."""
    original = param = error.param or ""
    for snake_case in sorted(spellings, key=len, reverse=True):
        if original == snake_case or original.startswith((snake_case + ".", snake_case + "[")):
            original = spellings[snake_case] + original[len(snake_case) :]
    if original == param:
        return error
    return BadRequest(error.message.replace(f"'{param}'", f"'{original}'"), param=original, code=error.code)


GENERATE = GenerateDialect()
GENERATE_STREAM = GenerateDialect(streaming=True)
