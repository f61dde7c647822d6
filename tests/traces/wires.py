"""A conversation of an agent, written as each API's clients send it."""

import secrets
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import orjson

from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex
from llm_proxy.dialects.gemini.dialect import GENERATE_CONTENT
from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.dialects.responses.dialect import ResponsesDialect
from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import Json

Wire = Literal["chat", "responses", "messages", "gemini"]
WIRES: tuple[Wire, ...] = ("chat", "responses", "messages", "gemini")
_ENDPOINTS: dict[Wire, Endpoint] = {
    "chat": "chat.completions",
    "responses": "responses",
    "messages": "messages",
    "gemini": "generate_content",
}
_TRANSLATED = ModelIndex(groups={"m": frozenset({"openai"})})
_NATIVE = ModelIndex(groups={"m": frozenset({"openai"})}, speaks_natively=lambda _group, _wire: True)
_DIALECTS: dict[Wire, Any] = {
    "chat": OPENAI,
    "responses": ResponsesDialect(None),
    "messages": MESSAGES,
    "gemini": GENERATE_CONTENT,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of a model and what follows it: its words, its calls of tools with their results, a reply.

    Attributes:
        wait_s: How long the agent waits before its next call: the tools run, or it sleeps.
        failures: How many times that next call fails and is sent again by the SDK.
        usd: The cost of that next call.
    """

    said: str = ""
    calls: tuple[tuple[str, Json], ...] = ()
    results: tuple[str, ...] = ()
    asked: str = ""
    wait_s: float = 0.4
    failures: int = 0
    usd: float = 0.01


@dataclass(slots=True)
class Conversation:
    """A conversation as one client keeps it; ids are new in each, as they are in life."""

    wire: Wire
    system: str
    task: str
    rng: Random
    messages: list[Json] = field(default_factory=list[Json])
    _starts: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        """Starts it with the task."""
        self.ask(self.task)

    def add(self, step: Step) -> None:
        """Appends a step as the wire's clients do."""
        ids = [secrets.token_hex(12) for _ in step.calls]
        self._starts.append(len(self.messages))
        _ADD[self.wire](self, step, ids)

    def trim(self, last: int) -> None:
        """Keeps the task and the last steps, as agents with a window do."""
        if len(self._starts) > last:
            del self.messages[1 : self._starts[-last]]
            removed = self._starts[-last] - 1
            self._starts = [one - removed for one in self._starts[-last:]]

    def compact(self, summary: str) -> None:
        """Replaces all of it by a summary, as agents do when their context is full."""
        self.messages, self._starts = [], []
        self.ask(f"{self.task}\n\nSummary of the work so far: {summary}")

    def body(self) -> Json:
        """The request's body now."""
        if self.wire == "chat":
            return {"model": "m", "messages": [{"role": "system", "content": self.system}, *self.messages]}
        if self.wire == "responses":
            return {"model": "m", "instructions": self.system, "input": [*self.messages], "store": False}
        if self.wire == "messages":
            system = [{"type": "text", "text": self.system, "cache_control": {"type": "ephemeral"}}]
            return {"model": "m", "max_tokens": 4096, "system": system, "messages": [*self.messages]}
        return {"systemInstruction": {"parts": [{"text": self.system}]}, "contents": [*self.messages]}

    def call(self, *, native: bool = True, parsed: bool = True) -> Call:
        """The call of it now; without `parsed` made directly, which is faster, and native alone."""
        body = self.body()
        raw = orjson.dumps(body)
        endpoint = _ENDPOINTS[self.wire]
        if not parsed:
            return Call(endpoint, self.wire, "m", "m", body, prompt_bytes=len(raw))
        found: Call = _DIALECTS[self.wire].parse(
            endpoint, raw, RequestOptions(model="m"), _NATIVE if native else _TRANSLATED, BodyLimits()
        )
        return found

    def ask(self, text: str) -> None:
        if self.wire == "gemini":
            self.messages.append({"role": "user", "parts": [{"text": text}]})
        elif self.wire == "messages":
            self.messages.append({"role": "user", "content": [{"type": "text", "text": text}]})
        else:
            self.messages.append({"role": "user", "content": text})


def _add_chat(to: Conversation, step: Step, ids: list[str]) -> None:
    message: Json = {"role": "assistant", "content": step.said or None}
    if step.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{one}",
                "type": "function",
                "function": {"name": name, "arguments": _arguments(to.rng, args)},
            }
            for one, (name, args) in zip(ids, step.calls, strict=True)
        ]
    to.messages.append(message)
    to.messages += [
        {"role": "tool", "tool_call_id": f"call_{one}", "content": text}
        for one, text in zip(ids, step.results, strict=True)
    ]
    if step.asked:
        to.ask(step.asked)


def _add_responses(to: Conversation, step: Step, ids: list[str]) -> None:
    if step.said:
        part: Json = {"type": "output_text", "text": step.said, "annotations": []}
        to.messages.append({"type": "message", "role": "assistant", "content": [part]})
    for one, (name, args) in zip(ids, step.calls, strict=True):
        call = {"type": "function_call", "call_id": f"call_{one}", "name": name}
        to.messages.append(call | {"arguments": _arguments(to.rng, args)})
    for one, text in zip(ids, step.results, strict=True):
        to.messages.append({"type": "function_call_output", "call_id": f"call_{one}", "output": text})
    if step.asked:
        to.ask(step.asked)


def _add_messages(to: Conversation, step: Step, ids: list[str]) -> None:
    blocks: list[Json] = [{"type": "text", "text": step.said}] if step.said else []
    for one, (name, args) in zip(ids, step.calls, strict=True):
        blocks.append({"type": "tool_use", "id": f"toolu_{one}", "name": name, "input": args})
    to.messages.append({"role": "assistant", "content": blocks or [{"type": "text", "text": "."}]})
    reply: list[Json] = [
        {"type": "tool_result", "tool_use_id": f"toolu_{one}", "content": [{"type": "text", "text": text}]}
        for one, text in zip(ids, step.results, strict=True)
    ]
    if step.asked:
        reply.append({"type": "text", "text": step.asked})
    if reply:
        to.messages.append({"role": "user", "content": reply})


def _add_gemini(to: Conversation, step: Step, ids: list[str]) -> None:
    parts: list[Json] = [{"text": step.said}] if step.said else []
    parts += [{"functionCall": {"id": one, "name": name, "args": args}}
              for one, (name, args) in zip(ids, step.calls, strict=True)]  # fmt: skip
    to.messages.append({"role": "model", "parts": parts or [{"text": "."}]})
    reply: list[Json] = [
        {"functionResponse": {"id": one, "name": name, "response": {"output": text}}}
        for one, (name, _), text in zip(ids, step.calls, step.results, strict=True)
    ]
    if step.asked:
        reply.append({"text": step.asked})
    if reply:
        to.messages.append({"role": "user", "parts": reply})


_ADD = {"chat": _add_chat, "responses": _add_responses, "messages": _add_messages, "gemini": _add_gemini}


def _arguments(rng: Random, args: Json) -> str:
    """Arguments as models write them: with or without spaces."""
    text = orjson.dumps(args).decode()
    return text if rng.random() < 0.5 else text.replace('":', '": ').replace(',"', ', "')
