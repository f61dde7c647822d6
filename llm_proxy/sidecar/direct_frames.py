"""The frames of a direct stream, and the complete answer that they amount to, with its price.

Invariants: a row, and the cost in a frame, are those of LiteLLM's objects of the frames. Those are made only
from the first one on that has more than texts, calls of functions and OpenAI's counts of tokens: of a plain
stream, nothing but its usage, its tier and its id is priced and logged.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from llm_proxy.json_access import Json, as_list, as_object, is_array, is_object
from llm_proxy.sidecar import catalog, direct_internals, flat_prices
from llm_proxy.sidecar.direct_requests import OpenedStream
from llm_proxy.sidecar.direct_templates import DirectCall
from llm_proxy.sidecar.flat_prices import PlainAnswer, PlainUsage
from llm_proxy.sidecar.frame_template import KnownTemplate
from llm_proxy.sidecar.json_repair import encode
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.openai_passthrough import (
    PASSTHROUGH_ATTRIBUTE,
    TEXT_DELTA_FIELDS,
    PassthroughFrame,
    PassthroughStream,
)
from llm_proxy.sidecar.patches.patch import installed
from llm_proxy.sidecar.provider_lines import ProviderLines

FRAME = "chat.completion.chunk"
FRAME_FIELDS = frozenset(
    {
        *("id", "object", "created", "model", "choices", "usage"),
        *("system_fingerprint", "service_tier", "obfuscation"),
    }
)
CHOICE_FIELDS = frozenset({"index", "delta", "finish_reason", "logprobs"})
DELTA_FIELDS = TEXT_DELTA_FIELDS | {"tool_calls"}
PLAIN_REASONS = (None, "stop", "length", "tool_calls")
"""Finish reasons that stay what they are, and say no more."""
DONE_EVENT = b"data: [DONE]"
CALL_FIELDS = frozenset({"index", "id", "type", "function"})
OLLAMA_FINGERPRINT = "fp_ollama"
"""LiteLLM gives answers of Ollama an id of its own."""
UNPRICED_ATTRIBUTE, TEMPLATES_ATTRIBUTE = "_llmp_unpriced", "_llmp_frame_templates"
MAX_TIERS = 16


class PricedAnswer(NamedTuple):
    """A complete answer as far as it is logged.

    Attributes:
        result: LiteLLM's object.
        breakdown: The parts of the cost; None if they are not known.
        tier: The service tier of a plain answer.
    """

    result: Untyped
    cost_usd: float | None
    breakdown: Untyped
    tier: str | None = None


@dataclass(slots=True)
class _Unpriced:
    """What LiteLLM says of the cost where no price is known, after many look-ups: the same for any usage.

    Attributes:
        prices: Which list of prices it knew.
        frames: The service tiers of which it states no cost in a frame.
        answers: Tier -> the cost and its parts.
    """

    prices: tuple[int, int]
    frames: set[str | None] = field(default_factory=set[str | None])
    answers: dict[str | None, tuple[float | None, Any]] = field(
        default_factory=dict[str | None, tuple[float | None, Any]]
    )


def _unpriced(pricing: Untyped) -> _Unpriced:
    """Return what is known of a deployment; what was known with other prices is forgotten."""
    prices, found = direct_internals.known_prices(), getattr(pricing, UNPRICED_ATTRIBUTE, None)
    if found is None or found.prices != prices:
        found = _Unpriced(prices)
        setattr(pricing, UNPRICED_ATTRIBUTE, found)
    return found


class _ProviderStream:
    """What `PassthroughStream` and `alike_frames` use of LiteLLM's object for a stream.

    Attributes:
        known_templates: Those of earlier streams of the same form.
        keep_text: Keeps an event that was sent; returns False if a frame has to be made of it.
    """

    completion_stream = None
    keep_text: Callable[[bytes], bool] | None = None

    def __init__(self, pricing: Untyped, frames: PassthroughStream) -> None:
        self.logging_obj = pricing
        self.merge_reasoning_content_in_choices = bool(
            pricing.litellm_params.get("merge_reasoning_content_in_choices")
        )
        self.sent_stream_usage = False
        self.received_finish_reason: str | None = None
        self.known_templates: list[KnownTemplate] = pricing.__dict__.setdefault(TEMPLATES_ATTRIBUTE, [])
        setattr(self, PASSTHROUGH_ATTRIBUTE, frames)


class DirectFrames(PassthroughStream):
    """Makes the frames of one direct stream."""

    def __init__(
        self,
        lines: ProviderLines,
        call: DirectCall,
        pricing: Untyped,
        opened: OpenedStream,
        note_event: Callable[[bytes], None],
    ) -> None:
        """Create it.

        Args:
            lines: The provider's events.
            call: The call.
            pricing: LiteLLM's logging object of the call that the request's template was learned from.
            opened: The provider's answer.
            note_event: Gets the bytes of an event that is not taken as a line.
        """
        options = as_object(call.parameters.get("stream_options"))
        self.source: Untyped = _ProviderStream(pricing, self)
        super().__init__(self.source, lines, call.group, wants_usage=bool(options.get("include_usage")))
        self._call, self._pricing, self._opened = call, pricing, opened
        self._events, self._note_event = lines, note_event
        self._checked: Json | None = None
        self.hidden = direct_internals.hidden_of_stream(pricing, opened.headers)
        self._unpriced = _unpriced(pricing)
        self._is_plain = {"stream_prices", "counted"} <= installed
        self._kept: list[Json] = []
        self._more_texts: list[str] = []
        self._usage: Json | None = None
        self._priced: PricedAnswer | None = None
        if not self._is_plain:
            self._make_chunks()

    @property
    def has_usage(self) -> bool:
        """Whether a frame stated the usage."""
        return bool(self._stream.sent_stream_usage)

    async def read_frame(self) -> PassthroughFrame | None:
        """Return the next frame to send; None at the end. A plain event needs no repair."""
        lines = self._events
        while self._is_plain and not self.holds_text:
            if lines.is_drained:
                await lines.read()
            event = lines.next_event
            chunk = read_plain(event) if event is not None and event != DONE_EVENT else None
            if event is None or (chunk is None and event != DONE_EVENT):
                break
            lines.take_event()
            self._note_event(event)
            if chunk is None:
                await self._drain()
                return None
            made = self._convert_plain(chunk)
            if made is not None:
                has_cost = "usage" in made  # a float, which orjson writes otherwise
                raw = encode(made) if has_cost else orjson.dumps(made)
                return PassthroughFrame(b"data: " + raw + b"\n\n")
        return await super().read_frame()

    def _convert_plain(self, chunk: Json) -> Json | None:
        """Return a plain frame's data for the caller; None if there is nothing to send."""
        self._note_tier(chunk)
        self._checked = chunk
        self._keep(chunk)
        return self._for_caller(chunk)

    async def _drain(self) -> None:
        """Read the rest of the body, if there is one."""
        if not self._opened.is_ended:
            await super()._drain()

    def _keep_for_log(self, chunk: Json) -> None:
        """Keep a frame: as JSON as long as all are plain."""
        usage, choices = chunk.get("usage"), chunk["choices"]
        one_tier = chunk.get("service_tier") in (None, self._tier)
        has_plain = chunk is self._checked or is_plain(chunk)
        if self._is_plain and not (one_tier and has_plain and (not usage or self._usage is None)):
            self._make_chunks()
        if not self._is_plain:
            super()._keep_for_log(chunk)
            return
        self._usage = usage or self._usage
        if len(choices) == 1 and not usage and self._append_text(choices[0]):
            return
        self._end_text()
        self._kept.append(dict(chunk))
        for choice in choices:
            _complete_calls(choice)
        if len(choices) == 1 and not choices[0].get("finish_reason"):
            self._texts[choices[0]["index"]] = choices[0]["delta"]

    def keep_text(self, event: bytes) -> bool:
        """Keep the text of an event as that of a frame; return False if it has more, or needs a frame."""
        chunk = read_plain(event) if self._is_plain else None
        if chunk is None or "usage" in chunk or chunk.get("service_tier") not in (None, self._tier):
            return False
        choices: list[Json] = chunk["choices"]
        return len(choices) == 1 and self._append_text(choices[0])

    def _append(self, kept_delta: Untyped, text: str) -> None:
        if self._is_plain:
            self._more_texts.append(text)
        else:
            super()._append(kept_delta, text)

    def _end_text(self) -> None:
        """Append the texts to the delta that was kept for them."""
        if self._more_texts:
            (delta,) = self._texts.values()
            delta["content"] = f"{delta.get('content') or ''}{''.join(self._more_texts)}"
            self._more_texts = []
        self._texts.clear()

    def _make_chunks(self) -> None:
        """Make LiteLLM's object for the stream, and its chunks of the frames so far."""
        open_choices = [*self._texts]
        self._end_text()
        self._is_plain = False
        self._stream = made = direct_internals.stream_object(self._pricing, self._opened.headers)
        made.sent_stream_usage = self.source.sent_stream_usage
        made.received_finish_reason = self.source.received_finish_reason
        made.chunks += map(self._litellm_chunk, self._kept)
        for index in open_choices:
            self._texts[index] = made.chunks[-1].choices[0].delta

    def _with_cost(self, chunk: Json) -> Json:
        """Return a frame's usage with its cost; that of a plain answer is calculated once."""
        usage: Json = chunk["usage"]
        if not self._is_plain:
            return super()._with_cost(chunk)
        if self._tier in self._unpriced.frames:
            return usage
        priced = None if direct_internals.states_cost(self.hidden) else self._price()
        if priced is None or priced.cost_usd is None:
            found = super()._with_cost(chunk)
        else:
            known = catalog.is_cost_known(priced.cost_usd, None, *self._names())
            found = usage | ({"cost": priced.cost_usd} if known else {})
        if "cost" not in found and self._has_no_price():
            self._unpriced.frames.add(self._tier)
        return found

    def _price(self) -> PricedAnswer:
        """Return the answer with its cost."""
        usage, answer_id = as_object(self._usage), self._kept[0]["id"]
        flat = flat_prices.price(usage, self._pricing.model, self._tier, self._pricing, self.hidden)
        if flat is not None:
            answer = PlainAnswer(answer_id, PlainUsage(usage), self._tier)
            self._priced = PricedAnswer(answer, *flat, self._tier)
            return self._priced
        made = direct_internals.answer_with_usage(answer_id, usage, self._tier, self._pricing, self.hidden)
        is_stated = direct_internals.states_cost(self.hidden)
        known = None if is_stated else self._unpriced.answers.get(self._tier)
        cost_usd, breakdown = known or direct_internals.price(made, self._pricing)
        if not is_stated and not cost_usd and self._has_no_price():
            self._unpriced.answers[self._tier] = cost_usd, breakdown
        self._priced = PricedAnswer(made, cost_usd, breakdown, self._tier)
        return self._priced

    def _names(self) -> tuple[str, str]:
        """Return the names by which prices are known: the deployment's, and the model's."""
        provider = str(self._pricing.model_call_details.get("custom_llm_provider") or "")
        name = catalog.qualified_model(provider, str(self._pricing.model))
        return str(self._pricing.get_router_model_id()), name

    def _has_no_price(self) -> bool:
        """Whether no price is known, though the usage has tokens of both kinds: any other is the same."""
        usage = as_object(self._usage)
        has_room = len(self._unpriced.frames) + len(self._unpriced.answers) < MAX_TIERS
        has_both = bool(usage.get("prompt_tokens") and usage.get("completion_tokens"))
        return has_room and has_both and not catalog.prices_of(*self._names())

    def complete(self) -> PricedAnswer:
        """Return the complete answer."""
        if self._is_plain:
            known = self._priced
            return known if known is not None and known.tier == self._tier else self._price()
        result = direct_internals.complete_stream(self._stream, self._call.content)
        return PricedAnswer(result, *direct_internals.price_of_stream(result, self._stream.logging_obj))


def _complete_calls(choice: Json) -> None:
    """State the type of each call, as LiteLLM's class does."""
    for call in as_list(choice["delta"].get("tool_calls")):
        call["type"] = call.get("type") or "function"


def read_plain(event: bytes) -> Json | None:
    """Return the frame of a provider's event if it is plain, without calls, and needs no repair."""
    if not event.startswith(b"data:") or b"\n" in event or b"\r" in event:
        return None
    try:
        chunk: object = orjson.loads(event[5:])
    except ValueError:
        return None
    if not is_object(chunk) or not is_array(chunk.get("choices")):
        return None
    if not chunk.get("usage"):
        chunk.pop("usage", None)
    has_usage = is_object(chunk.get("usage", {}))
    has_text = isinstance(chunk.get("obfuscation") or "", str)
    is_sound = has_usage and has_text and all(map(_needs_no_repair, chunk["choices"]))
    return chunk if is_sound and is_plain(chunk) else None


def _needs_no_repair(choice: object) -> bool:
    if not is_object(choice) or type(choice.get("index")) is not int:
        return False
    delta: object = choice.get("delta")
    return is_object(delta) and "tool_calls" not in delta and choice.get("finish_reason") in PLAIN_REASONS


def is_plain(chunk: Json) -> bool:
    """Whether a repaired frame has no more than texts, calls, counts, a tier and an id."""
    return (
        chunk.keys() <= FRAME_FIELDS
        and chunk.get("object") == FRAME
        and bool(chunk.get("id"))
        and isinstance(chunk["id"], str)
        and isinstance(chunk.get("service_tier") or "", str)
        and isinstance(chunk.get("system_fingerprint") or "", str)
        and chunk.get("system_fingerprint") != OLLAMA_FINGERPRINT
        and type(chunk.get("created")) is int
        and all(map(_is_plain_choice, chunk["choices"]))
        and (not chunk.get("usage") or flat_prices.is_plain_usage(chunk["usage"]))
    )


def _is_plain_choice(choice: Json) -> bool:
    delta = as_object(choice.get("delta"))
    texts = all(isinstance(value, str | None) for name, value in delta.items() if name != "tool_calls")
    calls = delta.get("tool_calls")
    return (
        choice.keys() <= CHOICE_FIELDS
        and choice.get("logprobs") is None
        and delta.keys() <= DELTA_FIELDS
        and texts
        and (calls is None or (is_array(calls) and all(map(_is_plain_call, calls))))
    )


def _is_plain_call(call: object) -> bool:
    if not is_object(call) or not call.keys() <= CALL_FIELDS or call.get("type") not in (None, "function"):
        return False
    function: Any = call.get("function")
    return (
        is_object(function)
        and function.keys() <= {"name", "arguments"}
        and all(isinstance(value, str | None) for value in function.values())
        and isinstance(call.get("id"), str | None)
    )
