"""The journal keeps calls and records until they are released."""

from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from usage_records import record

from llm_proxy.ledger.record import FIELDS, STARTED_FIELDS, decode, encode_started, lost_row, row_of, shorten
from llm_proxy.ledger.spool import NO_SLOT, RECORD_BYTES, STARTED_BYTES, Journal, read_journal

Steps = st.lists(st.tuples(st.sampled_from(["open", "finish", "free"]), st.integers(0, 5)), max_size=40)


def test_started_and_finished_calls_are_read_back(tmp_path: Path) -> None:
    """A finished call as its record, a running one as it was started, a released one not at all."""
    journal = Journal(tmp_path / "journal")
    running, ended, kept = uuid4(), uuid4(), uuid4()
    for one in (running, ended, kept):
        assert journal.begin(one, b"opened %s" % one.bytes.hex().encode())
    journal.complete(ended, b"ended")
    journal.release(journal.complete(kept, b"kept"))
    assert sorted(read_journal(tmp_path / "journal")) == [
        (False, b"opened %s" % running.bytes.hex().encode()),
        (True, b"ended"),
    ]


@settings(max_examples=50, deadline=None)
@given(Steps)
def test_the_journal_has_every_unreleased_call_once(steps: list[tuple[str, int]]) -> None:
    """Whatever the order of the steps."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        journal = Journal(path, slots=16)
        expected = walk(journal, steps)
        assert set(read_journal(path)) == expected
        assert journal.used == len(expected)


def walk(journal: Journal, steps: list[tuple[str, int]]) -> set[tuple[bool, bytes]]:
    """Walk the steps; what is then in hand."""
    ids = [UUID(int=number) for number in range(6)]
    opened: set[int] = set()
    slots: dict[int, int] = {}
    for step, number in steps:
        if step == "open" and number not in opened and number not in slots:
            opened.add(number)
            assert journal.begin(ids[number], b"o%d" % number)
        elif step == "finish" and number not in slots:
            opened.discard(number)
            slots[number] = journal.complete(ids[number], b"f%d" % number)
        elif step == "free" and number in slots:
            journal.release(slots.pop(number))
    running = {(False, b"o%d" % number) for number in opened}
    return running | {(True, b"f%d" % number) for number in slots}


def test_a_long_line_or_a_full_journal_is_returned_not_raised(tmp_path: Path) -> None:
    """The record still goes to Postgres, without the journal."""
    journal = Journal(tmp_path / "journal", slots=100)
    assert not journal.begin(uuid4(), b"x" * 5000)
    assert journal.complete(uuid4(), b"x" * 5000) == NO_SLOT
    while journal.begin(uuid4(), b"x"):
        pass
    assert journal.complete(uuid4(), b"y") == NO_SLOT
    journal.release(NO_SLOT)
    assert journal.used == 100


Names = st.none() | st.text(max_size=256) | st.sampled_from(['"' * 256, "\u0416" * 256, "\U0001f600" * 256])


@given(st.lists(Names, min_size=14, max_size=14), st.integers(0, 40))
def test_every_record_fits_into_its_slot(names: list[str | None], attempts: int) -> None:
    """Whatever its names, message and attempts: owner, cost and outcome stay."""
    texts = [
        *("tenant", "agent", "user", "session", "channel", "client_request_id", "model", "group"),
        *("group_asked", "model_resolved", "provider", "deployment", "refusal_code", "provider_message"),
    ]
    known = dict(zip(texts, names, strict=True))
    hops = '[["a group","a deployment",500]]' * attempts
    row = row_of(record(**known, hops=hops, status=502, outcome="error"))
    line = shorten(row, RECORD_BYTES)
    assert len(line) <= RECORD_BYTES
    for name, before, after in zip(FIELDS, row, decode(line), strict=True):
        if name in texts:
            assert after is None or "\0" in before or before.startswith(after)
        else:
            assert after == (None if name == "hops" else before)


@given(st.lists(Names, min_size=11, max_size=11))
def test_every_admitted_call_fits_into_its_slot(names: list[str | None]) -> None:
    """So that a crash makes it a lost call."""
    tenant, agent, user, session, channel, client_id, model, group, run, tags, in_run = names
    key = ("key-1", "sk-one")
    who = (tenant, agent, user, session, channel, client_id)
    opened = (uuid4(), 1.5e9, *key, *who, "chat.completions", "openai", model, group, True, run, tags, in_run)
    line = encode_started(opened, STARTED_BYTES)
    assert len(line) <= STARTED_BYTES
    assert lost_row(line)[FIELDS.index("key_id")] == "key-1"
    assert len(opened) == len(STARTED_FIELDS)


def test_names_are_truncated_only_as_far_as_needed() -> None:
    """A long message and many attempts leave every name complete."""
    row = row_of(record(provider_message="x" * 600, hops="y" * 4000, user="u" * 256))
    without = {FIELDS.index(name) for name in ("hops", "provider_message")}
    short = decode(shorten(row, RECORD_BYTES))
    kept = [(short[at], row[at]) for at in range(len(FIELDS)) if at not in without]
    assert [after for after, _ in kept] == [before for _, before in kept]


def test_only_complete_tags_are_cut_off() -> None:
    """Half a tag would be another tag."""
    tags = [f"tag-{number:03}-{'x' * 42}" for number in range(10)]
    row = row_of(record(provider_message="y" * 600, hops="z" * 4000, tags=",".join(tags)))
    left = decode(shorten(row, RECORD_BYTES))[FIELDS.index("tags")].split(",")
    assert left == tags[: len(left)]


def test_a_missing_or_damaged_journal_is_empty(tmp_path: Path) -> None:
    """A dead worker's file may contain anything."""
    assert list(read_journal(tmp_path / "none")) == []
    (tmp_path / "odd").write_bytes(b"\xff" * 5000)
    assert list(read_journal(tmp_path / "odd")) == []
