"""What mock mode says: texts, tool calls, JSON that fits a schema, vectors; all from the call alone.

Invariants: deterministic; four characters count as one token; a schema that cannot be followed gives an
empty object rather than an error.
"""

import struct
from base64 import b64encode
from dataclasses import dataclass
from hashlib import shake_256
from math import sqrt
from typing import Any

import orjson

from llm_proxy.dialects import Call

DIMENSIONS = 1536
ECHO_LENGTH = 400
_MAX_DEPTH = 8
_TOKEN_LENGTH = 4

Json = dict[str, Any]


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
    size = int(body.get("dimensions") or DIMENSIONS)
    return [_encoded(_vector(orjson.dumps(item), size), body.get("encoding_format")) for item in inputs]


def example(schema: Any, root: Any = None, depth: int = 0) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
    """The least value a JSON schema allows, as far as it is simple."""
    root = schema if root is None else root
    if type(schema) is not dict or depth > _MAX_DEPTH:
        return {}
    if "$ref" in schema:
        return example(_referenced(str(schema["$ref"]), root), root, depth + 1)
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if schema.get("enum"):
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return example(schema[several][0], root, depth + 1)
    kind = schema.get("type")
    return _of_type(kind[0] if type(kind) is list and kind else kind, schema, root, depth)


def _of_type(kind: Any, schema: Json, root: Any, depth: int) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
    if kind == "string":
        return "mock".ljust(int(schema.get("minLength") or 0), "k")
    if kind in {"integer", "number"}:
        return schema.get("minimum", 0)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    if kind == "array":
        return [example(schema.get("items"), root, depth + 1)] * max(int(schema.get("minItems") or 1), 1)
    properties = schema.get("properties")
    if type(properties) is not dict:
        return {}
    return {name: example(inner, root, depth + 1) for name, inner in properties.items()}


def _referenced(reference: str, root: Any) -> Any:  # noqa: ANN401 -- JSON Schema in, JSON out
    found = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(step) if type(found) is dict and step else found
    return found if found is not root else {}


def _chat_text(body: Json) -> str:
    wanted = body.get("response_format") or {}
    last = _last_user_text(body["messages"])
    if wanted.get("type") == "json_schema":
        return orjson.dumps(example((wanted.get("json_schema") or {}).get("schema"))).decode()
    if wanted.get("type") == "json_object":
        return orjson.dumps({"mock": last[:ECHO_LENGTH]}).decode()
    return f"Mock answer to: {last[:ECHO_LENGTH]}"


def _last_user_text(messages: list[Json]) -> str:
    said = [message.get("content") for message in messages if message["role"] == "user"]
    return _text(said[-1] if said else messages[-1].get("content"))


def _text(content: Any) -> str:  # noqa: ANN401 -- a text, parts or tokens
    if type(content) is str:
        return content
    if type(content) is not list:
        return ""
    return " ".join(str(part.get("text", "")) if type(part) is dict else str(part) for part in content)


def _cut(text: str, call: Call) -> Said:
    stops = call.body.get("stop") or ()
    for stop in [stops] if type(stops) is str else stops:
        text = text.partition(stop)[0] if stop else text
    if call.max_tokens is not None and _tokens(len(text)) > call.max_tokens:
        return Said(text[: call.max_tokens * _TOKEN_LENGTH], finish_reason="length")
    return Said(text)


def _tool(body: Json, group: str) -> Json | None:
    """The tool the caller forces, if it forces one."""
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    functions = [tool["function"] for tool in tools if tool.get("function")]
    eager = group.endswith("mock-tools") and choice in {None, "auto"} if type(choice) is not dict else False
    if type(choice) is dict:
        name = (choice.get("function") or {}).get("name")
        return next((one for one in functions if one["name"] == name), None)
    if choice == "required" or (eager and body["messages"][-1]["role"] != "tool"):
        return functions[0] if functions else None
    return None


def _tool_call(function: Json) -> Json:
    called = _arguments(function)
    number = shake_256(orjson.dumps(called)).hexdigest(12)
    return {"id": f"call_{number}", "type": "function", "function": called}


def _forced_function(body: Json) -> Json | None:
    choice = body.get("function_call")
    if type(choice) is not dict:
        return None
    return next((one for one in body.get("functions") or () if one["name"] == choice["name"]), None)


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
