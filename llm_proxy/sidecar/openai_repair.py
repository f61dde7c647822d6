"""Repairs answers and stream frames in OpenAI's format, so that every client can parse them.

Pure. Invariants: only values that are missing, null or of a wrong type are filled in; another provider's
finish reason becomes the nearest of OpenAI's, an unknown one stays.
Source: OpenAI's OpenAPI document, CreateChatCompletionResponse and CreateChatCompletionStreamResponse.
"""

import json
import uuid
from collections.abc import Hashable

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar.json_repair import join_surrogates

FINISH_REASONS = {
    "COMPLETE": "stop",
    "STOP": "stop",
    "compaction": "length",
    "content_filtered": "content_filter",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "max_length": "length",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "model_length": "length",
    "refusal": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "stop_sequence": "stop",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "MALFORMED_FUNCTION_CALL": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
}
"""Finish reasons of other providers -> the nearest of OpenAI's."""
EQUIVALENT_REASONS = frozenset(
    {
        *("stop", "length", "tool_calls", "function_call", "content_filter"),
        *("STOP", "MAX_TOKENS", "COMPLETE", "end_turn", "max_tokens", "stop_sequence", "tool_use"),
    }
)
"""OpenAI's finish reasons, and other providers' that say no more than those."""
TEXT_FIELDS = ("content", "reasoning", "reasoning_content", "refusal")
STATED_COST_FIELD = "llmp_stated_cost"
"""Field of a usage with the cost the provider stated; `cost` is LiteLLM's."""
TOKEN_COUNTS = ("prompt_tokens", "completion_tokens")
TOKEN_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
CACHED_TOKEN_FIELDS = ("cached_tokens", "num_cached_tokens")
"""Fields beside `prompt_tokens_details` that state a prompt's cached tokens."""
MIN_LOGPROB = -9999.0
"""OpenAI's log probability of a very unlikely token."""


def nearest_finish_reason(reason: object) -> str | None:
    """Return the finish reason for the caller; None if there is none or it is blank."""
    return FINISH_REASONS.get(reason, reason) if isinstance(reason, str) and reason.strip() else None


def informative_finish_reason(reason: object) -> str | None:
    """Return a finish reason that says more than the one the caller gets, else None."""
    return reason if isinstance(reason, str) and reason and reason not in EQUIVALENT_REASONS else None


def repair_chunk(frame: Json) -> None:
    """Repair a frame of a chat stream."""
    repair_usage(frame)
    frame["choices"] = _choices(frame)
    for choice in frame["choices"]:
        delta = choice["delta"] = as_object(choice.get("delta"))
        if "finish_reason" in choice:
            choice["finish_reason"] = nearest_finish_reason(choice["finish_reason"])
        _repair_logprobs(choice)
        _repair_content(delta)
        if isinstance(delta.get("reasoning"), str):
            delta.setdefault("reasoning_content", delta["reasoning"])


def repair_text_chunk(frame: Json) -> None:
    """Repair a frame of a text completion's stream."""
    repair_usage(frame)
    frame["choices"] = _choices(frame)
    for choice in frame["choices"]:
        choice["text"] = choice["text"] if isinstance(choice.get("text"), str) else ""
        choice["finish_reason"] = nearest_finish_reason(choice.get("finish_reason"))


def is_completion(document: Json) -> bool:
    """Whether a complete answer has choices, each with a message or a text."""
    choices = as_list(document.get("choices"))
    return bool(choices) and all(
        isinstance(as_object(one).get("message"), dict) or isinstance(as_object(one).get("text"), str)
        for one in choices
    )


def repair_completion(answer: Json) -> None:
    """Repair a complete answer of a chat or text completion."""
    if "choices" not in answer:
        return
    answer["choices"] = _choices(answer)
    for choice in answer["choices"]:
        choice["finish_reason"] = nearest_finish_reason(choice.get("finish_reason"))
        _repair_logprobs(choice)
        if not isinstance(choice.get("message"), dict):
            continue
        message = choice["message"]
        message["role"] = message.get("role") or "assistant"
        message.setdefault("content", None)
        _repair_content(message)
        _drop_unparsable(message)
        for at, image in enumerate(map(as_object, as_list(message.get("images")))):
            image.setdefault("index", at)
        for call in map(as_object, as_list(message.get("tool_calls"))):
            _repair_call(call)
            function = as_object(call.get("function"))
            arguments = function.get("arguments")
            if function and not isinstance(arguments, str):
                function["arguments"] = json.dumps(arguments) if arguments is not None else "{}"
    repair_usage(answer)


class SurrogateJoiner:
    """Joins surrogate pairs that are split between frames; each text of a stream has a key."""

    __slots__ = ("_halves",)

    def __init__(self) -> None:
        self._halves: dict[Hashable, str] = {}

    @property
    def holds_text(self) -> bool:
        """Whether a first half waits."""
        return bool(self._halves)

    def join(self, key: Hashable, text: str, *, last: bool = False) -> str:
        """Return the text to send now; a first half waits for the second unless this is the last piece."""
        if not self._halves and text.isascii():
            return text
        text = self._halves.pop(key, "") + text
        if not last and "\ud800" <= text[-1:] <= "\udbff":
            self._halves[key], text = text[-1], text[:-1]
        return join_surrogates(text)


class ToolCallRepair:
    """Gives each tool call of one streamed choice an index and an id of its own."""

    __slots__ = ("_arguments", "_id_of", "_index_of")

    def __init__(self) -> None:
        self._index_of: dict[int | None, int] = {}
        self._id_of: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}

    def repair(self, call: Json) -> None:
        """Set the index of a piece of a call if it is missing or another call's; set the call's id."""
        stated: int | None = call["index"] if type(call.get("index")) is int else None
        function = as_object(call.get("function"))
        at = self._index_of.get(stated, max(self._id_of, default=None) if stated is None else None)
        if at is None or (function.get("name") and self._is_another(call, at)):
            free = stated is not None and stated not in self._id_of
            at = stated if stated is not None and free else max(self._id_of, default=-1) + 1
            _repair_call(call)
            self._id_of[at], self._arguments[at] = call["id"], []
        self._arguments[at].append(str(function.get("arguments") or ""))
        self._index_of[stated] = call["index"] = at

    def _is_another(self, call: Json, at: int) -> bool:
        """Whether a piece with a function's name begins another call than the one at its index."""
        if call.get("id"):
            return bool(call["id"] != self._id_of[at])
        try:
            json.loads("".join(self._arguments[at]))
        except ValueError:
            return False
        return True


class StreamRepair:
    """Repairs the frames of one stream, with what must be kept from frame to frame."""

    def __init__(self) -> None:
        self._texts = SurrogateJoiner()
        self._calls: dict[int, ToolCallRepair] = {}

    @property
    def holds_text(self) -> bool:
        """Whether a text of the frames so far is added to that of a later frame."""
        return self._texts.holds_text

    def repair_chunk(self, chunk: Json) -> None:
        """Repair a frame of a chat."""
        repair_chunk(chunk)
        for choice in chunk["choices"]:
            self.repair_delta(choice["index"], choice["delta"], last=choice.get("finish_reason") is not None)

    def repair_text_chunk(self, chunk: Json) -> None:
        """Repair a frame of a text completion."""
        repair_text_chunk(chunk)
        for choice in chunk["choices"]:
            last = choice["finish_reason"] is not None
            choice["text"] = self._texts.join((choice["index"], "text"), choice["text"], last=last)

    def repair_delta(self, at: int, delta: Json, *, last: bool) -> None:
        """Repair a choice's delta: surrogate pairs split between frames, tool calls that share an index."""
        for name in TEXT_FIELDS:
            text = delta.get(name)
            if isinstance(text, str) or last:
                joined = self._texts.join((at, name), text if isinstance(text, str) else "", last=last)
                if joined or isinstance(text, str):
                    delta[name] = joined
        for call in map(as_object, as_list(delta.get("tool_calls"))):
            self._calls.setdefault(at, ToolCallRepair()).repair(call)
            function = as_object(call.get("function"))
            if isinstance(function.get("arguments"), str):
                key = (at, "tool_calls", call["index"])
                function["arguments"] = self._texts.join(key, function["arguments"])


def _choices(document: Json) -> list[Json]:
    found = [choice for choice in map(as_object, as_list(document.get("choices"))) if choice]
    for at, choice in enumerate(found):
        if type(choice.get("index")) is not int:
            choice["index"] = at
    return found


def _drop_unparsable(message: Json) -> None:
    """Remove what LiteLLM's types cannot hold; `whole_answers` adds it again after LiteLLM's parsing."""
    cited = [
        one
        for one in map(as_object, as_list(message.get("annotations")))
        if as_object(one.get("url_citation"))
    ]
    if message.get("annotations") is not None and len(cited) != len(as_list(message["annotations"])):
        del message["annotations"]
    for name in ("images", "thinking_blocks"):
        listed = as_list(message.get(name))
        if message.get(name) is not None and not (
            listed and all(as_object(one).get("type") for one in listed)
        ):
            del message[name]
    if (
        message.get("audio") is not None
        and not {"id", "data", "expires_at", "transcript"} <= as_object(message["audio"]).keys()
    ):
        del message["audio"]


def _repair_call(call: Json) -> None:
    call["id"] = call.get("id") or f"call_{uuid.uuid4().hex}"
    call["type"] = call.get("type") or "function"


def repair_usage(document: Json) -> None:
    """Make token counts integers and fill in their total; remove a usage without counts."""
    if "usage" not in document:
        return
    usage = as_object(document["usage"])
    for name, value in usage.items():
        if isinstance(value, float) and value.is_integer():
            usage[name] = int(value)
    _repair_details(usage)
    counts = [usage.get(name) for name in TOKEN_COUNTS]
    if all(type(count) is not int for count in counts):
        del document["usage"]
    elif type(usage.get("total_tokens")) is not int:
        usage["total_tokens"] = sum(count for count in counts if type(count) is int)


def _repair_details(usage: Json) -> None:
    """Move cached tokens stated elsewhere into `prompt_tokens_details`; remove negative counts."""
    for part in (as_object(usage.get(name)) for name in TOKEN_DETAILS):
        for name in [name for name, value in part.items() if type(value) is int and value < 0]:
            del part[name]
    stated = next(
        (usage[name] for name in CACHED_TOKEN_FIELDS if type(usage.get(name)) is int and usage[name] > 0),
        None,
    )
    details = as_object(usage.get(TOKEN_DETAILS[0]))
    if stated is not None and details.get(CACHED_TOKEN_FIELDS[0]) is None:
        usage[TOKEN_DETAILS[0]] = details | {CACHED_TOKEN_FIELDS[0]: stated}


def _repair_logprobs(choice: Json) -> None:
    if choice.get("logprobs") is None:
        return
    probs = as_object(choice["logprobs"])
    choice["logprobs"] = probs or None
    for token in map(as_object, as_list(probs.get("content"))):
        token["top_logprobs"] = as_list(token.get("top_logprobs"))
        for one in (token, *map(as_object, token["top_logprobs"])):
            one.setdefault("bytes", None)
            one["logprob"] = MIN_LOGPROB if one.get("logprob") is None else one["logprob"]


def _repair_content(message: Json) -> None:
    """Turn content blocks, as Mistral's reasoning models send them, into text and reasoning."""
    blocks: object = message.get("content")
    if not isinstance(blocks, list):
        return
    texts, thoughts = list[str](), list[str]()
    for block in map(as_object, as_list(message["content"])):
        texts += [block["text"]] if isinstance(block.get("text"), str) else []
        thoughts += [str(one.get("text") or "") for one in map(as_object, as_list(block.get("thinking")))]
    message["content"] = "".join(texts) if texts else None
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
        message["thinking_blocks"] = [
            {"type": "thinking", "thinking": message["reasoning_content"], "signature": "mistral"}
        ]
