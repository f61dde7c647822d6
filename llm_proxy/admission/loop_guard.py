"""The loop guard's rules: whether a run repeats itself, by the fingerprints of its last turns.

Pure; the limits store keeps a run's turns (`redis/lua/turn.lua`, `memory_turns`), this file judges them.
Invariants: nothing is found in a run whose steps differ; a call that failed is no turn, so a retry is none;
turns of conversations that run side by side are kept apart by the step before each; the same turns give the
same finding. Units: milliseconds, nano-dollars.
"""

from collections.abc import Sequence
from itertools import pairwise
from struct import Struct
from typing import Literal, NamedTuple

from llm_proxy.admission.fingerprints import NO_STEP, Turn
from llm_proxy.identity.guard_rules import GuardMode, GuardRule

Signal = Literal["repeat", "cycle", "stall", "burst", "spend"]
MAX_TURNS_KEPT = 96
"""Turns of a run that the store keeps, of all its conversations together."""
SPEND_MINUTES = 5
"""Minutes over which what a run spends is averaged."""
BURST_WINDOW_MS = 300_000
PACED_MS, PACED_FACTOR = 5_000, 4
"""A run polls if its average time between an answer and the next call is at least this; thresholds are then
multiplied by the factor."""
MAX_NEW_SHARE = 4
"""A run stalls if at most one in this many of its turns has a step that no other turn has."""

RUNNING, ANSWERED, FAILED = b"r", b"o", b"f"
_RECORD = Struct(">13s13sc8s8s8sI")
"""When a call began and ended, as digits (0: not yet), how it ended, step, step before, prompt, size."""
RECORD_BYTES = _RECORD.size
TIMES_BYTES = 27
"""What the store writes of a record: the times and how it ended; the rest comes from the gateway."""
_TURN = Struct(">8s8s8sI")

DEFAULT_RULE = GuardRule(
    mode="off",
    notice=False,
    quarantine_s=600,
    repeats=5,
    cycles=4,
    max_period=5,
    stalled_turns=12,
    burst=20,
    nano_usd_per_minute=10_000_000_000,
)


class Finding(NamedTuple):
    """What the guard found, without any text but the name of a tool.

    Attributes:
        times: How often: repeats, cycles, turns without anything new, equal prompts, or for `spend` the US
            dollars of the last minutes, rounded up.
        tool: The first tool of the last step; empty where it called none.
        period: The steps of a cycle.
    """

    signal: Signal
    times: int
    tool: str = ""
    period: int = 1


class GuardVerdict(NamedTuple):
    """What the guard decides on an admitted call: `observe` or `warn`, why, and whether it adds a notice."""

    action: GuardMode
    finding: Finding
    notice: bool = False


class PastTurn(NamedTuple):
    """A turn as the store keeps it; `ended_ms` is 0 while its call runs, or if its end was lost."""

    started_ms: int
    ended_ms: int
    outcome: bytes
    step: bytes
    before: bytes
    prompt: bytes
    size_bytes: int


def encode_turn(turn: Turn) -> bytes:
    """Returns a turn's part of a record."""
    return _TURN.pack(turn.step, turn.before, turn.prompt, turn.size_bytes)


def encode_times(started_ms: int, ended_ms: int = 0, outcome: bytes = RUNNING) -> bytes:
    """Returns the store's part of a record, as `turn.lua` writes it."""
    return b"%013d%013d%c" % (started_ms, ended_ms, outcome)


def decode_turns(kept: bytes) -> list[PastTurn]:
    """Returns the turns in a run's records, the oldest first."""
    return [PastTurn(int(began), int(ended), *rest) for began, ended, *rest in _RECORD.iter_unpack(kept)]


def find_loop(turn: Turn, kept: bytes, spent_nano_usd: int, now_ms: int, rule: GuardRule) -> Finding | None:
    """Returns what is found of a run at its next call; None for a run that goes on.

    Args:
        turn: The call.
        kept: The records of the run's turns before, the oldest first.
        spent_nano_usd: What the run spent in the last `SPEND_MINUTES`.
        now_ms: When the call began, by the store's clock.
        rule: The thresholds, all of them set.
    """
    finding: Finding | None = None
    if turn.step in kept or turn.step == turn.before or turn.prompt in kept:
        past = decode_turns(kept)
        if turn.step != NO_STEP:
            finding = _repetition(turn, _conversation(turn, past, now_ms), rule)
        finding = finding or _burst(turn, past, now_ms, rule)
    most = rule.nano_usd_per_minute
    if finding is None and most and spent_nano_usd > most * SPEND_MINUTES:
        finding = Finding("spend", -(-spent_nano_usd // 1_000_000_000), turn.tool)
    return finding


class _Step(NamedTuple):
    """A step of a conversation, and the times and size of the call that reported it."""

    step: bytes
    started_ms: int
    ended_ms: int
    size_bytes: int


def _conversation(turn: Turn, past: Sequence[PastTurn], now_ms: int) -> list[_Step]:
    """The steps of the call's own conversation, the last first.

    Each answered call is followed back to the one whose step is the step before its own.
    """
    steps = [_Step(turn.step, now_ms, 0, turn.size_bytes)]
    wanted = turn.before
    for one in reversed(past):
        if wanted == NO_STEP:
            break
        if one.step == wanted and one.outcome == ANSWERED:
            steps.append(_Step(one.step, one.started_ms, one.ended_ms, one.size_bytes))
            wanted = one.before
    if wanted != NO_STEP:
        steps.append(_Step(wanted, 0, 0, 0))  # its own call is no longer kept, or was another run's
    return steps


def _repetition(turn: Turn, steps: Sequence[_Step], rule: GuardRule) -> Finding | None:
    names = [one.step for one in steps]
    for period in range(1, (rule.max_period or 1) + 1):
        equal = _equal_from_start(names, period)
        times, most = (equal + period) // period, rule.repeats if period == 1 else rule.cycles
        if not most or times < most or (period > 1 and len({*names[:period]}) == 1):
            continue
        if times >= most * _patience(steps[: equal + period]):
            return Finding("repeat" if period == 1 else "cycle", times, turn.tool, period)
    return _stall(turn, steps, rule.stalled_turns or 0)


def _equal_from_start(names: Sequence[bytes], period: int) -> int:
    """How many of the first names equal the name `period` later."""
    equal = 0
    while equal + period < len(names) and names[equal] == names[equal + period]:
        equal += 1
    return equal


def _stall(turn: Turn, steps: Sequence[_Step], least: int) -> Finding | None:
    """The longest stretch of at least so many turns in which the context grew and hardly a step was new."""
    if not least:
        return None
    seen: set[bytes] = set()
    found = 0
    for count, one in enumerate(steps, 1):
        seen.add(one.step)
        if count >= least and len(seen) * MAX_NEW_SHARE <= count and one.size_bytes < turn.size_bytes:
            found = count
    if found < least * _patience(steps[:found]):
        return None
    return Finding("stall", found, turn.tool) if found else None


def _burst(turn: Turn, past: Sequence[PastTurn], now_ms: int, rule: GuardRule) -> Finding | None:
    if not rule.burst:
        return None
    since = now_ms - BURST_WINDOW_MS
    equal = sum(
        one.prompt == turn.prompt and one.outcome != FAILED and one.started_ms > since for one in past
    )
    return Finding("burst", equal + 1, turn.tool) if equal + 1 >= rule.burst else None


def _patience(steps: Sequence[_Step]) -> int:
    """By how much thresholds grow for these steps: a run that waits between its calls polls."""
    waits = [later.started_ms - earlier.ended_ms for later, earlier in pairwise(steps) if earlier.ended_ms]
    return PACED_FACTOR if waits and sum(waits) >= PACED_MS * len(waits) else 1


def describe(finding: Finding) -> str:
    """Returns a sentence for callers: what was found."""
    tool = f"the tool `{finding.tool}`" if finding.tool else ""
    if finding.signal == "repeat" and tool:
        return f"{tool} was called {finding.times} times with the same arguments and the same result"
    if finding.signal == "repeat":
        return f"the same answer was given {finding.times} times to the same message"
    if finding.signal == "cycle":
        at = f", among them {tool}" if tool else ""
        return f"the same {finding.period} steps came {finding.times} times in the same order{at}"
    if finding.signal == "stall":
        return f"the context grew over {finding.times} turns in which hardly anything was new"
    if finding.signal == "burst":
        return f"the same prompt came {finding.times} times within {BURST_WINDOW_MS // 60_000} minutes"
    return f"it spent ${finding.times} within {SPEND_MINUTES} minutes"
