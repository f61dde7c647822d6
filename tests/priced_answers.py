"""Answers with every kind of token that is billed apart, and what each costs.

A cost is calculated here from LiteLLM's price list by hand; no code of ours or of LiteLLM's is asked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from odd_provider_answers import STOP, chunk, stream, whole
from sidecars import Json, Mode

from llm_proxy.stack.process_specs import sidecar_python

LIST = "lib/python3*/site-packages/litellm/model_prices_and_context_window_backup.json"
[_LIST] = sidecar_python().parents[1].glob(LIST)
PRICES: dict[str, dict[str, Any]] = json.loads(_LIST.read_text())
IN, OUT = "input_cost_per_token", "output_cost_per_token"
READ, WRITE = "cache_read_input_token_cost", "cache_creation_input_token_cost"
WRITE_1H = f"{WRITE}_above_1hr"
LONG = "_above_272k_tokens"
MODES: tuple[Mode, Mode] = ("chat", "stream")


@dataclass(frozen=True, slots=True)
class Case:
    """One answer, and what it costs.

    Attributes:
        model: The entry of the price list; empty where `usd` is the cost.
        parts: Price -> how many tokens it is for.
        stated: What the answer states beside its usage.
        asked: What the request asks beside its messages.
        kept: What the record says beside the cost.
    """

    group: str
    usage: Json
    model: str = ""
    parts: Mapping[str, int] = field(default_factory=dict[str, int])
    usd: str | None = None
    factor: str = "1"
    stated: Json = field(default_factory=dict[str, Any])
    asked: Json = field(default_factory=dict[str, Any])
    kept: Json = field(default_factory=dict[str, Any])

    @property
    def cost_usd(self) -> Decimal | None:
        """What the provider bills; None where no price is known."""
        if not self.model:
            return None if self.usd is None else Decimal(self.usd)
        prices = PRICES[self.model]
        total = sum(Decimal(str(prices[name])) * tokens for name, tokens in self.parts.items())
        return total * Decimal(self.factor)


def said(prompt: int, completion: int, **more: Any) -> Json:
    """A usage on OpenAI's wire."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return counts | more


def details(**parts: int) -> Json:
    """Parts of the prompt."""
    return {"prompt_tokens_details": parts}


TIERS = {"flex": "_flex", "priority": "_priority", "fast": "_priority", "default": "", "scale": ""}
CACHED = details(cached_tokens=400, cache_write_tokens=300)
GPT, CLAUDE, GEMINI, FLASH = "gpt-5.6", "claude-opus-4-6", "gemini/gemini-2.5-pro", "gemini/gemini-2.5-flash"
BARE = {IN: 1000, OUT: 100}
CASES: dict[str, Case] = {
    "plain": Case("gpt", said(1000, 100), GPT, BARE),
    "cached": Case(
        "gpt", said(1000, 100, **details(cached_tokens=400)), GPT, {IN: 600, READ: 400, OUT: 100},
        kept={"cached_tokens": 400},
    ),
    "cache-write": Case(
        "gpt", said(1000, 100, **CACHED), GPT, {IN: 300, READ: 400, WRITE: 300, OUT: 100},
        kept={"cached_tokens": 400, "cache_write_tokens": 300},
    ),
    "cache-write-beside": Case(
        "gpt", said(1000, 100, cache_creation_input_tokens=300, cache_read_input_tokens=200), GPT,
        {IN: 500, READ: 200, WRITE: 300, OUT: 100}, kept={"cached_tokens": 200, "cache_write_tokens": 300},
    ),
    "cache-creation": Case(
        "gpt", said(1000, 100, **details(cache_creation_tokens=300)), GPT, {IN: 700, WRITE: 300, OUT: 100},
        kept={"cache_write_tokens": 300},
    ),
    "guarded-cache-write": Case(
        "guarded", said(1000, 100, cache_creation_input_tokens=300), GPT, {IN: 700, WRITE: 300, OUT: 100},
        kept={"cache_write_tokens": 300},
    ),
    "cached-beside": Case(
        "moonshot", said(1000, 100, cached_tokens=400), "moonshot/kimi-k2.6", {IN: 600, READ: 400, OUT: 100},
        kept={"cached_tokens": 400},
    ),
    "deepseek": Case(
        "deepseek", said(1000, 100, prompt_cache_hit_tokens=400, prompt_cache_miss_tokens=600),
        "deepseek/deepseek-chat", {IN: 600, READ: 400, OUT: 100}, kept={"cached_tokens": 400},
    ),
    "reasoning": Case(
        "gpt", said(1000, 500, completion_tokens_details={"reasoning_tokens": 400}), GPT,
        {IN: 1000, OUT: 500}, kept={"reasoning_tokens": 400},
    ),
    "audio": Case(
        "realtime",
        said(1000, 500, **details(audio_tokens=300), completion_tokens_details={"audio_tokens": 200}),
        "gpt-realtime",
        {IN: 700, "input_cost_per_audio_token": 300, OUT: 300, "output_cost_per_audio_token": 200},
        kept={"token_details": {"prompt_audio_tokens": 300, "completion_audio_tokens": 200}},
    ),
    "audio-and-text": Case(
        "realtime", said(1000, 500, **details(audio_tokens=300, text_tokens=700)), "gpt-realtime",
        {IN: 700, "input_cost_per_audio_token": 300, OUT: 500},
        kept={"token_details": {"prompt_audio_tokens": 300, "prompt_text_tokens": 700}},
    ),
    "image": Case(
        "realtime", said(1000, 500, **details(image_tokens=300)), "gpt-realtime",
        {IN: 700, "input_cost_per_image_token": 300, OUT: 500},
        kept={"token_details": {"prompt_image_tokens": 300}},
    ),
    **{
        f"tier-{tier}": Case(
            "gpt", said(1000, 100, **CACHED), GPT,
            {IN + end: 300, READ + end: 400, WRITE + end: 300, OUT + end: 100},
            stated={"service_tier": tier}, kept={"service_tier": tier},
        )
        for tier, end in TIERS.items()
    },
    "tier-asked-for-and-not-given": Case(
        "gpt", said(1000, 100), GPT, BARE, stated={"service_tier": "default"},
        asked={"service_tier": "priority"}, kept={"service_tier": "default"},
    ),
    "tier-another-than-asked-for": Case(
        "gpt", said(1000, 100), GPT, {f"{IN}_priority": 1000, f"{OUT}_priority": 100},
        stated={"service_tier": "priority"}, asked={"service_tier": "flex"},
        kept={"service_tier": "priority"},
    ),
    "tier-in-the-usage": Case(
        "gpt", said(1000, 100, service_tier="flex"), GPT, {f"{IN}_flex": 1000, f"{OUT}_flex": 100},
        kept={"service_tier": "flex"},
    ),
    "guarded-tier": Case(
        "guarded", said(1000, 100), GPT, {f"{IN}_flex": 1000, f"{OUT}_flex": 100},
        stated={"service_tier": "flex"}, kept={"service_tier": "flex"},
    ),
    "long": Case(
        "gpt", said(300_000, 100, **CACHED), GPT,
        {IN + LONG: 299_300, READ + LONG: 400, WRITE + LONG: 300, OUT + LONG: 100},
    ),
    "long-and-flex": Case(
        "gpt", said(300_000, 100), GPT, {f"{IN}{LONG}_flex": 300_000, f"{OUT}{LONG}_flex": 100},
        stated={"service_tier": "flex"},
    ),
    "text-completion": Case("text", said(1000, 100), "gpt-3.5-turbo-instruct", BARE),
    "anthropic": Case(
        "claude",
        {"input_tokens": 300, "output_tokens": 100, "cache_creation_input_tokens": 300,
         "cache_read_input_tokens": 400},
        CLAUDE, {IN: 300, READ: 400, WRITE: 300, OUT: 100},
        kept={"cached_tokens": 400, "cache_write_tokens": 300, "prompt_tokens": 1000},
    ),
    "anthropic-5m-and-1h": Case(
        "claude",
        {"input_tokens": 300, "output_tokens": 100, "cache_creation_input_tokens": 300,
         "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200}},
        CLAUDE, {IN: 300, WRITE: 100, WRITE_1H: 200, OUT: 100}, kept={"cache_write_tokens": 300},
    ),
    "anthropic-region": Case(
        "claude", {"input_tokens": 300, "output_tokens": 100, "inference_geo": "us"}, CLAUDE,
        {IN: 300, OUT: 100}, factor="1.1",
    ),
    "anthropic-fast": Case(
        "claude-fast", {"input_tokens": 300, "output_tokens": 100, "speed": "fast"}, "claude-opus-4-8",
        {IN: 300, OUT: 100}, factor="2",
    ),
    "gemini-thoughts": Case(
        "gemini",
        {"promptTokenCount": 1000, "candidatesTokenCount": 100, "thoughtsTokenCount": 50,
         "cachedContentTokenCount": 400, "totalTokenCount": 1150},
        GEMINI, {IN: 600, READ: 400, OUT: 150}, kept={"reasoning_tokens": 50, "cached_tokens": 400},
    ),
    "gemini-long": Case(
        "gemini",
        {"promptTokenCount": 250_000, "candidatesTokenCount": 100, "totalTokenCount": 250_100},
        GEMINI, {f"{IN}_above_200k_tokens": 250_000, f"{OUT}_above_200k_tokens": 100},
    ),
    "gemini-audio": Case(
        "flash",
        {"promptTokenCount": 1000, "candidatesTokenCount": 100, "totalTokenCount": 1100,
         "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 300},
                                 {"modality": "AUDIO", "tokenCount": 700}]},
        FLASH, {IN: 300, "input_cost_per_audio_token": 700, OUT: 100},
    ),
    "gemini-priority": Case(
        "gemini",
        {"promptTokenCount": 1000, "candidatesTokenCount": 100, "totalTokenCount": 1100,
         "trafficType": "ON_DEMAND_PRIORITY"},
        GEMINI, {f"{IN}_priority": 1000, f"{OUT}_priority": 100},
    ),
    "own-prices": Case(
        "own", said(1000, 100, **CACHED), usd="0.00124",  # 300 at 1e-6, 400 at 1e-7, 300 at 2e-6, 100 at 3e-6
    ),
    "own-prices-before-a-stated-cost": Case("own", said(1000, 100, cost=0.25), usd="0.0013"),
    "stated-cost": Case("openrouter", said(1000, 100, cost=0.25), usd="0.25"),
    "stated-cost-of-0": Case("openrouter", said(1000, 100, cost=0), usd="0"),
    "free": Case("free", said(1000, 100), usd="0"),
    "free-cached": Case("free", said(1000, 100, **CACHED), usd="0", kept={"cached_tokens": 400}),
    "free-tier": Case("free", said(300_000, 100), usd="0", stated={"service_tier": "priority"}),
    "nothing-used": Case("gpt", said(0, 0), usd="0", kept={"prompt_tokens": 0, "completion_tokens": 0}),
    "no-price": Case("unpriced", said(1000, 100)),
}  # fmt: skip


def answer_of(case: Case, mode: Mode) -> list[str]:
    """What the provider writes."""
    writes = {
        "claude": _anthropic,
        "claude-fast": _anthropic,
        "gemini": _gemini,
        "flash": _gemini,
        "text": _text,
    }
    return writes.get(case.group, _openai)(case, mode)


def _openai(case: Case, mode: Mode) -> list[str]:
    message: Json = {"role": "assistant", "content": "Hi"}
    if mode == "chat":
        return [json.dumps(whole(message, usage=case.usage, **case.stated))]
    last = chunk(usage=case.usage)
    last["choices"] = []
    return stream(chunk(message) | case.stated, STOP, last)  # the tier comes first


def _text(case: Case, mode: Mode) -> list[str]:
    def part_of(text: str, finish: str | None) -> Json:
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
        return {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}

    if mode == "chat":
        return [json.dumps(part_of("Hi", "stop") | {"usage": case.usage})]
    return stream(
        part_of("Hi", None), part_of("", "stop"), part_of("", None) | {"choices": [], "usage": case.usage}
    )


def _anthropic(case: Case, mode: Mode) -> list[str]:
    message: Json = {
        "id": "m", "type": "message", "role": "assistant", "model": "x", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "Hi"}], "usage": case.usage,
    }  # fmt: skip
    if mode == "chat":
        return [json.dumps(message)]
    opening: Json = message | {"stop_reason": None, "usage": case.usage | {"output_tokens": 1}}
    opening["content"] = []
    events: list[Json] = [
        {"type": "message_start", "message": opening},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": case.usage["output_tokens"]},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events]


def _gemini(case: Case, mode: Mode) -> list[str]:
    def reply(text: str, finish: str | None, usage: Json) -> Json:
        candidate: Json = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        candidate |= {"finishReason": finish} if finish else {}
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "x", "responseId": "g"}

    if mode == "chat":
        return [json.dumps(reply("Hi", "STOP", case.usage))]
    prompt = case.usage["promptTokenCount"]
    first = reply("H", None, {"promptTokenCount": prompt, "totalTokenCount": prompt})
    return [f"data: {json.dumps(one)}\r\n\r\n" for one in (first, reply("i", "STOP", case.usage))]
