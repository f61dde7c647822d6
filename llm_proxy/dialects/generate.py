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
from llm_proxy.dialects.dialect import Answered, Bounds, Hints, Models, Offer
from llm_proxy.dialects.internal import INTERNAL, one_choice, piece_frame
from llm_proxy.dialects.openai import Pieces, Tokens, read_answer
from llm_proxy.dialects.request.build_call import Came, compose
from llm_proxy.dialects.request.openai_schema import FIELDS
from llm_proxy.dialects.request.strict_json import parse
from llm_proxy.dialects.request.validators import refused, shown_name, wrong_type
from llm_proxy.dialects.request_options import provider_name
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest, Refused
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
class Generate:
    """The dialect of `/llm-proxy`; its path, not its body, says whether it streams."""

    streaming: bool = False
    name: str = "generate"

    def read(self, door: Endpoint, body: bytes, hints: Hints, models: Models, bounds: Bounds) -> Call:
        """The call a body asks for; raises `BadRequest` or `ModelNotFound`."""
        parsed = parse(body, bounds.max_depth)
        hints = _pick_provider(parsed.pop("provider", None), hints)
        spelled: dict[str, str] = {}
        asked = _renamed(parsed, _NAMES, "", spelled)
        streamed = asked.get("stream")
        if streamed is not None and streamed is not self.streaming:
            raise refused("stream", "the path says whether the answer streams.")
        asked["stream"] = self.streaming
        messages, wanted = asked.get("messages"), asked.get("response_format")
        if is_array(messages):
            asked["messages"] = [_message(message, at, spelled) for at, message in enumerate(messages)]
        if is_object(wanted):
            asked["response_format"] = _renamed(wanted, _IN_FORMAT, "response_format.", spelled)
        came = Came(self.name, door, len(body), model_optional=True, usage_told=True)
        try:
            return one_choice(compose(asked, came, hints, models, bounds))
        except BadRequest as wrong:
            raise _as_spelled(wrong, spelled) from None

    def write(self, reply: bytes, answered: Answered) -> bytes:  # noqa: ARG002 -- this dialect does not tell who
        """`{content, usage{totalTokens, ...}}`; `toolCalls` when there are any."""
        answer = read_answer(reply)
        written: Json = {"content": answer.content}
        if answer.tool_calls:
            written["toolCalls"] = answer.tool_calls
        return orjson.dumps({**written, "usage": _usage(answer.usage)})

    def stream(self, call: Call) -> "GenerateStream":  # noqa: ARG002 -- the same for every call
        """A writer for one stream."""
        return GenerateStream()

    def error(self, refused: Refused) -> Json:
        """NestJS's exception body, with our code and field."""
        return {
            "statusCode": refused.status,
            "message": refused.message,
            "error": HTTPStatus(refused.status).phrase,
            "code": refused.code,
            "param": refused.param,
        }

    def stream_error(self, refused: Refused) -> bytes:
        """One event with the same object."""
        return sse.frame(orjson.dumps(self.error(refused)))

    def models(self, offers: Iterable[Offer]) -> Json:
        """The internal proxy's list: this vocabulary never had one of its own."""
        return INTERNAL.models(offers)


@dataclass(slots=True)
class GenerateStream:
    """One stream: `content` pieces, then usage and why it ended."""

    pieces: Pieces = field(default_factory=Pieces)

    def feed(self, chunk: bytes) -> bytes:
        """OpenAI's frames in, ours out."""
        return b"".join(piece_frame(piece, "toolCalls") for piece in self.pieces.feed(chunk))

    def end(self, answered: Answered) -> bytes:  # noqa: ARG002 -- this dialect does not tell who
        """The last event and the end mark."""
        last = {
            "content": "",
            "usage": _usage(self.pieces.usage),
            "finishReason": self.pieces.finish_reason or "stop",
        }
        return sse.frame(orjson.dumps(last)) + sse.DONE


def _usage(usage: Tokens | None) -> Json:
    usage = usage or Tokens()
    return {"totalTokens": usage.total, "promptTokens": usage.prompt, "completionTokens": usage.completion}


def _pick_provider(provider: Any, hints: Hints) -> Hints:  # noqa: ANN401 -- unchecked JSON
    if provider is None:
        return hints
    if type(provider) is not str:
        raise wrong_type("provider", "a string", provider)
    picked = provider_name(provider.encode(), "provider")
    if hints.provider not in {None, picked}:
        raise refused("provider", "another provider than the X-Provider header's.")
    return replace(hints, provider=picked)


def _message(message: Any, at: int, spelled: dict[str, str]) -> Any:  # noqa: ANN401 -- unchecked JSON
    return _renamed(message, _IN_MESSAGES, f"messages[{at}].", spelled) if is_object(message) else message


def _renamed(given: Json, names: dict[str, str], path: str, spelled: dict[str, str]) -> Json:
    """The object in OpenAI's spelling; how each place was spelled is noted."""
    renamed: Json = {}
    for name, value in given.items():
        plain = names.get(name, name)
        if plain in renamed:
            raise refused(f"{path}{shown_name(name)}", "given in two spellings.")
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


GENERATE = Generate()
GENERATE_STREAM = Generate(streaming=True)
