"""The old camelCase vocabulary of `/llm-proxy/generate` and `/llm-proxy/stream`, both ways.

Invariants: OpenAI's own spelling is understood too, never both of one field; a refusal names the field as
it was spelled. Source: docs/dialects.md, "generate".
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import orjson

from llm_proxy import sse
from llm_proxy.dialects.call import Call
from llm_proxy.dialects.dialect import BodyLimits, ListedModel, ModelIndex, RequestOptions, ResponseMeta
from llm_proxy.dialects.internal import INTERNAL, chunk_event, require_one_choice
from llm_proxy.dialects.openai import ChunkReader, TokenCounts, parse_completion
from llm_proxy.dialects.request.build_call import ParseContext, build_call
from llm_proxy.dialects.request.openai_schema import FIELDS
from llm_proxy.dialects.request.strict_json import parse_object
from llm_proxy.dialects.request.validators import invalid, shown_name, wrong_type
from llm_proxy.dialects.request_options import parse_provider
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError, BadRequest
from llm_proxy.json_access import Json, is_array, is_object


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)


_NAMES = {_camel(name): name for name in FIELDS["chat.completions"]} | {
    "userId": "user",
    "extraBody": "extra_body",
}
_IN_MESSAGES = {_camel(name): name for name in ("tool_calls", "tool_call_id", "function_call")}
_IN_FORMAT = {"jsonSchema": "json_schema"}


@dataclass(frozen=True, slots=True)
class GenerateDialect:
    """The dialect of `/llm-proxy`; its path, not its body, says whether it streams."""

    streaming: bool = False
    name: str = "generate"

    def parse(
        self, door: Endpoint, body: bytes, hints: RequestOptions, models: ModelIndex, bounds: BodyLimits
    ) -> Call:
        """The call a body asks for; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse_object(body, bounds.max_depth)
        hints = _pick_provider(parsed.pop("provider", None), hints)
        spelled: dict[str, str] = {}
        asked = _renamed(parsed, _NAMES, "", spelled)
        streamed = asked.get("stream")
        if streamed is not None and streamed is not self.streaming:
            raise invalid("stream", "the path says whether the answer streams.")
        asked["stream"] = self.streaming
        messages, wanted = asked.get("messages"), asked.get("response_format")
        if is_array(messages):
            asked["messages"] = [_message(message, at, spelled) for at, message in enumerate(messages)]
        if is_object(wanted):
            asked["response_format"] = _renamed(wanted, _IN_FORMAT, "response_format.", spelled)
        came = ParseContext(self.name, door, len(body), model_optional=True, reports_usage=True)
        try:
            return require_one_choice(build_call(asked, came, hints, models, bounds))
        except BadRequest as wrong:
            raise _as_spelled(wrong, spelled) from None

    def render(self, reply: bytes, answered: ResponseMeta) -> bytes:  # noqa: ARG002 -- this dialect does not tell who
        """`{content, usage{totalTokens, ...}}`; `toolCalls` when there are any."""
        answer = parse_completion(reply)
        written: Json = {"content": answer.content}
        if answer.tool_calls:
            written["toolCalls"] = answer.tool_calls
        return orjson.dumps({**written, "usage": _usage(answer.usage)})

    def open_stream(self, call: Call) -> "GenerateStream":  # noqa: ARG002 -- the same for every call
        """A writer for one stream."""
        return GenerateStream()

    def error(self, refused: APIError) -> Json:
        """NestJS's exception body, with our code and field."""
        return {
            "statusCode": refused.status,
            "message": refused.message,
            "error": HTTPStatus(refused.status).phrase,
            "code": refused.code,
            "param": refused.param,
        }

    def stream_error(self, refused: APIError) -> bytes:
        """One event with the same object."""
        return sse.encode_event(orjson.dumps(self.error(refused)))

    def render_models(self, offers: Iterable[ListedModel]) -> Json:
        """The internal proxy's list: this vocabulary never had one of its own."""
        return INTERNAL.render_models(offers)


@dataclass(slots=True)
class GenerateStream:
    """One stream: `content` pieces, then usage and why it ended."""

    chunks: ChunkReader = field(default_factory=ChunkReader)

    def feed(self, chunk: bytes) -> bytes:
        """OpenAI's frames in, ours out."""
        return b"".join(chunk_event(piece, "toolCalls") for piece in self.chunks.feed(chunk))

    def end(self, answered: ResponseMeta) -> bytes:  # noqa: ARG002 -- this dialect does not tell who
        """The last event and the end mark."""
        last = {
            "content": "",
            "usage": _usage(self.chunks.usage),
            "finishReason": self.chunks.finish_reason or "stop",
        }
        return sse.encode_event(orjson.dumps(last)) + sse.DONE_EVENT


def _usage(usage: TokenCounts | None) -> Json:
    usage = usage or TokenCounts()
    return {"totalTokens": usage.total, "promptTokens": usage.prompt, "completionTokens": usage.completion}


def _pick_provider(provider: Any, hints: RequestOptions) -> RequestOptions:  # noqa: ANN401 -- unchecked JSON
    if provider is None:
        return hints
    if type(provider) is not str:
        raise wrong_type("provider", "a string", provider)
    picked = parse_provider(provider.encode(), "provider")
    if hints.provider not in {None, picked}:
        raise invalid("provider", "another provider than the X-Provider header's.")
    return replace(hints, provider=picked)


def _message(message: Any, at: int, spelled: dict[str, str]) -> Any:  # noqa: ANN401 -- unchecked JSON
    return _renamed(message, _IN_MESSAGES, f"messages[{at}].", spelled) if is_object(message) else message


def _renamed(given: Json, names: dict[str, str], path: str, spelled: dict[str, str]) -> Json:
    """The object in OpenAI's spelling; how each place was spelled is noted."""
    renamed: Json = {}
    for name, value in given.items():
        plain = names.get(name, name)
        if plain in renamed:
            raise invalid(f"{path}{shown_name(name)}", "given in two spellings.")
        renamed[plain] = value
        if plain != name:
            spelled[path + plain] = path + name
    return renamed


def _as_spelled(wrong: BadRequest, spelled: dict[str, str]) -> BadRequest:
    """The refusal in the caller's words: inner names are turned back before the outer ones."""
    theirs = param = wrong.param or ""
    for plain in sorted(spelled, key=len, reverse=True):
        if theirs == plain or theirs.startswith((plain + ".", plain + "[")):
            theirs = spelled[plain] + theirs[len(plain) :]
    if theirs == param:
        return wrong
    return BadRequest(wrong.message.replace(f"'{param}'", f"'{theirs}'"), param=theirs, code=wrong.code)


GENERATE = GenerateDialect()
GENERATE_STREAM = GenerateDialect(streaming=True)
