"""Fingerprints of a conversation's last steps: equal for equal steps in every API, different for others."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces.wires import WIRES, Conversation, Step, Wire

from llm_proxy.admission.fingerprints import NO_STEP, Turn, fingerprint, normalised
from llm_proxy.dialects import Call
from llm_proxy.json_access import Json

KEY = b"a key of at least sixteen bytes"


def turn_after(wire: Wire, *steps: Step, native: bool = True, key: bytes = KEY) -> Turn:
    """The fingerprints of the call after these steps."""
    talk = Conversation(wire, "You help.", "Do it.", Random(1))  # noqa: S311 -- the same each time
    for step in steps:
        talk.add(step)
    found = fingerprint(talk.call(native=native), key)
    assert found is not None
    return found


def search(result: str = "none", **args: object) -> Step:
    """One search."""
    return Step("Let me look.", (("search", {"q": "cats", **args}),), (result,))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("native", [True, False])
def test_the_same_step_is_the_same_in_every_api_and_another_is_another(wire: Wire, native: bool) -> None:  # noqa: FBT001 -- pytest's
    """Whatever the model says beside it; the step before is known, and the start has none."""
    turn = turn_after(wire, search(), search(), native=native)
    assert turn.step == turn.before == turn_after("chat", search()).step
    assert turn.tool == "search"
    assert turn_after(wire, native=native).step == NO_STEP
    one = turn_after(wire, search(), native=native)
    assert (one.step, one.before) == (turn.step, NO_STEP)
    assert turn_after(wire, search("three cats"), native=native).step != turn.step
    assert turn_after(wire, search(q="dogs"), native=native).step != turn.step
    assert turn_after(wire, search(), native=native, key=b"another deployment's key").step != turn.step


@pytest.mark.parametrize(
    "other",
    [
        search(attempt=3),
        search(timestamp="2026-11-27T08:24:51Z"),
        search(request_id="f81d4fae7dec11d0a76500a0c91e6bf6"),
        search("  no\n\tne "),
    ],
)
def test_what_changes_by_itself_makes_no_new_step(other: Step) -> None:
    """Counters of tries, times, ids and white space."""
    assert turn_after("chat", other).step == turn_after("chat", search()).step


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("at 2026-11-27T08:24:51.123Z failed", "at 2026-11-27 09:01:02 failed", True),
        ("1 failed in 0.23s", "1 failed in 12.7 s", True),
        ("request req_8f3hd9a1 timed out", "request req_0c1hd9zz7 timed out", True),
        (
            "Chunk ID: 94491e\nWall time: 0.0021 seconds\nhi",
            "Chunk ID: a53014\nWall time: 1.1 seconds\nhi",
            True,
        ),
        ("denied (Request ID: 8F3AB2C1)", "denied (Request ID: 0C41DD77)", True),
        ("user id: 94491e", "user id: a53014", False),
        ('{"chunk_id": "94491e"}', '{"chunk_id": "a53014"}', False),
        ("seen 1795000001", "seen 1795000777", True),
        ("id 550e8400-e29b-41d4-a716-446655440000", "id 11111111-e29b-41d4-a716-446655440000", True),
        ("slot 2026-12-01T09:00:00Z taken", "slot 2026-12-01T10:00:00Z taken", False),
        ("2026-11-27", "2026-11-28", False),
        ("37% done", "38% done", False),
        ("page 3", "page 4", False),
        ("3 failed", "2 failed", False),
    ],
)
def test_times_durations_and_ids_are_left_out_and_other_numbers_are_not(
    one: str,
    other: str,
    same: bool,  # noqa: FBT001 -- pytest's
) -> None:
    """A moment on the full minute is part of the question."""
    assert (normalised(one) == normalised(other)) is same


def test_calls_of_one_turn_have_no_order_and_a_trailing_reminder_counts_not() -> None:
    """Clients write results in any order, and add their own text behind them."""
    calls = (("search", {"q": "cats"}), ("read", {"path": "a"}))
    one = Step("", calls, ("none", "text"))
    other = Step("", calls[::-1], ("text", "none"), asked="<system-reminder>Be brief.</system-reminder>")
    assert turn_after("messages", one).step == turn_after("messages", other).step


def test_a_long_result_is_told_apart_by_its_middle() -> None:
    """Only its ends are normalised."""
    long = "x" * 50_000
    changed = long[:25_000] + "y" + long[25_001:]
    assert turn_after("chat", search(long)).step == turn_after("chat", search(long)).step
    assert turn_after("chat", search(long)).step != turn_after("chat", search(changed)).step


def test_items_of_responses_beside_functions_are_read() -> None:
    """Calls of shells and custom tools, and calls that a provider ran itself."""
    items: list[Json] = [
        {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}},
        {"type": "local_shell_call_output", "call_id": "c", "output": "a b"},
        {"type": "reasoning", "summary": []},
        {"type": "mcp_call", "name": "roll", "arguments": "{}", "output": "4"},
    ]
    call = Call("responses", "responses", "m", "m", {"input": items})
    turn = fingerprint(call, KEY)
    assert turn is not None
    assert turn.tool == "roll"
    assert NO_STEP not in {turn.step, turn.before}


def test_other_operations_have_no_fingerprint() -> None:
    """Embeddings are no conversation."""
    assert fingerprint(Call("embeddings", "openai", "m", "m", {"input": "x"}), KEY) is None


NAMES = [
    "role", "content", "type", "tool_calls", "function", "name", "arguments", "parts", "text", "functionCall",
    "args", "input",
]  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["messages", "input", "contents", "prompt"]), anything)
def test_no_body_breaks_it_and_the_same_body_gives_the_same(field: str, value: object) -> None:
    """Native bodies are not checked before: anything may stand in them."""
    for endpoint in ("chat.completions", "messages", "responses", "generate_content", "completions"):
        call = Call(endpoint, "x", "m", "m", {field: value})
        assert fingerprint(call, KEY) == fingerprint(call, KEY)
