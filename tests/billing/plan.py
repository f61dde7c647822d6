"""The calls of a billing audit: model groups with prices, what is asked, what the provider is told to do.

Invariants: the same seed plans the same calls; each call carries a mark in its prompt and as `X-Request-Id`;
prices are text in the configuration and `Decimal` here, so that a cost owes nothing to anybody's floats;
prompts and answers are as long in tokens as a real tokenizer says. Money is nano-dollars, rounded up once.
"""

import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Decimal
from random import Random
from typing import Any

from scripted.script import WORDS, Script

from llm_proxy.stack.process_specs import sidecar_python

Json = dict[str, Any]
Tier = tuple[str, str, str, str]
NANO = Decimal(10) ** 9
INPUT, OUTPUT = "input_cost_per_token", "output_cost_per_token"
CACHE_READ, CACHE_WRITE = "cache_read_input_token_cost", "cache_creation_input_token_cost"
UNIT_PRICES = {"search_units": "input_cost_per_query", "characters": "input_cost_per_character"}
CACHED = ("cached_tokens", "cache_write_tokens", "cache_write_1h_tokens")
AGENTS, USERS = 400, tuple(f"user-{at}" for at in range(5))
EXACT, LEAVING, POOR, OTHERS = ("north", "south", "east"), "leaving", "poor", "others"
"""Tenants: whose calls' tokens the provider all states, who leaves, whose budget is small, and the rest."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model group.

    Attributes:
        physical: LiteLLM's name, `provider/model`.
        price: Dollars per token: prompt, completion, prompt read from the provider's cache; None is unknown.
        writes: Dollars per token written to that cache, for 5 minutes and an hour.
        tiers: By service tier: prompt, completion, read, written.
        native: The path of the API, beside chats, that its provider speaks itself.
        can: Which of `choices`, `tools`, `reasoning`, `cache` its provider has.
        unit: The column of what it bills instead of tokens.
        unit_price: Dollars for each of these.
    """

    physical: str
    price: tuple[str, str, str] | None = None
    writes: tuple[str, str] | None = None
    tiers: Mapping[str, Tier] = field(default_factory=dict[str, Tier])
    can: tuple[str, ...] = ()
    mode: str = "chat"
    native: str = ""
    unit: str = ""
    unit_price: str = ""

    @property
    def provider(self) -> str:
        """LiteLLM's name of the provider."""
        return self.physical.partition("/")[0]

    @property
    def name(self) -> str:
        """The model's name at the provider."""
        return self.physical.partition("/")[2]


OPENAI = ("choices", "tools", "reasoning", "cache")
CHEAP = ("0.00000015", "0.0000006", "0.000000075")
TIERS = {
    "flex": ("0.00000007", "0.00000031", "0.00000004", "0.00000009"),
    "priority": ("0.00000025", "0.000001", "0.000000125", "0.0000003125"),
}
MODELS = {
    "gpt": Model(
        "openai/gpt-4o-mini", CHEAP, ("0.0000001875", "0.0000001875"), TIERS, OPENAI, native="/v1/responses"
    ),
    "claude": Model(
        "anthropic/claude-sonnet-4-20250514",
        ("0.000003", "0.000015", "0.0000003"),
        ("0.00000375", "0.000006"),
        can=("tools", "cache"),
        native="/v1/messages",
    ),
    "gemini": Model("gemini/gemini-2.5-flash", ("0.0000003", "0.0000025", "0.000000075"), can=OPENAI[1:]),
    "ollama": Model("ollama_chat/llama3.1:8b", ("0.0000000125", "0.0000000333", "0.0000000125")),
    "compatible": Model("hosted_vllm/qwen3-8b", ("0.000000137", "0.00000041", "0.000000137"), can=OPENAI[:2]),
    "text": Model(
        "text-completion-openai/gpt-3.5-turbo-instruct",
        ("0.0000015", "0.000002", "0.0000015"),
        can=("choices",),
        mode="completion",
    ),
    "embed": Model("openai/text-embedding-3-small", ("0.00000002", "0", "0.00000002"), mode="embedding"),
    "sure": Model("deepseek/deepseek-chat", ("0.0000001", "0.0000003", "0.00000002")),
    "draw": Model("openai/gpt-image-1", ("0.000005", "0.00004", "0.000005"), mode="image_generation"),
    "rank": Model("cohere/rerank-v3.5", mode="rerank", unit="search_units", unit_price="0.0021"),
    "speak": Model("openai/tts-1", mode="audio_speech", unit="characters", unit_price="0.0000163"),
    "unpriced": Model("openai/never-heard-of", None, can=OPENAI),
    "steady": Model("openai/gpt-4o-mini", CHEAP, can=OPENAI),
    "first": Model("openai/gpt-4.1", ("0.000002", "0.000008", "0.0000005"), can=OPENAI),
}
SURE = "sure"
"""Of a provider of its own that never fails and is never left: its bill is known to the nano-dollar."""
CHATS = ("gpt", "claude", "gemini", "ollama", "compatible")
FALLBACK = {"first": "gemini"}
ROOTS = {"anthropic": "", "ollama_chat": "", "gemini": "/v1beta"}


def config() -> Json:
    """LiteLLM's configuration; `PROVIDER` stands for the scripted provider's address."""
    return {
        "model_list": [_deployment(name, model) for name, model in MODELS.items()],
        "router_settings": {
            "num_retries": 1,
            "retry_policy": {"DefaultRetries": 0},
            "model_group_retry_policy": {"steady": {"InternalServerErrorRetries": 2}},
            "fallbacks": [{source: [target]} for source, target in FALLBACK.items()],
            "disable_cooldowns": True,
        },
        "general_settings": {"cancel_on_disconnect": True},
    }


def _deployment(name: str, model: Model) -> Json:
    info: Json = {"id": f"the-{name}", "mode": model.mode}
    if model.native:
        info["supported_endpoints"] = [model.native]
    if model.unit:
        info[UNIT_PRICES[model.unit]] = float(model.unit_price)
    if model.mode == "image_generation" and model.price:
        info |= {INPUT: float(model.price[0]), "output_cost_per_image_token": float(model.price[1])}
    elif model.price:
        info |= dict(zip((INPUT, OUTPUT, CACHE_READ), map(float, model.price), strict=True))
    if model.writes:
        info |= {CACHE_WRITE: float(model.writes[0]), f"{CACHE_WRITE}_above_1hr": float(model.writes[1])}
    for tier, prices in model.tiers.items():
        names = (INPUT, OUTPUT, CACHE_READ, CACHE_WRITE)
        info |= {f"{one}_{tier}": float(price) for one, price in zip(names, prices, strict=True)}
    base = "PROVIDER" + ROOTS.get(model.provider, "/v1")
    params = {"model": model.physical, "api_base": base, "api_key": "sk-scripted"}
    return {"model_name": name, "litellm_params": params, "model_info": info}


def units_of(group: str, body: Json) -> int:
    """What a provider bills for a request beside tokens; 0 where it bills these."""
    unit = MODELS[group].unit
    return len(body["input"]) if unit == "characters" else -(-len(body["documents"]) // 100) if unit else 0


def cost_nano_usd(group: str, usage: Json, units: int = 0) -> int | None:
    """What tokens a provider stated cost, or the units it bills; None without a price."""
    model = MODELS[group]
    if model.unit:
        return int((units * Decimal(model.unit_price) * NANO).to_integral_value(ROUND_CEILING))
    if model.price is None:
        return None
    prompt_usd, completion_usd, read_usd = map(Decimal, model.price)
    write_usd, hour_usd = map(Decimal, model.writes or ("0", "0"))
    if usage["service_tier"] in model.tiers:
        prompt_usd, completion_usd, read_usd, write_usd = map(Decimal, model.tiers[usage["service_tier"]])
    read, written, an_hour = (usage[name] for name in CACHED)
    dollars = (usage["prompt_tokens"] - read - written) * prompt_usd + read * read_usd
    dollars += (written - an_hour) * write_usd + an_hour * hour_usd
    dollars += usage["completion_tokens"] * completion_usd
    return int((dollars * NANO).to_integral_value(ROUND_CEILING))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of call.

    Attributes:
        weight: Its share.
        does: What the provider is told to do, one of these.
        outcome: The record's; empty when there must be no record. Budgets let no model without a price pass.
        leaves: The caller hangs up: after some frames, or while the provider thinks.
        counted: The provider states its tokens.
    """

    name: str
    weight: float
    groups: tuple[str, ...]
    stream: bool = False
    does: tuple[str, ...] = ("ok",)
    outcome: str = "ok"
    choices: bool = False
    repeated: bool = False
    leaves: bool = False
    greedy: bool = False
    counted: bool = True
    poor: bool = False


_TOOLS = tuple(name for name in CHATS if "tools" in MODELS[name].can)
_BREAKS = ("cut", "reset", "eof", "half-frame", "error-in-200")
_FAULTS = ("status-429", "status-500", "status-503", "status-400", "context")
KINDS = (
    Kind("chat", 20, (*CHATS, SURE)),
    Kind("chat, streamed", 24, (*CHATS, SURE), stream=True),
    Kind("tools", 3, _TOOLS, does=("tools",)),
    Kind("tools, streamed", 3, _TOOLS, does=("tools",), stream=True),
    Kind("several choices", 3, ("gpt", "compatible", "text"), choices=True),
    Kind("several choices, streamed", 3, ("gpt", "compatible"), choices=True, stream=True),
    Kind("text completion", 3, ("text",)),
    Kind("text completion, streamed", 4, ("text",), stream=True),
    Kind("embeddings", 6, ("embed",)),
    Kind("images", 2, ("draw",)),
    Kind("images, streamed", 2, ("draw",), stream=True),
    Kind("reranking", 3, ("rank",)),
    Kind("speech", 2, ("speak",), stream=True),
    Kind("asked twice", 4, (*CHATS, "text", "embed"), repeated=True),
    Kind("without a price", 1, ("unpriced",), outcome=""),
    Kind("without a price, streamed", 1, ("unpriced",), stream=True, outcome=""),
    Kind("tokens not stated", 1, ("gpt", "compatible"), counted=False),
    Kind("tokens not stated, streamed", 1, ("gpt", "compatible"), counted=False, stream=True),
    Kind("retried", 2, ("steady",), does=("flaky",)),
    Kind("retried, streamed", 2, ("steady",), does=("flaky",), stream=True),
    Kind("fallback", 2, ("first",), does=("flaky",)),
    Kind("fallback, streamed", 2, ("first",), does=("flaky",), stream=True),
    Kind("truncated", 2, CHATS, does=("cut", "reset", "garbage"), outcome="error"),
    Kind("truncated, streamed", 5, (*CHATS, "text"), does=_BREAKS, outcome="cut", stream=True),
    Kind("left", 3, CHATS, does=("slow-first",), outcome="client_gone", leaves=True),
    Kind("left, streamed", 5, CHATS, does=("slow",), outcome="client_gone", leaves=True, stream=True),
    Kind("failed", 3, CHATS, does=_FAULTS, outcome="error"),
    Kind("failed, streamed", 2, CHATS, does=_FAULTS, outcome="error", stream=True),
    Kind("rejected", 4, ("gpt",), does=("unknown key", "unknown model", "broken body"), outcome=""),
    Kind("greedy", 3, ("gpt",), greedy=True),
    Kind("poor", 3, ("gpt", "claude"), poor=True),
    Kind("poor, streamed", 3, ("gpt", "claude"), stream=True, poor=True),
)


_SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}}
_FUNCTION: Json = {"name": "weather", "parameters": _SCHEMA}
_TOOL_OF: dict[str, Json] = {
    "chat": {"type": "function", "function": _FUNCTION},
    "responses": {"type": "function", **_FUNCTION},
    "messages": {"name": "weather", "input_schema": _SCHEMA},
}
_PROMPTS = {
    "responses": "input",
    "embedding": "input",
    "completion": "prompt",
    "image_generation": "prompt",
    "rerank": "query",
    "audio_speech": "input",
}
_DOCUMENTS = 150
_MESSAGES_MAX_TOKENS = 2000


@dataclass(slots=True)
class PlannedCall:
    """One call to make.

    Attributes:
        prompt_mark: The mark in its prompt: its own, or that of the call it repeats.
        script: What the provider is told.
        api: Of a chat: `chat`, `responses` or `messages`; of another call its mode.
        frame_tokens: Tokens of each content frame of the first choice.
        again: The same call once more, after this one.
    """

    mark: str
    kind: Kind
    group: str
    prompt_mark: str
    prompt: str
    script: Json
    api: str
    choices: int = 1
    agent: str = ""
    tenant: str = ""
    user: str = ""
    leaves_frames: int | None = None
    leaves_s: float | None = None
    frame_tokens: list[int] = field(default_factory=list[int])
    again: "PlannedCall | None" = None
    is_again: bool = False

    @property
    def text(self) -> str:
        """The user's words; the directive comes last."""
        return f"{self.prompt_mark} {self.prompt} {json.dumps(self.script)}"

    def body(self) -> bytes:
        """The body to send."""
        body: Json = {"model": "no-such-model" if self.script["do"] == "unknown model" else self.group}
        said = [{"role": "user", "content": self.text}]
        body |= {"messages": said} if self.api in {"chat", "messages"} else {_PROMPTS[self.api]: self.text}
        if self.api == "rerank":
            body["documents"] = ["a document"] * _DOCUMENTS
        if self.api == "audio_speech":
            body["voice"] = "alloy"
        if self.api == "responses":
            body["store"] = False  # only such an answer is cached
        if self.kind.stream and self.api != "audio_speech":  # which is always one
            body["stream"] = True
            if len(self.prompt) % 2 and self.api in {"chat", "completion"}:
                body["stream_options"] = {"include_usage": True}  # half of the callers ask for it themselves
        if self.choices > 1:
            body["n"] = self.choices
        if self.script["do"] == "tools":
            body["tools"] = [_TOOL_OF[self.api]]
        if self.kind.poor or self.api == "messages":
            limit = "max_output_tokens" if self.api == "responses" else "max_tokens"
            body[limit] = self.script["completion_tokens"] if self.kind.poor else _MESSAGES_MAX_TOKENS
        raw = json.dumps(body).encode()
        return raw[:-1] if self.script["do"] == "broken body" else raw


def plan(calls: int, seed: int) -> list[PlannedCall]:
    """So many calls, in the order they are made; the second of a pair is in `again`, and counted."""
    drafts, random = draft(calls, seed), Random(f"tokens {seed}")
    _count_tokens(drafts)
    for one in drafts:
        _state_tokens(one, random)
        if one.again is not None:
            one.again = replace(one, mark=one.again.mark, is_again=True, again=None)
    return drafts


def draft(calls: int, seed: int) -> list[PlannedCall]:
    """The same, before their tokens are counted."""
    random, drafts, made = Random(seed), list[PlannedCall](), 0
    while made < calls:
        kind = random.choices(KINDS, [one.weight for one in KINDS])[0]
        drafts.append(_draft(kind, random))
        made += 1 + kind.repeated
    return drafts


def every(drafts: list[PlannedCall]) -> Iterator[PlannedCall]:
    """Every call, the second of each pair too."""
    for one in drafts:
        yield one
        if one.again is not None:
            yield one.again


def _mark(random: Random) -> str:
    return f"mark-{random.getrandbits(64):016x}"


def _draft(kind: Kind, random: Random) -> PlannedCall:
    group, mark = random.choice(kind.groups), _mark(random)
    length = min(800, int(random.lognormvariate(math.log(40), 1)) + 3)
    words = " ".join(random.choice(WORDS) for _ in range(length))
    script: Json = {"do": random.choice(kind.does), "frames": random.randint(4, 24), "key": mark}
    api = _api(kind, group, mark)
    made = PlannedCall(mark, kind, group, mark, words, script, api, agent=f"agent-{random.randrange(AGENTS)}")
    if script["do"] == "flaky":
        script["fails"] = random.randint(1, 2) if group == "steady" else 1
    if kind.outcome == "cut":
        script["after"] = random.randint(2, script["frames"] - 1)
    if kind.leaves and kind.stream:
        script |= {"frames": 60, "gap_ms": 60}
        made.leaves_frames = random.randint(3, 12)
    elif kind.leaves:
        script["first_ms"] = 6000
        made.leaves_s = random.uniform(1.0, 2.0)
    if kind.choices:
        made.choices = random.randint(2, 4)
    if kind.greedy:
        made.agent = "greedy"
    if not kind.counted:
        script["counted"] = False
    made.tenant, made.user = _tenant(kind, random), random.choice(USERS)
    if kind.repeated:
        made.again = replace(made, mark=_mark(random), is_again=True)
    return made


def _api(kind: Kind, group: str, mark: str) -> str:
    """Each API has a third of the chats that it can state."""
    mode = MODELS[group].mode
    if mode != "chat" or kind.choices or not kind.counted:
        return mode
    return Random(mark).choice(("chat", "responses", "messages"))


def _tenant(kind: Kind, random: Random) -> str:
    """Who leaves, and who has too little money, has a tenant of its own; so has what no budget can know."""
    if kind.poor or kind.leaves:
        return POOR if kind.poor else LEAVING
    sure = kind.outcome == "ok" and kind.counted and not kind.greedy and "unpriced" not in kind.groups
    return random.choice(EXACT) if sure else OTHERS


TOKENIZER = """
import importlib.util, json, os, sys
folder = os.path.dirname(importlib.util.find_spec("litellm").origin)
os.environ["TIKTOKEN_CACHE_DIR"] = folder + "/litellm_core_utils/tokenizers"
import tiktoken
encoding = tiktoken.get_encoding("cl100k_base")
def count(what):
    return len(encoding.encode(what)) if isinstance(what, str) else [count(one) for one in what]
json.dump(count(json.load(sys.stdin)), sys.stdout)
"""
"""Counts every text of a nested list, by the tokenizer LiteLLM ships with itself."""


def _count_tokens(drafts: list[PlannedCall]) -> None:
    frames = [
        [Script(frames=one.script["frames"], key=one.script["key"]).words(at) for at in range(one.choices)]
        for one in drafts
    ]
    command = [str(sidecar_python()), "-c", TOKENIZER]
    texts = json.dumps([[one.text for one in drafts], frames])
    done = subprocess.run(command, input=texts, capture_output=True, text=True, check=True)
    for one, prompt, choices in zip(drafts, *json.loads(done.stdout), strict=True):
        one.frame_tokens = choices[0]
        one.script |= {"prompt_tokens": prompt, "completion_tokens": sum(map(sum, choices))}


def _state_tokens(one: PlannedCall, random: Random) -> None:
    """Some were read from the provider's cache, some went into reasoning; embeddings complete nothing."""
    script, model = one.script, MODELS[one.group]
    if script["do"] == "tools":
        script["completion_tokens"] = random.randint(20, 60)
    if model.mode == "embedding":
        script["completion_tokens"] = 0
    if "cache" in model.can and random.random() < 0.4:
        script["cached_tokens"] = random.randint(1, script["prompt_tokens"])
    if model.writes and random.random() < 0.4:
        script["cache_write_tokens"] = random.randint(
            0, script["prompt_tokens"] - script.get("cached_tokens", 0)
        )
        if one.group == "claude":
            script["cache_write_1h_tokens"] = random.randint(0, script["cache_write_tokens"])
    if model.tiers and random.random() < 0.4:
        script["service_tier"] = random.choice(tuple(model.tiers))
    if "reasoning" in model.can and random.random() < 0.3:
        script["reasoning_tokens"] = random.randint(1, 500)
        script["completion_tokens"] += script["reasoning_tokens"]
