"""Turns of a conversation, in the order a Responses input has them, as the messages of a chat.

Pure. Invariants: each assistant's tool calls are followed at once by all their outputs, then by whatever came
between; instructions before the first turn are one system message, a user's messages in a row one, for many
models' templates accept no other; a call without its output, or the reverse, is an error, as at OpenAI.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

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
    """A user's texts, images and files."""

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


@dataclass(slots=True)
class OpenTurn:
    """The message of the assistant's that is being built.

    Attributes:
        texts: Its texts, which may be empty; None before the first.
    """

    texts: list[str] | None = None
    refusals: list[str] = field(default_factory=list[str])
    calls: list[Json] = field(default_factory=list[Json])
    blocks: list[Json] = field(default_factory=list[Json])
    thoughts: list[str] = field(default_factory=list[str])

    def message(self) -> Json | None:
        """The message; None where there are thoughts alone, or nothing."""
        if self.texts is None and not self.calls:
            return None
        content = "\n\n".join(self.texts or ())
        message: Json = {"role": "assistant", "content": content}
        if not content and (self.calls or self.refusals):
            message["content"] = None
        if self.refusals:
            message["refusal"] = "".join(self.refusals)
        if self.blocks:
            message["thinking_blocks"] = self.blocks
        if self.thoughts:
            message["reasoning_content"] = "".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class Conversation:
    """Builds the messages of a chat, turn by turn.

    Attributes:
        messages: Complete after `close`.
    """

    __slots__ = ("_carried", "_is_late", "_is_open", "_open", "_outputs", "_turns", "messages")

    def __init__(self, carried: Carried) -> None:
        self._carried = carried
        self._turns: list[Turn] = []
        self._open = OpenTurn()
        self._is_open = False
        self._outputs: dict[str, deque[ToolOutput]] = {}
        self._is_late = False  # a message came before: an instruction now stands within the conversation
        self.messages: list[Json] = []

    def add(self, turn: Turn) -> None:
        """Adds a turn."""
        self._turns.append(turn)
        if isinstance(turn, AnsweredCall):
            self._outputs.setdefault(turn.output.call_id, deque()).append(turn.output)

    def close(self) -> None:
        """Ends the conversation; raises `BadRequest` for a call without its output, or the reverse."""
        for turn in self._turns:
            if isinstance(turn, AnsweredCall):
                self._end_turn()
                self._require_sent(turn)
            elif isinstance(turn, Instruction | UserTurn):
                self._end_turn()
                self._hear(turn)
            else:
                self._speak(turn)
        self._end_turn()
        self.messages[:] = _with_one_system_message(self.messages)

    def _require_sent(self, answered: AnsweredCall) -> None:
        """Raises for an output whose call, which takes its outputs along, was not there before it."""
        waiting = self._outputs[answered.output.call_id]
        if waiting and waiting[0] is answered.output:
            reason = f"no tool call found for the output with call_id {answered.output.call_id[:64]}."
            raise invalid(f"{answered.path}.call_id", reason)

    def _end_turn(self) -> None:
        """Ends the assistant's message; the outputs of its calls follow, wherever the request has them."""
        if not self._is_open:
            return
        ended, self._open, self._is_open = self._open, OpenTurn(), False
        message = ended.message()
        if message is not None:
            self.messages.append(message)
            self._is_late = True
        outputs = [self._output_of(call["id"]) for call in ended.calls]
        self.messages += tool_output_messages(outputs, images_inside=self._carried.tool_images)

    def _output_of(self, call_id: str) -> ToolOutput:
        waiting = self._outputs.get(call_id)
        if not waiting:
            raise invalid("input", f"no tool output found for the call {call_id[:64]}.")
        return waiting.popleft()

    def _hear(self, turn: Instruction | UserTurn) -> None:
        """Adds a message as many models' templates demand it.

        A user's becomes part of the one before it; within the conversation an instruction is a reminder in a
        user's, except for Claude.
        """
        before = self.messages[-1] if self.messages else {}
        if isinstance(turn, Instruction) and self._is_late and not self._carried.continues:
            turn = UserTurn([_reminder(part) for part in turn.parts])
        self._is_late = self._is_late or isinstance(turn, UserTurn)
        if isinstance(turn, UserTurn) and before.get("role") == "user":
            if type(before["content"]) is str:
                before["content"] = [text_part(before["content"])]
            before["content"] += turn.parts
        else:
            self.messages.append(_message(turn))

    def _speak(self, turn: AssistantText | Thoughts | AssistantCall) -> None:
        if isinstance(turn, AssistantText):
            self._say(turn)
        elif isinstance(turn, Thoughts):
            self._think(turn)
        else:
            self._open.calls.append(turn.call)
        self._is_open = True

    def _say(self, said: AssistantText) -> None:
        if (self._open.texts or self._open.refusals) and not self._open.calls:
            self._end_turn()
        refusal = said.refusal if self._carried.openai else ""
        text = said.text + ("" if refusal else said.refusal)
        self._open.texts = self._open.texts or []
        if text:
            self._open.texts.append(text)
        if refusal:
            self._open.refusals.append(refusal)

    def _think(self, thoughts: Thoughts) -> None:
        carried = self._carried
        signed = [_block(piece) for piece in thoughts.pieces if piece.signature or piece.redacted]
        is_block = carried.thinking_blocks and thoughts.is_signed and bool(signed)
        if not is_block and not carried.reasoning_text:
            return
        if self._open.texts is not None and not self._open.calls:
            self._end_turn()
        if is_block:
            self._open.blocks += signed
        else:
            self._open.thoughts += [piece.text for piece in thoughts.pieces]


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
