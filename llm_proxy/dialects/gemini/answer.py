"""A chat answer as Google's: candidates, usage, why it ended.

Pure. Invariants: text that a model wrote is in a part; a call whose arguments are no JSON object is stated in
`finishMessage`, as Google's own models' are; thoughts show only where they were requested, their signature
always; tokens are counted in Google's way, those of thoughts beside the candidates'.
Source: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from llm_proxy.dialects.gemini.request import GeminiContext
from llm_proxy.dialects.gemini.signatures import is_signed, seal_blocks, split_call_id, thinking_blocks
from llm_proxy.dialects.gemini.structured import Unwrapper
from llm_proxy.dialects.translation.chat_answer import ChatAnswerReader, ChatDelta, ThinkingPiece
from llm_proxy.dialects.translation.chat_request import restored_name
from llm_proxy.dialects.translation.usage import ChatUsage, finish_kind
from llm_proxy.json_access import Json, as_object, as_objects, is_object

_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
OWN_REASONS = frozenset(
    {
        "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "LANGUAGE", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT",
        "SPII", "MALFORMED_FUNCTION_CALL", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_OTHER",
        "NO_IMAGE", "IMAGE_RECITATION", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE", "MALFORMED_RESPONSE", "MODEL_ARMOR",
    }
)  # fmt: skip
"""Google's finish reasons, which a provider of another protocol may state too."""
_MALFORMED = "MALFORMED_FUNCTION_CALL"
_MODALITIES = ("audio", "image", "video")
_MALFORMED_CHARS = 2000


@dataclass(slots=True)
class CallPieces:
    """A function call as far as it was read."""

    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class CandidateState:
    """What was read of one candidate beside the text that left.

    Attributes:
        calls: Its function calls, in order.
        thinking: What it thought.
        refusal: The text of its refusal.
        has_content: Any part of it left, or waits.
    """

    calls: list[CallPieces] = field(default_factory=list[CallPieces])
    thinking: list[ThinkingPiece] = field(default_factory=list[ThinkingPiece])
    refusal: str = ""
    has_content: bool = False

    def add(self, delta: ChatDelta) -> None:
        """Notes what a delta adds."""
        self.thinking += delta.thinking
        self.refusal += delta.refusal
        self.has_content = self.has_content or any(delta)
        for piece in delta.tool_calls:
            if piece.position == len(self.calls):
                self.calls.append(CallPieces())
            call = self.calls[piece.position]
            call.call_id = call.call_id or piece.call_id
            call.name = call.name or piece.name
            if piece.text:
                call.arguments.append(piece.text)


def render_answer(reply: bytes, model: str, context: GeminiContext) -> Json:
    """Returns the response of a whole chat answer; raises `ProviderFailed` when it is none."""
    readers = open_readers(context)
    candidates: list[Json] = []
    for index, reader in enumerate(readers):
        delta, state, unwrapper = reader.read_answer(reply), CandidateState(), Unwrapper(context.unwraps)
        delta = delta._replace(text=unwrapper.feed(delta.text) + unwrapper.end())
        state.add(delta)
        shown = [*shown_parts(delta, context), *closing_parts(state, context)]
        candidate: Json = candidate_of(shown, index) | ending(reader, state) | logprobs_of(delta.logprobs)
        if delta.annotations:
            candidate["citationMetadata"] = citations(delta.annotations)
        if is_blocked(reader, state):
            return response({"promptFeedback": {"blockReason": "SAFETY"}}, readers, model)
        if index == 0 or state.has_content or reader.finish_reason:
            candidates.append(candidate)
    return response({"candidates": candidates}, readers, model)


def open_readers(context: GeminiContext) -> list[ChatAnswerReader]:
    """Returns a reader for each requested candidate."""
    if context.candidates == 1:
        return [ChatAnswerReader()]
    return [ChatAnswerReader(choice) for choice in range(context.candidates)]


def response(document: Json, readers: Sequence[ChatAnswerReader], model: str) -> Json:
    """A response, or a chunk of one that is the last, with its usage."""
    usage = readers[0].usage
    counted = {"usageMetadata": usage_metadata(usage)} if usage is not None else {}
    return document | counted | head(readers[0].answer_id, model)


def head(answer_id: str, model: str) -> Json:
    """The fields that every chunk of a response has."""
    return {"modelVersion": model, "responseId": answer_id or uuid4().hex}


def candidate_of(parts: list[Json], index: int) -> Json:
    """A candidate with these parts."""
    return {"content": {"parts": parts, "role": "model"}, "index": index}


def shown_parts(delta: ChatDelta, context: GeminiContext) -> list[Json]:
    """The parts that show at once: thoughts, text, images."""
    parts: list[Json] = []
    if context.shows_thoughts:
        parts += ({"text": piece.text, "thought": True} for piece in delta.thinking if piece.text)
    parts += ({"text": text} for text in (delta.text, delta.refusal) if text)
    parts += map(_image, delta.images)
    return parts


def _image(link: str) -> Json:
    """An image that the model made: inline, or by its address."""
    if link.startswith("data:"):
        media_type, _, data = link.removeprefix("data:").partition(";base64,")
        if data:
            return {"inlineData": {"mimeType": media_type, "data": data}}
    return {"fileData": {"fileUri": link}}


def closing_parts(state: CandidateState, context: GeminiContext) -> list[Json]:
    """The calls of a candidate, and the signature of what it thought, on the first of them or alone."""
    blocks = thinking_blocks(state.thinking)
    parts: list[Json] = []
    for call in state.calls:
        arguments = call_arguments(call)
        if arguments is None:
            continue
        call_id, signature = split_call_id(call.call_id)
        made: Json = {"name": restored_name(context.tool_names, call.name), "args": arguments}
        if call_id:
            made["id"] = call_id
        parts.append({"functionCall": made} | ({"thoughtSignature": signature} if signature else {}))
    if parts and blocks:
        parts[0].setdefault("thoughtSignature", seal_blocks(blocks))
    elif is_signed(blocks):
        parts.append({"text": "", "thoughtSignature": seal_blocks(blocks)})
    return parts


def call_arguments(call: CallPieces) -> Json | None:
    """The arguments of a call, none where the model wrote none; None when they are no JSON object."""
    written = "".join(call.arguments)
    if not written.strip():
        return {}
    try:
        parsed = orjson.loads(written)
    except orjson.JSONDecodeError:
        return None
    return parsed if is_object(parsed) else {} if parsed is None else None


def ending(reader: ChatAnswerReader, state: CandidateState) -> Json:
    """Why a candidate ended, and the message about it."""
    reason = _finish_reason(reader, state)
    malformed = [call for call in state.calls if call_arguments(call) is None]
    if malformed and reason == "STOP":
        reason = _MALFORMED
    message = state.refusal
    if malformed:
        call = malformed[0]
        message = f"Malformed function call: {call.name}({''.join(call.arguments)[:_MALFORMED_CHARS]})"
    return {"finishReason": reason} | ({"finishMessage": message} if message else {})


def _finish_reason(reader: ChatAnswerReader, state: CandidateState) -> str:
    for stated in (reader.native_reason, reader.finish_reason or ""):
        if stated.upper() in OWN_REASONS:
            return "SAFETY" if stated.upper() == "STOP" and state.refusal else stated.upper()
    reason = _REASONS[finish_kind(reader.finish_reason)]
    return "SAFETY" if reason == "STOP" and state.refusal else reason


def is_blocked(reader: ChatAnswerReader, state: CandidateState) -> bool:
    """Whether the prompt was blocked: filtered, without an answer or a token of one."""
    written = reader.usage.completion if reader.usage is not None else 0
    return finish_kind(reader.finish_reason) == "content_filter" and not state.has_content and not written


def usage_metadata(usage: ChatUsage) -> Json:
    """A chat's usage, counted in Google's way."""
    answered = max(usage.completion - usage.reasoning, 0)
    counted: Json = {
        "promptTokenCount": usage.prompt,
        "candidatesTokenCount": answered,
        "totalTokenCount": usage.prompt + usage.completion,
        "promptTokensDetails": [*_modalities("prompt", usage.prompt, usage)],
        "candidatesTokensDetails": [*_modalities("completion", answered, usage)],
    }
    if usage.reasoning:
        counted["thoughtsTokenCount"] = usage.reasoning
    if usage.cached:
        counted["cachedContentTokenCount"] = usage.cached
        counted["cacheTokensDetails"] = [*_modalities("cached", usage.cached, usage)]
    return counted


def _modalities(part: str, total: int, usage: ChatUsage) -> Iterator[Json]:
    """Yields the tokens of each modality; what is not stated as another is text."""
    others = {kind: usage.parts.get(f"{part}_{kind}_tokens", 0) for kind in _MODALITIES}
    text = max(total - sum(others.values()), 0)
    for kind, tokens in {"text": text, **others}.items():
        if tokens:
            yield {"modality": kind.upper(), "tokenCount": tokens}


def logprobs_of(tokens: Iterable[Json]) -> Json:
    """The log probabilities of a candidate's tokens; nothing without any."""
    chosen = [_logprob(token) for token in tokens]
    if not chosen:
        return {}
    top = [
        {"candidates": [_logprob(one) for one in as_objects(token.get("top_logprobs"))]} for token in tokens
    ]
    known = [one["logProbability"] for one in chosen if "logProbability" in one]
    document: Json = {"logprobsResult": {"chosenCandidates": chosen, "topCandidates": top}}
    return document | ({"avgLogprobs": sum(known) / len(known)} if known else {})


def _logprob(token: Json) -> Json:
    probability: Any = token.get("logprob")
    stated = {"logProbability": probability} if type(probability) in {int, float} else {}
    return {"token": str(token.get("token") or "")} | stated


def citations(annotations: Iterable[Json]) -> Json:
    """The addresses that a text names as its sources."""
    found: list[Json] = []
    for one in annotations:
        cited = as_object(one.get("url_citation"))
        places = {"startIndex": cited.get("start_index"), "endIndex": cited.get("end_index")}
        stated = {name: value for name, value in places.items() if type(value) is int}
        found.append({**stated, "uri": str(cited.get("url") or "")})
    return {"citationSources": found}
