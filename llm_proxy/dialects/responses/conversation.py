"""Turns of a conversation, in the order a Responses input has them, as the messages of a chat.

Pure. Invariants: each assistant's tool calls are followed at once by all their outputs, then by whatever came
between; instructions before the first turn are one system message, a user's messages in a row one, for many
models' templates accept no other; a call without its output, or the reverse, is an error, as at OpenAI.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from llm_proxy.dialects.request.validators import invalid
from llm_proxy.dialects.translation.carried import Carried
from llm_proxy.dialects.translation.chat_answer import ThinkingPiece
from llm_proxy.dialects.translation.chat_request import (
    ToolOutput,
    joined_texts,
    reminder,
    text_part,
    tool_output_messages,
)
from llm_proxy.json_access import Json

_INSTRUCTING = frozenset({"developer", "system"})


class Instruction(NamedTuple):
    """A system's or developer's message."""

    role: str
    parts: list[Json]


class UserTurn(NamedTuple):
    """What the user said and showed."""

    parts: list[Json]


class AssistantText(NamedTuple):
    """A message of the assistant's, or its refusal."""

    text: str
    refusal: str = ""


class Thoughts(NamedTuple):
    """What the model reasoned.

    Attributes:
        is_signed: It came from a group with Claude, who verifies its signatures.
    """

    pieces: tuple[ThinkingPiece, ...]
    is_signed: bool


class AssistantCall(NamedTuple):
    """A tool call, in a chat's shape."""

    call: Json


class AnsweredCall(NamedTuple):
    """What a tool returned, and where the request has it."""

    output: ToolOutput
    path: str


Turn = Instruction | UserTurn | AssistantText | Thoughts | AssistantCall | AnsweredCall


class Conversation:
    """Builds the messages of a chat, turn by turn.

    Attributes:
        messages: Complete after `close`.
    """

    __slots__ = ("_carried", "_deferred", "_open", "_outputs", "_pending", "messages")

    def __init__(self, carried: Carried) -> None:
        self._carried = carried
        self.messages: list[Json] = []
        self._open: Json = {}
        self._pending: dict[str, None] = {}
        self._outputs: list[ToolOutput] = []
        self._deferred: list[Turn] = []

    def add(self, turn: Turn) -> None:
        """Adds a turn; raises `BadRequest` for an output of no call."""
        if isinstance(turn, AnsweredCall):
            self._answer(turn)
        elif isinstance(turn, Instruction | UserTurn):
            if self._pending:
                self._deferred.append(turn)
                return
            self._flush()
            self._hear(turn)
        elif self._outputs:
            self._deferred.append(turn)
        else:
            self._speak(turn)

    def _hear(self, turn: Instruction | UserTurn) -> None:
        """Adds a message as many models' templates demand it.

        A user's becomes part of the one before it; within the conversation an instruction is a reminder in a
        user's, except for Claude.
        """
        before = self.messages[-1] if self.messages else {}
        is_late = any(one["role"] not in _INSTRUCTING for one in self.messages)
        if isinstance(turn, Instruction) and is_late and not self._carried.continues:
            turn = UserTurn([_reminder(part) for part in turn.parts])
        if isinstance(turn, UserTurn) and before.get("role") == "user":
            said = before["content"]
            before["content"] = [*([text_part(said)] if type(said) is str else said), *turn.parts]
        else:
            self.messages.append(_message(turn))

    def _speak(self, turn: AssistantText | Thoughts | AssistantCall) -> None:
        if isinstance(turn, AssistantText):
            self._say(turn)
        elif isinstance(turn, Thoughts):
            self._think(turn)
        else:
            self._open.setdefault("tool_calls", []).append(turn.call)
            self._pending[turn.call["id"]] = None

    def _say(self, said: AssistantText) -> None:
        refusal = said.refusal if self._carried.openai else ""
        text = said.text + ("" if refusal else said.refusal)
        has_text = bool(self._open.get("content")) or "refusal" in self._open
        if has_text and not self._pending:
            self._flush()
        if text:
            before = self._open.get("content")
            self._open["content"] = f"{before}\n\n{text}" if before else text
        if refusal:
            self._open["refusal"] = refusal
        self._open.setdefault("content", None if refusal else "")

    def _think(self, thoughts: Thoughts) -> None:
        added: Any
        signed = [_block(piece) for piece in thoughts.pieces if piece.signature or piece.redacted]
        if self._carried.thinking_blocks and thoughts.is_signed and signed:
            name, added = "thinking_blocks", signed
        elif self._carried.reasoning_text:
            name, added = "reasoning_content", "".join(piece.text for piece in thoughts.pieces)
        else:
            return
        if "content" in self._open and not self._pending:
            self._flush()
        self._open[name] = self._open[name] + added if name in self._open else added

    def _answer(self, answered: AnsweredCall) -> None:
        call_id = answered.output.call_id
        if call_id in self._pending:
            del self._pending[call_id]
            self._outputs.append(answered.output)
            if not self._pending:
                self._flush()
                self._resume()
        elif any(isinstance(one, AssistantCall) and one.call["id"] == call_id for one in self._deferred):
            self._deferred.append(answered)
        else:
            reason = f"no tool call found for the output with call_id {call_id[:64]}."
            raise invalid(f"{answered.path}.call_id", reason)

    def _resume(self) -> None:
        deferred, self._deferred = self._deferred, []
        for turn in deferred:
            self.add(turn)

    def _flush(self) -> None:
        """Ends the assistant's message, and the outputs of its calls."""
        if "content" in self._open or "tool_calls" in self._open:  # thoughts alone are no turn
            self.messages.append({"role": "assistant", "content": None, **self._open})
        self._open = {}
        if self._outputs:
            self.messages += tool_output_messages(self._outputs, images_inside=self._carried.tool_images)
            self._outputs = []

    def close(self) -> None:
        """Ends the conversation; raises `BadRequest` where a call has no output."""
        if self._pending:
            missing = next(iter(self._pending))
            raise invalid("input", f"no tool output found for the call {missing[:64]}.")
        self._flush()
        self.messages[:] = _with_one_system_message(self.messages)


def _reminder(part: Json) -> Json:
    return part | {"text": reminder(part["text"])} if part["type"] == "text" else part


def _message(turn: Instruction | UserTurn) -> Json:
    role = turn.role if isinstance(turn, Instruction) else "user"
    return {"role": role, "content": joined_texts(turn.parts) if turn.parts else ""}


def _block(piece: ThinkingPiece) -> Json:
    if piece.redacted:
        return {"type": "redacted_thinking", "data": piece.redacted}
    return {"type": "thinking", "thinking": piece.text, "signature": piece.signature}


def _with_one_system_message(messages: list[Json]) -> Iterable[Json]:
    """Joins the instructions at the start, those that are texts, into one message."""
    count = next((at for at, one in enumerate(messages) if not _is_instruction(one)), len(messages))
    if count < 2:
        return messages
    leading = messages[:count]
    role = "developer" if all(one["role"] == "developer" for one in leading) else "system"
    joined = "\n\n".join(text for one in leading if (text := _text_of(one)))
    return [{"role": role, "content": joined}, *messages[count:]]


def _is_instruction(message: Json) -> bool:
    content = message["content"]
    return message["role"] in _INSTRUCTING and (
        type(content) is str or all(part.keys() == {"type", "text"} for part in content)
    )


def _text_of(message: Json) -> str:
    content = message["content"]
    return content if type(content) is str else "\n\n".join(part["text"] for part in content)
