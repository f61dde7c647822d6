"""The calls of a reckoning: what is asked, what the provider is told to play, what must become of it.

Invariants: the same seed plans the same calls; each carries a mark of its own as `X-Request-Id` and in its
prompt, by which callers, provider and records are compared; prompts and answers are as long in tokens as
a real tokenizer says, so that an estimate has a truth to be measured by.
"""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from bench.reckoning_models import CHATS, MODELS, SURE
from llm_proxy.stack.process_specs import sidecar_python

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from scripted.script import WORDS, Script

Json = dict[str, Any]
AGENTS = 400
EXACT, LEAVING, POOR, OTHERS = ("north", "south", "east"), "leaving", "poor", "others"
"""Tenants: whose calls' tokens the provider all states, who leaves, whose budget is small, and the rest."""
USERS = tuple(f"user-{at}" for at in range(5))
TIERS = ("flex", "priority")
CUTS = ("cut", "reset", "eof", "half-frame", "error-in-200")
FAULTS = ("status-429", "status-500", "status-503", "status-400", "context")
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
REFUSALS = ("unknown key", "unknown model", "broken body")
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
PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions", "embedding": "/v1/embeddings"}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of call.

    Attributes:
        weight: Its share.
        plays: What the provider is told to do, one of these.
        expects: The record's outcome; empty when there must be no record. Budgets let no model without a
            price pass.
        leaves: The caller hangs up: after some frames, or while the provider thinks.
        counted: The provider states its tokens.
        poor: Its tenant has a budget that does not suffice for all of them.
    """

    name: str
    weight: float
    groups: tuple[str, ...]
    stream: bool = False
    plays: tuple[str, ...] = ("ok",)
    expects: str = "ok"
    choices: bool = False
    repeated: bool = False
    leaves: bool = False
    greedy: bool = False
    counted: bool = True
    poor: bool = False


_TOOLS = tuple(name for name in CHATS if MODELS[name].tools)
KINDS = (
    Kind("chat", 20, (*CHATS, SURE)),
    Kind("chat, streamed", 24, (*CHATS, SURE), stream=True),
    Kind("tools", 3, _TOOLS, plays=("tools",)),
    Kind("tools, streamed", 3, _TOOLS, plays=("tools",), stream=True),
    Kind("several choices", 3, ("gpt", "compatible", "text"), choices=True),
    Kind("several choices, streamed", 3, ("gpt", "compatible"), choices=True, stream=True),
    Kind("text completion", 3, ("text",)),
    Kind("text completion, streamed", 4, ("text",), stream=True),
    Kind("embeddings", 6, ("embed",)),
    Kind("asked twice", 4, (*CHATS, "text", "embed"), repeated=True),
    Kind("without a price", 1, ("unpriced",), expects=""),
    Kind("without a price, streamed", 1, ("unpriced",), stream=True, expects=""),
    Kind("tokens unsaid", 1, ("gpt", "compatible"), counted=False),
    Kind("tokens unsaid, streamed", 1, ("gpt", "compatible"), counted=False, stream=True),
    Kind("retried", 2, ("steady",), plays=("flaky",)),
    Kind("retried, streamed", 2, ("steady",), plays=("flaky",), stream=True),
    Kind("fallback", 2, ("first",), plays=("flaky",)),
    Kind("fallback, streamed", 2, ("first",), plays=("flaky",), stream=True),
    Kind("cut", 2, CHATS, plays=("cut", "reset", "garbage"), expects="error"),
    Kind("cut, streamed", 5, (*CHATS, "text"), plays=CUTS, expects="cut", stream=True),
    Kind("left", 3, CHATS, plays=("slow-first",), expects="client_gone", leaves=True),
    Kind("left, streamed", 5, CHATS, plays=("slow",), expects="client_gone", leaves=True, stream=True),
    Kind("failed", 3, CHATS, plays=FAULTS, expects="error"),
    Kind("failed, streamed", 2, CHATS, plays=FAULTS, expects="error", stream=True),
    Kind("refused", 4, ("gpt",), plays=REFUSALS, expects=""),
    Kind("greedy", 3, ("gpt",), greedy=True),
    Kind("poor", 3, ("gpt", "claude"), poor=True),
    Kind("poor, streamed", 3, ("gpt", "claude"), stream=True, poor=True),
)


@dataclass(slots=True)
class Planned:
    """One call to make.

    Attributes:
        said: The mark in its prompt: its own, or that of the call it repeats.
        play: What the provider is told.
        first_choice_tokens: Tokens of each content frame of the first choice.
        again: The same call once more, after this one.
    """

    mark: str
    kind: Kind
    group: str
    said: str
    prompt: str
    play: Json
    choices: int = 1
    agent: str = ""
    tenant: str = ""
    user: str = ""
    leaves_frames: int | None = None
    leaves_s: float | None = None
    first_choice_tokens: list[int] = field(default_factory=list[int])
    again: "Planned | None" = None
    is_again: bool = False

    @property
    def path(self) -> str:
        """The door."""
        return PATHS[MODELS[self.group].mode]

    @property
    def words(self) -> str:
        """What the user says; the directive comes last."""
        return f"{self.said} {self.prompt} {json.dumps(self.play)}"

    def body(self) -> bytes:
        """The body to send."""
        body: Json = {"model": "no-such-model" if self.play["do"] == "unknown model" else self.group}
        mode = MODELS[self.group].mode
        if mode == "chat":
            body["messages"] = [{"role": "user", "content": self.words}]
        else:
            body["input" if mode == "embedding" else "prompt"] = self.words
        if self.kind.stream:
            body["stream"] = True
            if len(self.prompt) % 2:  # half of the callers ask for the usage frame themselves
                body["stream_options"] = {"include_usage": True}
        if self.choices > 1:
            body["n"] = self.choices
        if self.play["do"] == "tools":
            body["tools"] = [TOOL]
        if self.kind.poor:
            body["max_tokens"] = self.play["completion_tokens"]
        raw = json.dumps(body).encode()
        return raw[:-1] if self.play["do"] == "broken body" else raw


def plan(calls: int, seed: int) -> list[Planned]:
    """So many calls, in the order they are made; the second of a pair is in `again`, and counted."""
    drafts = draft(calls, seed)
    random = Random(f"tokens {seed}")
    _count(drafts)
    for one in drafts:
        _state_tokens(one, random)
        if one.again is not None:
            one.again = replace(one, mark=one.again.mark, is_again=True, again=None)
    return drafts


def draft(calls: int, seed: int) -> list[Planned]:
    """The same, before their tokens are counted."""
    random = Random(seed)
    drafts: list[Planned] = []
    made = 0
    while made < calls:
        kind = random.choices(KINDS, [one.weight for one in KINDS])[0]
        drafts.append(_draft(kind, random))
        made += 1 + kind.repeated
    return drafts


def _mark(random: Random) -> str:
    return f"mark-{random.getrandbits(64):016x}"


def _draft(kind: Kind, random: Random) -> Planned:
    group, mark = random.choice(kind.groups), _mark(random)
    length = min(800, int(random.lognormvariate(math.log(40), 1)) + 3)
    words = " ".join(random.choice(WORDS) for _ in range(length))
    play: Json = {"do": random.choice(kind.plays), "frames": random.randint(4, 24), "key": mark}
    made = Planned(mark, kind, group, mark, words, play, agent=f"agent-{random.randrange(AGENTS)}")
    if play["do"] == "flaky":
        play["fails"] = random.randint(1, 2) if group == "steady" else 1
    if kind.expects == "cut":
        play["after"] = random.randint(2, play["frames"] - 1)
    if kind.leaves and kind.stream:
        play |= {"frames": 60, "gap_ms": 60}
        made.leaves_frames = random.randint(3, 12)
    elif kind.leaves:
        play["first_ms"] = 6000
        made.leaves_s = random.uniform(1.0, 2.0)
    if kind.choices:
        made.choices = random.randint(2, 4)
    if kind.greedy:
        made.agent = "greedy"
    made.tenant, made.user = _tenant(kind, random), random.choice(USERS)
    if not kind.counted:
        play["counted"] = False
    if kind.repeated:
        made.again = replace(made, mark=_mark(random), is_again=True)
    return made


def _tenant(kind: Kind, random: Random) -> str:
    """Who leaves, and who has too little money, has a tenant of its own; so has what no budget can know."""
    if kind.poor:
        return POOR
    if kind.leaves:
        return LEAVING
    sure = kind.expects == "ok" and kind.counted and not kind.greedy and "unpriced" not in kind.groups
    return random.choice(EXACT) if sure else OTHERS


def _frames(planned: Planned, choice: int) -> list[str]:
    return Script(frames=planned.play["frames"], key=planned.play["key"]).words(choice)


def _count(drafts: list[Planned]) -> None:
    """Real tokens of every prompt and every frame, by the tokenizer LiteLLM ships."""
    prompts = [one.words for one in drafts]
    frames = [[_frames(one, choice) for choice in range(one.choices)] for one in drafts]
    ran = subprocess.run(
        [str(sidecar_python()), "-c", TOKENIZER],
        input=json.dumps([prompts, frames]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    told: Any = json.loads(ran.stdout)
    for one, prompt, choices in zip(drafts, *told, strict=True):
        one.first_choice_tokens = choices[0]
        one.play["prompt_tokens"] = prompt
        one.play["completion_tokens"] = sum(map(sum, choices))


def _state_tokens(one: Planned, random: Random) -> None:
    """Some were read from the provider's cache, some went into reasoning; embeddings complete nothing."""
    play, model = one.play, MODELS[one.group]
    if play["do"] == "tools":
        play["completion_tokens"] = random.randint(20, 60)
    if model.mode == "embedding":
        play["completion_tokens"] = 0
    if model.remembers and model.mode == "chat" and random.random() < 0.4:
        play["cached_tokens"] = random.randint(1, play["prompt_tokens"])
    if model.writes and random.random() < 0.4:
        left = play["prompt_tokens"] - play.get("cached_tokens", 0)
        play["cache_write_tokens"] = random.randint(0, left)
        if one.group == "claude":
            play["cache_write_1h_tokens"] = random.randint(0, play["cache_write_tokens"])
    if model.tiers and random.random() < 0.4:
        play["service_tier"] = random.choice(TIERS)
    if model.reasons and random.random() < 0.3:
        play["reasoning_tokens"] = random.randint(1, 500)
        play["completion_tokens"] += play["reasoning_tokens"]


def every(plans: list[Planned]) -> Iterator[Planned]:
    """Every call, the second of each pair too."""
    for one in plans:
        yield one
        if one.again is not None:
            yield one.again
