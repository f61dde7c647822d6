"""The loop guard's rules: on generated runs, and on the shapes that matter one by one."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces.judge import HELD_OUT_SEED, figures, labelled
from traces.loops import EVASIONS

from llm_proxy.admission.fingerprints import NO_STEP, Turn
from llm_proxy.admission.loop_guard import (
    ANSWERED,
    DEFAULT_RULE,
    FAILED,
    MAX_TURNS_KEPT,
    RECORD_BYTES,
    RUNNING,
    Finding,
    decode_turns,
    describe,
    encode_times,
    encode_turn,
    find_loop,
)
from llm_proxy.identity.guard_rules import GuardRule

NOW_MS = 1_800_000_000_000
GAP_MS = 3_000


def name(letter: str) -> bytes:
    """A digest for a letter; a dot is the start."""
    return NO_STEP if letter == "." else letter.encode() * 8


def play(
    steps: str, *, wait_ms: int = 100, rule: GuardRule = DEFAULT_RULE, grows: bool = True
) -> list[Finding | None]:
    """What is found at each call of one conversation, whose first call has had no step."""
    kept, found, at, before = b"", list[Finding | None](), NOW_MS, "."
    for number, letter in enumerate("." + steps):
        size = 1000 + number * 100 * grows
        turn = Turn(name(letter), name(before), f"p{number:07}".encode(), size, "search")
        found.append(find_loop(turn, kept, 0, at, rule))
        kept += encode_times(at, at + GAP_MS, ANSWERED) + encode_turn(turn)
        at, before = at + GAP_MS + wait_ms, letter
    return found[1:]


def first(found: Iterable[Finding | None]) -> tuple[int, Finding] | None:
    """The first finding, and after how many steps it came."""
    return next(((at, one) for at, one in enumerate(found, 1) if one is not None), None)


@pytest.mark.parametrize(
    ("steps", "after", "signal", "times", "period"),
    [
        ("xyaaaaa", 7, "repeat", 5, 1),
        ("xyabababab", 10, "cycle", 4, 2),
        ("abcabcabcabc", 12, "cycle", 4, 3),
        ("abcdeabcdeabcdeabcde", 20, "cycle", 4, 5),
        ("abacbcabbaca", 12, "stall", 12, 1),
    ],
)
def test_a_run_that_repeats_itself_is_found_and_not_a_turn_earlier(
    steps: str, after: int, signal: str, times: int, period: int
) -> None:
    """At the threshold."""
    assert first(play(steps)) == (after, Finding(signal, times, "search", period))  # type: ignore[arg-type]  # from the list


@pytest.mark.parametrize(
    "steps",
    ["xaaaabaaaab", "abcabcabcx", "tests and changes", "abababxyab", "abcdefghijklmnop", "tatbtctdtetf"],
)
def test_a_run_that_goes_on_is_left_alone(steps: str) -> None:
    """Short repeats, tests between changes, looking again."""
    if steps == "tests and changes":
        steps = "".join(chr(200 + at) if at % 2 else "t" for at in range(36))
    assert first(play(steps)) is None


def test_a_run_that_waits_may_repeat_more_often() -> None:
    """Polling: four times the threshold."""
    polled = first(play("a" * 40, wait_ms=6_000))
    assert polled == (20, Finding("repeat", 20, "search", 1))


def test_nothing_new_counts_only_while_the_context_grows() -> None:
    """A context that shrinks, or stays, was summed up or cut."""
    assert first(play("abacbcabbaca", grows=False)) is None


def test_a_threshold_of_nought_turns_its_signal_off() -> None:
    """Each alone."""
    rule = GuardRule(repeats=0, cycles=0, stalled_turns=0).over(DEFAULT_RULE)
    assert first(play("a" * 40, rule=rule)) is None


def records(*ends: bytes, prompt: bytes = b"pppppppp", step: bytes = NO_STEP, gap_ms: int = 0) -> bytes:
    """Records of calls with one prompt, which ended so."""
    turn = encode_turn(Turn(step, step, prompt, 10))
    return b"".join(encode_times(NOW_MS + at * gap_ms, NOW_MS + 1, end) + turn for at, end in enumerate(ends))


def test_a_burst_counts_prompts_that_run_or_were_answered_within_five_minutes() -> None:
    """Tries that failed are the SDK's, and old ones another matter."""
    turn = Turn(NO_STEP, NO_STEP, b"pppppppp", 10)
    most = DEFAULT_RULE.burst or 0
    enough = records(*[ANSWERED, RUNNING] * (most // 2))[RECORD_BYTES:]
    assert find_loop(turn, enough, 0, NOW_MS, DEFAULT_RULE) == Finding("burst", most)
    assert find_loop(turn, enough[RECORD_BYTES:], 0, NOW_MS, DEFAULT_RULE) is None
    assert find_loop(turn, records(*[FAILED] * 50), 0, NOW_MS, DEFAULT_RULE) is None
    assert find_loop(turn, enough, 0, NOW_MS + 300_001, DEFAULT_RULE) is None


def test_retries_of_a_call_that_failed_are_no_repetition() -> None:
    """The same request again, until it is answered."""
    turn = Turn(b"aaaaaaaa", b"bbbbbbbb", b"pppppppp", 10)
    kept = (encode_times(NOW_MS, NOW_MS + 1, FAILED) + encode_turn(turn)) * 15
    assert find_loop(turn, kept, 0, NOW_MS + 2, DEFAULT_RULE) is None


def test_conversations_side_by_side_are_told_apart() -> None:
    """Eight sub-agents that begin with the same look around do not repeat themselves."""
    turn = Turn(b"llllllll", NO_STEP, b"pppppppp", 10)
    kept = b"".join(
        encode_times(NOW_MS + at, NOW_MS + at + 1, ANSWERED)
        + encode_turn(turn._replace(prompt=f"p{at:07}".encode()))
        for at in range(8)
    )
    assert find_loop(turn, kept, 0, NOW_MS + 9, DEFAULT_RULE) is None


def test_spend_is_averaged_over_five_minutes() -> None:
    """Fifty dollars at ten a minute."""
    turn = Turn(b"aaaaaaaa", b"bbbbbbbb", b"pppppppp", 10)
    assert find_loop(turn, b"", 50 * 10**9, NOW_MS, DEFAULT_RULE) is None
    assert find_loop(turn, b"", 50 * 10**9 + 1, NOW_MS, DEFAULT_RULE) == Finding("spend", 51)


@given(st.text("abcdefgh", min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_any_cycle_is_found_at_the_latest_when_it_is_complete_and_new_steps_never(
    prefix: str, period: int, more: int
) -> None:
    """Whatever came before it; all steps different: nothing."""
    cycle = "pqrst"[:period]
    times = (DEFAULT_RULE.repeats if period == 1 else DEFAULT_RULE.cycles) or 0
    found = first(play(prefix + cycle * (times + more)))
    assert found is not None
    assert found[0] <= len(prefix) + period * times
    distinct = "".join(dict.fromkeys(prefix))
    assert first(play(distinct)) is None


@given(st.binary(max_size=40), st.integers(0, MAX_TURNS_KEPT))
@settings(max_examples=50, deadline=None)
def test_records_are_read_as_they_were_written(text: bytes, count: int) -> None:
    """A record is what the store and the gateway write together."""
    turn = Turn((text + bytes(8))[:8], (text + bytes(16))[8:16], b"pppppppp", count)
    kept = (encode_times(NOW_MS, 0) + encode_turn(turn)) * count
    assert len(kept) == count * RECORD_BYTES
    assert all(one[3:] == turn[:4] and one[:3] == (NOW_MS, 0, RUNNING) for one in decode_turns(kept))


def test_every_finding_has_a_sentence_without_arguments() -> None:
    """For the error and the notice."""
    for signal in ("repeat", "cycle", "stall", "burst", "spend"):
        for tool in ("search", ""):
            assert "7" in describe(Finding(signal, 7, tool, 2))


def test_labelled_runs_of_held_out_agents_are_judged_right() -> None:
    """A part of what `python -m traces` judges: agents and seeds that no threshold was chosen with."""
    found = figures(labelled(2, 20, HELD_OUT_SEED), held_out=True)
    wanted = {kind for kind in found.runs if kind not in EVASIONS}
    assert {kind: found.found[kind] for kind in wanted} == dict.fromkeys(wanted, 2)
    assert not found.wrong
    assert found.healthy_turns >= 20 * 50
