"""Runs of agents: one conversation or several at once, call by call, with what the guard says to each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import NamedTuple

from llm_proxy.admission.fingerprints import fingerprint
from llm_proxy.admission.loop_guard import DEFAULT_RULE, Finding, encode_turn, find_loop
from llm_proxy.admission.turns import MemoryTurns, RunName
from llm_proxy.dialects import Call
from llm_proxy.identity.guard_rules import GuardRule
from traces.healthy import EPISODES, HELD_OUT_TRADES, TRADES, Agent, words
from traces.loops import EVASIONS, LOOPS, LoopKind, loop_length
from traces.wires import WIRES, Conversation, Step

_KEY = b"a key for traces, of 32 bytes...."
_LATENCY_S = (0.8, 6.0)
MIN_HEALTHY_TURNS = 50


class Heard(NamedTuple):
    """What the guard found at one call of a run; `looping` is what the agent really did."""

    turn: int
    looping: bool
    finding: Finding | None


@dataclass(slots=True)
class Store:
    """A limits store in memory, and its clock."""

    now_ms: int = 1_795_000_000_000
    turns: MemoryTurns = field(init=False)

    def __post_init__(self) -> None:
        """Connects the clock."""
        self.turns = MemoryTurns(lambda: self.now_ms)


@dataclass(slots=True)
class Player:
    """Sends the calls of one run to the guard."""

    seed: int
    store: Store = field(default_factory=Store)
    rule: GuardRule = DEFAULT_RULE
    sent: int = 0

    @property
    def key(self) -> str:
        """The run's key."""
        return RunName("acme", "key_1", f"run-{self.seed}").key

    async def begin(self, call: Call) -> tuple[int, Finding | None]:
        """Returns the number of a call's turn, and what the guard finds."""
        turn = fingerprint(call, _KEY)
        assert turn is not None
        past = await self.store.turns.add(self.key, encode_turn(turn))
        self.sent += 1
        return past.number, find_loop(turn, past.kept, past.spent_nano_usd, past.now_ms, self.rule)

    def end(self, number: int, usd: float, *, answered: bool = True) -> None:
        """Ends a turn."""
        self.store.turns.end(self.key, number, "o" if answered else "f", int(usd * 1e9))

    async def send(self, call: Call, step: Step, rng: Random) -> Finding | None:
        """Sends one call of a conversation, the failing tries before it included."""
        found: Finding | None = None
        for failing in (*[True] * step.failures, False):
            number, finding = await self.begin(call)
            found = found or finding
            self.store.now_ms += int(rng.uniform(*_LATENCY_S) * 1000)
            self.end(number, 0 if failing else step.usd, answered=not failing)
            self.store.now_ms += 800 if failing else 0
        self.store.now_ms += int(step.wait_s * 1000)
        return found


@dataclass(frozen=True, slots=True)
class Habits:
    """How an agent keeps its conversation: the steps it keeps, and after how many turns it sums them up."""

    window: int | None = None
    compacts_after: int | None = None

    def apply(self, talk: Conversation, turn: int, rng: Random) -> None:
        """Shortens a conversation."""
        if self.window is not None:
            talk.trim(self.window)
        if self.compacts_after is not None and turn % self.compacts_after == 0:
            talk.compact(words(rng, 60))


def _habits(rng: Random) -> Habits:
    chosen = rng.random()
    if chosen < 0.15:
        return Habits(window=rng.choice([3, 5, 10]))
    return Habits(compacts_after=rng.randint(15, 40)) if chosen < 0.3 else Habits()


def _agent(rng: Random, *, held_out: bool) -> Agent:
    return Agent(rng.choice(HELD_OUT_TRADES if held_out else TRADES), rng)


def _conversation(rng: Random, agent: Agent, task: str | None = None) -> Conversation:
    system = f"You are an agent for {agent.trade.name}. {words(rng, 40)}"
    return Conversation(rng.choice(WIRES), system, task or words(rng, 30), rng)


def work(agent: Agent) -> Iterator[Step]:
    """Healthy work without an end: episodes in any order."""
    while True:
        yield from agent.rng.choice(EPISODES)(agent)


async def looping_run(seed: int, kind: LoopKind, *, held_out: bool) -> list[Heard]:
    """Plays a run that works for a while and then loops; each body passes through its dialect."""
    rng = Random(seed)  # noqa: S311 -- a run is the same each time
    agent, player, habits = _agent(rng, held_out=held_out), Player(seed), _habits(rng)
    native = rng.random() < 0.5
    talk = _conversation(rng, agent)
    if kind == "same prompt":
        habits = Habits()
    healthy, heard = rng.randint(3, 15), list[Heard]()
    steps = [(False, one) for one in islice(work(agent), healthy)]
    loop = (LOOPS | EVASIONS)[kind](agent)
    steps += [(True, one) for one in islice(loop, loop_length(rng))]
    for turn, (looping, step) in enumerate(steps):
        call = talk.call(native=native)
        finding = await player.send(call, step, rng)
        heard.append(Heard(turn, looping, finding))
        if kind == "same prompt" and looping:
            continue
        talk.add(step)
        habits.apply(talk, turn + 1, rng)
    return heard


async def healthy_run(seed: int, *, held_out: bool, parsed: bool = False) -> list[Heard]:
    """Plays a healthy run of at least `MIN_HEALTHY_TURNS` turns, alone or with sub-agents at its side."""
    rng = Random(seed)  # noqa: S311 -- a run is the same each time
    agent, player = _agent(rng, held_out=held_out), Player(seed)
    native, heard = rng.random() < 0.5, list[Heard]()
    team = [_Member(_conversation(rng, agent), work(agent), _habits(rng))]
    if rng.random() < 0.25:
        team += _sub_agents(rng, agent)
    if rng.random() < 0.1:
        heard += await _samples(player, _conversation(rng, agent), rng.randint(3, 10))
    while len(heard) < MIN_HEALTHY_TURNS:
        for member in team:
            call = member.talk.call(native=native, parsed=parsed)
            step = next(member.steps)
            heard.append(Heard(len(heard), looping=False, finding=await player.send(call, step, rng)))
            member.turns += 1
            member.talk.add(step)
            member.habits.apply(member.talk, member.turns, rng)
    return heard


@dataclass(slots=True)
class _Member:
    talk: Conversation
    steps: Iterator[Step]
    habits: Habits
    turns: int = 0


def _sub_agents(rng: Random, agent: Agent) -> list[_Member]:
    """Sub-agents of one system prompt, which all begin with the same two looks around."""
    first: Sequence[Step] = [
        agent.step("list_files", {"path": "."}, words(rng, 30)),
        agent.step(agent.trade.read[0], {agent.trade.read[1]: "README"}, words(rng, 50)),
    ]
    system = f"You are a sub-agent. {words(rng, 30)}"
    wire, members = rng.choice(WIRES), list[_Member]()
    same_task = words(rng, 20) if rng.random() < 0.2 else None
    for _ in range(rng.randint(3, 8)):
        talk = Conversation(wire, system, same_task or words(rng, 20), rng)
        members.append(_Member(talk, _after(first, work(agent)), Habits()))
    return members


def _after(first: Sequence[Step], then: Iterator[Step]) -> Iterator[Step]:
    yield from first
    yield from then


async def _samples(player: Player, talk: Conversation, count: int) -> list[Heard]:
    """Sends one prompt several times at once, for the best of the answers."""
    begun = [await player.begin(talk.call(parsed=False)) for _ in range(count)]
    player.store.now_ms += 3000
    for number, _ in begun:
        player.end(number, 0.01)
    return [Heard(at, looping=False, finding=finding) for at, (_, finding) in enumerate(begun)]
