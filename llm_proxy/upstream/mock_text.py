"""What mock mode says: texts, tool calls and vectors, all from the call alone.

Invariants: deterministic; four characters count as one token; whatever passed the body rule is answered.
"""

import struct
from base64 import b64encode
from dataclasses import dataclass
from hashlib import shake_256
from math import sqrt
from typing import Any

import orjson

from llm_proxy.dialects import Call
from llm_proxy.json_access import Json, is_array, is_object
from llm_proxy.upstream.mock_json import example

DIMENSIONS = 1536
ECHO_LENGTH = 400
MAX_DIMENSIONS = 16_384
_TOKEN_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Said:
    """One choice of an answer."""

    text: str = ""
    tool_calls: tuple[Json, ...] = ()
    function_call: Json | None = None
    finish_reason: str = "stop"

    @property
    def pieces(self) -> list[str]:
        """The text, cut for a stream: words with the space before them."""
        words = self.text.split(" ")
        return [word if at == 0 else " " + word for at, word in enumerate(words)] if self.text else []

    @property
    def tokens(self) -> int:
        """Completion tokens."""
        called = sum(len(call["function"]["arguments"]) for call in self.tool_calls)
        called += len(self.function_call["arguments"]) if self.function_call else 0
        return _tokens(len(self.text) + called)


def answers(call: Call) -> list[Said]:
    """The choices of the answer, as many as were asked for."""
    body = call.body
    if call.door == "completions":
        prompts: list[Any] = [body["prompt"]] if _is_one(body["prompt"]) else body["prompt"]
        echo = "{} " if body.get("echo") else ""
        texts = [echo.format(_text(prompt)) + f"Mock completion of: {_text(prompt)}" for prompt in prompts]
        return [_cut(text, call) for text in texts for _ in range(body.get("n", 1))]
    forced = _forced_function(body)
    if forced is not None:
        said = Said(function_call=_arguments(forced), finish_reason="stop")
    elif tool := _tool(body, call.group):
        said = Said(tool_calls=(_tool_call(tool),), finish_reason="tool_calls")
    else:
        said = _cut(_chat_text(body), call)
    return [said] * call.choices


def prompt_tokens(call: Call) -> int:
    """Prompt tokens, by the same measure for every door."""
    body = call.body
    said = body.get("messages") or body.get("prompt") or body.get("input")
    return _tokens(len(orjson.dumps(said)))


def vectors(body: Json) -> list[list[float] | str]:
    """One vector of length 1 for each input, in the encoding asked for."""
    given = body["input"]
    inputs: list[Any] = [given] if _is_one(given) else given
    size = min(body.get("dimensions", DIMENSIONS), MAX_DIMENSIONS)
    return [_encoded(_vector(orjson.dumps(item), size), body.get("encoding_format")) for item in inputs]


def _chat_text(body: Json) -> str:
    wanted: Json = body.get("response_format", {})
    last = _last_user_text(body["messages"])
    if wanted.get("type") == "json_schema":
        return orjson.dumps(example(wanted.get("json_schema", {}).get("schema"))).decode()
    if wanted.get("type") == "json_object":
        return orjson.dumps({"mock": last[:ECHO_LENGTH]}).decode()
    return f"Mock answer to: {last[:ECHO_LENGTH]}"


def _last_user_text(messages: list[Json]) -> str:
    said = [message.get("content") for message in messages if message["role"] == "user"]
    return _text(said[-1] if said else messages[-1].get("content"))


def _text(content: Any) -> str:  # noqa: ANN401 -- a text, parts or tokens
    if is_array(content):
        return " ".join(str(part.get("text", "")) if is_object(part) else str(part) for part in content)
    return content if type(content) is str else ""


def _cut(text: str, call: Call) -> Said:
    given: Any = call.body.get("stop", [])
    stops: list[str] = given if is_array(given) else [given]
    for stop in stops:
        text = text.partition(stop)[0] if stop else text
    if call.max_tokens is not None and _tokens(len(text)) > call.max_tokens:
        return Said(text[: call.max_tokens * _TOKEN_LENGTH], finish_reason="length")
    return Said(text)


def _tool(body: Json, group: str) -> Json | None:
    """The tool the caller forces, if it forces one."""
    tools: list[Json] = body.get("tools") or []
    functions: list[Json] = [tool["function"] for tool in tools if tool.get("function")]
    choice: Any = body.get("tool_choice", "auto")
    if is_object(choice):
        named = choice.get("function")
        return _named(functions, named.get("name")) if is_object(named) else None
    eager = choice == "auto" and group.endswith("mock-tools") and body["messages"][-1]["role"] != "tool"
    return functions[0] if functions and (eager or choice == "required") else None


def _named(functions: list[Json], name: Any) -> Json | None:  # noqa: ANN401 -- unchecked JSON
    return next((one for one in functions if one["name"] == name), None)


def _tool_call(function: Json) -> Json:
    called = _arguments(function)
    number = shake_256(orjson.dumps(called)).hexdigest(12)
    return {"id": f"call_{number}", "type": "function", "function": called}


def _forced_function(body: Json) -> Json | None:
    choice: Any = body.get("function_call")
    return _named(body.get("functions", []), choice["name"]) if is_object(choice) else None


def _arguments(function: Json) -> Json:
    filled = example(function.get("parameters") or {"type": "object"})
    return {"name": function["name"], "arguments": orjson.dumps(filled).decode()}


def _is_one(given: Any) -> bool:  # noqa: ANN401 -- a text, tokens, or several of them
    return type(given) is str or type(given[0]) is int


def _vector(text: bytes, size: int) -> list[float]:
    drawn = struct.unpack(f"<{size}h", shake_256(text).digest(size * 2))
    length = sqrt(sum(value * value for value in drawn)) or 1.0
    return [value / length for value in drawn]


def _encoded(vector: list[float], encoding: str | None) -> list[float] | str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else vector


def _tokens(length: int) -> int:
    return max(-(-length // _TOKEN_LENGTH), 1)
