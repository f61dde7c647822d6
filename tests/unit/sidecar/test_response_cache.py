"""The pure parts of the response cache: its keys, its entries, a stream joined for an event."""

import json
import os
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import answers

from llm_proxy.sidecar.cache_events import headers_in, parse_stored_response
from llm_proxy.sidecar.response_cache import (
    MAX_ENTRY_BYTES,
    PLAIN_BYTES,
    UNKEYED_FIELDS,
    CacheEntry,
    ResponseRecorder,
    digest_of_call,
)

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
LINE = b"content-type: application/json\r\n"
INTEGERS = st.integers(-(2**63), 2**64 - 1)
"""Others are read as floats."""
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=6), st.randoms())
def test_the_order_of_top_level_fields_does_not_change_the_key(body: Json, random: Any) -> None:
    """Nor do the fields the gateway adds."""
    names = list(body)
    random.shuffle(names)
    turned = {name: body[name] for name in names}
    added = {name: {"x": 1} for name in UNKEYED_FIELDS - {"stream"} if name not in body}
    assert digest_of_call(CHAT, turned | added) == digest_of_call(CHAT, body)


def test_any_other_difference_changes_the_key() -> None:
    """Also the order of properties, the type of equal numbers, the path and the mode."""
    bodies: list[Json] = [
        {},
        {"a": 1},
        {"a": 1.0},
        {"a": True},
        {"a": "1"},
        {"a": {"x": 1, "y": 2}},
        {"a": {"y": 2, "x": 1}},
        {"stream": True},
    ]
    assert len({digest_of_call(CHAT, body) for body in bodies}) == len(bodies)
    assert digest_of_call("/v1/completions", {}) != digest_of_call(CHAT, {})
    assert digest_of_call(CHAT, {"stream": False}) == digest_of_call(CHAT, {})


@given(
    st.sampled_from([b"", LINE, LINE + b"x-litellm-model-id: m\xc3\xbc\r\n"]),
    st.binary(),
    st.dictionaries(st.text(), INTEGERS),
)
def test_an_entry_is_read_as_it_was_written(head: bytes, payload: bytes, usage: Json) -> None:
    """Whatever its bytes are."""
    entry = CacheEntry(1.5, len(payload), head, usage, payload, is_plain=True)
    assert CacheEntry.decode(entry.encode()) == entry
    assert entry.answer() == payload
    packed = entry._replace(payload=zlib.compress(payload), is_plain=False)
    assert CacheEntry.decode(packed.encode()).answer() == payload


def test_an_entry_of_another_format_is_rejected() -> None:
    """Its checksum is right, what it holds is something else."""
    lines: list[Json] = [{"at": 1.5, "size": 1, "headers": [], "usage": {}}, {}, {"at": 1}]
    for line in lines:
        kept = json.dumps(line).encode() + b"\n" + zlib.compress(b"x")
        with pytest.raises((ValueError, KeyError, TypeError)):
            CacheEntry.decode(b"%08x\n%b" % (zlib.crc32(kept), kept))


@pytest.mark.parametrize(
    "head",
    [
        LINE + b"\r\n",
        LINE + b"content-length: 1\r\n",
        LINE.removesuffix(b"\r\n"),
        LINE.replace(b"j", b"\n"),
        b"Content-Type: a\r\n",
        b"x\r\n",
    ],
)
def test_an_entry_whose_head_says_more_is_rejected(head: bytes) -> None:
    """It is sent as it is: another line could end the response, and begin the next."""
    with pytest.raises(ValueError, match="invalid head"):
        CacheEntry.decode(CacheEntry(1.5, 1, head, {}, b"x", is_plain=True).encode())


@given(st.binary(), st.integers(0), st.integers(1, 255))
def test_a_damaged_entry_is_rejected(payload: bytes, at: int, bits: int) -> None:
    """Truncated, with a byte changed, empty, or in an older format."""
    raw = CacheEntry(1.5, len(payload), LINE, {}, payload, is_plain=True).encode()
    at %= len(raw)
    changed = raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :]
    for damaged in (raw[:at], changed, raw + b"x", raw.partition(b"\n")[2], b""):
        with pytest.raises(ValueError, match="incomplete entry"):
            CacheEntry.decode(damaged)


def test_a_joined_stream_is_the_complete_answer() -> None:
    """Every choice, every piece of text, every call."""
    for kind in answers.MESSAGES:
        [raw] = answers.whole(kind)
        whole = json.loads(raw)
        streamed = parse_stored_response("".join(answers.frames(kind)).encode())
        assert streamed["usage"] == whole["usage"]
        for ours, theirs in zip(streamed["choices"], whole["choices"], strict=True):
            assert ours["finish_reason"] == theirs["finish_reason"]
            message = ours["message"]
            for name, value in theirs["message"].items():
                if name == "tool_calls":
                    assert [call["id"] for call in message[name]] == [call["id"] for call in value]
                else:
                    assert (message[name] or None) == (value or None)


async def recorded(*messages: Json) -> tuple[CacheEntry | None, list[Json]]:
    """Return the stored copy of an answer, and the messages passed on."""
    passed: list[Json] = []
    stored: list[CacheEntry] = []

    async def send(message: Any) -> None:
        passed.append(dict(message))

    async def store(entry: CacheEntry) -> None:
        assert len(passed) < len(messages), "the end was sent before it was stored"
        stored.append(entry)

    recorder = ResponseRecorder(send, store)
    for message in messages:
        await recorder(message)
    return (stored[0] if stored else None), passed


START: Json = {"type": "http.response.start", "status": 200, "headers": []}


def piece(body: bytes, *, more: bool = True) -> Json:
    """A part of an answer."""
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.mark.parametrize(
    "sizes", [[9, 400_000], [400_000], [1], [PLAIN_BYTES], [PLAIN_BYTES, 1], [1000] * 3, []]
)
async def test_a_complete_answer_is_stored(sizes: list[int]) -> None:
    """However it is chunked; a short one is not compressed."""
    messages = [START, *(piece(os.urandom(size)) for size in sizes), piece(b"", more=False)]
    entry, passed = await recorded(*messages)
    assert passed == messages
    assert entry is not None
    assert entry.answer() == b"".join(one["body"] for one in messages[1:])
    assert entry.size_bytes == sum(sizes)
    assert entry.is_plain == (sum(sizes) <= PLAIN_BYTES)


async def test_only_what_a_replay_repeats_is_kept_of_the_head() -> None:
    """Of these no value that would end its line."""
    kept = [(b"content-type", b"application/json"), (b"x-litellm-model-id", "mü".encode())]
    others = [(b"x-request-id", b"1"), (b"x-litellm-model-name", b"a\r\nset-cookie: b")]
    entry, _ = await recorded({**START, "headers": [*others, *kept]}, piece(b"{}", more=False))
    assert entry is not None
    assert headers_in(entry.head) == kept
    assert entry.head.endswith(b"\r\n")


class WritingSend:
    """A `send` that also writes chunks at once, every other one."""

    def __init__(self) -> None:
        self.passed: list[bytes] = []
        self.written = self.asked = 0

    async def __call__(self, message: Any) -> None:
        self.passed.append(message.get("body", b""))

    def write_chunk(self, body: bytes) -> bool:
        """Writes a part, or has to wait."""
        self.asked += 1
        if self.asked % 2:
            return False
        self.passed.append(body)
        self.written += 1
        return True


async def test_what_is_written_at_once_is_recorded_in_its_place() -> None:
    """Once, whether it was written or had to be sent; the end is always sent, after the copy is stored."""
    send, stored = WritingSend(), list[tuple[CacheEntry, int]]()

    async def store(entry: CacheEntry) -> None:
        stored.append((entry, len(send.passed)))

    recorder = ResponseRecorder(send, store)
    await recorder(START)
    end = b"data: last\n\ndata: [DONE]\n\n"
    parts = [b"data: %d\n\n" % at for at in range(6)] + [os.urandom(400_000), end]
    for part in parts:
        assert recorder.write_chunk is not None
        if not recorder.write_chunk(part):
            await recorder(piece(part))
    assert send.passed == [b"", *parts]
    assert send.written == 3
    ((entry, sent_before),) = stored
    assert entry.answer() == b"".join(parts)
    assert sent_before == len(parts), "the end was sent before it was stored"


async def test_an_error_that_is_written_at_once_ends_the_record() -> None:
    """It is passed on all the same."""
    send, stored = WritingSend(), list[CacheEntry]()

    async def store(entry: CacheEntry) -> None:
        stored.append(entry)

    recorder = ResponseRecorder(send, store)
    await recorder(START)
    send.asked = 1
    assert recorder.write_chunk is not None
    assert recorder.write_chunk(b'data: {"error":{}}\n\n')
    await recorder(piece(b"", more=False))
    assert (stored, send.passed) == ([], [b"", b'data: {"error":{}}\n\n', b""])


def test_nothing_is_written_at_once_where_the_response_cannot() -> None:
    """A `send` of no connection of ours."""

    async def send(_message: Any) -> None: ...

    async def store(_entry: CacheEntry) -> None: ...

    assert ResponseRecorder(send, store).write_chunk is None


@pytest.mark.parametrize(
    "messages",
    [
        [START | {"status": 400}, piece(b"{}", more=False)],
        [START, piece(b"data: 1\n\n")],
        [START, piece(b"data: 1\n\n"), piece(b'data: {"error":{}}\n\n'), piece(b"", more=False)],
        [START, *[piece(os.urandom(2**20))] * (MAX_ENTRY_BYTES // 2**20 + 1), piece(b"", more=False)],
    ],
    ids=["status", "unfinished", "error-event", "too-long"],
)
async def test_an_incomplete_answer_is_not_stored(messages: list[Json]) -> None:
    """It is passed on all the same."""
    payload, passed = await recorded(*messages)
    assert payload is None
    assert passed == messages
