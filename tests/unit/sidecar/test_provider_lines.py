"""A provider's events are the same however its bytes come, and however they are taken."""

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.sidecar.event_stream import EventDecoder, ServerSentEvent
from llm_proxy.sidecar.provider_lines import ProviderLines

PIECES = st.sampled_from(
    [
        'data: {"a": 1}',
        'data: {"text":"é\U0001f600"}',
        'data: {"b":',
        "data: 2}",
        "event: error",
        "event: message_start",
        ": a comment",
        '{"a json": "line"}',
        "data: [DONE]",
        "",
        "",
    ]
)
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\r"])
CUTS = st.lists(st.integers(0, 10_000), max_size=20)


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    """Return the bytes in pieces."""
    places = [0, *sorted(one % (len(raw) + 1) for one in cuts), len(raw)]
    return [raw[start:end] for start, end in pairwise(places)]


def decoded(raw: bytes) -> list[ServerSentEvent]:
    """Return the events of a whole body."""
    decoder = EventDecoder()
    return decoder.feed(raw) + decoder.flush()


def line_of(event: ServerSentEvent) -> str:
    """Return all that is known of an event."""
    return repr(event)


async def body_of(chunks: list[bytes], failure: Exception | None = None) -> AsyncGenerator[bytes]:
    """Yield the chunks; raise the failure."""
    for chunk in chunks:
        yield chunk
    if failure is not None:
        raise failure


async def taken_from(chunks: list[bytes], by_bytes: list[bool]) -> list[str]:
    """Return the lines of a body; after the first, where `by_bytes` says so, an event is taken as bytes."""
    lines, found, turns = ProviderLines(body_of(chunks), line_of), list[str](), iter([False, *by_bytes])
    while True:
        if next(turns, False):
            while lines.is_drained and await lines.read():
                pass
            event = lines.next_event
            if event is not None and event.startswith(b"data: "):  # as each frame like another does
                lines.drop_event()
                found += map(line_of, decoded(b"data: 0\n\n" + event + b"\n\n")[1:])
                continue
        line = await anext(lines, None)
        if line is None:
            return found
        found.append(line)


@given(st.lists(st.tuples(PIECES, ENDS), max_size=14), CUTS, st.lists(st.booleans(), max_size=20))
def test_any_chunking_gives_the_same_lines(
    parts: list[tuple[str, str]], cuts: list[int], by_bytes: list[bool]
) -> None:
    """With any line ends, mixed; whether events are taken as lines or as bytes."""
    raw = "".join(piece + end for piece, end in parts).encode()
    found = asyncio.run(taken_from(cut(raw, cuts), by_bytes))
    assert found == [line_of(event) for event in decoded(raw)]


def test_a_broken_connection_is_raised_after_all_events() -> None:
    """Also if another has read on; what is put back comes first."""

    async def read_on() -> tuple[list[str], str]:
        lines = ProviderLines(body_of([b"data: 1\n\nda"], OSError("broken")), line_of)
        lines.taken = []
        while await lines.read():
            pass
        assert lines.next_event == b"data: 1"
        lines.put_back(b"data: 0")
        found = [await anext(lines), await anext(lines)]
        assert lines.taken == [b"data: 0", b"data: 1"]
        try:
            await anext(lines)
        except OSError as error:
            return found, str(error)
        raise AssertionError

    found, failure = asyncio.run(read_on())
    assert found == [line_of(ServerSentEvent(one)) for one in ("0", "1")]
    assert failure == "broken"
