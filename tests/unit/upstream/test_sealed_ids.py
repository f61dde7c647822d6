"""A provider's ids of responses in answers: ours, in any chunking, and nothing else is touched."""

import orjson
import pytest

from llm_proxy.upstream.native_stream import NativeStreamFilter
from llm_proxy.upstream.sealed_ids import SealedIds

SAID = 'the id is \\"resp_1\\", or "resp_1"'


def frame(kind: str, **fields: object) -> bytes:
    """One event."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def ours() -> SealedIds:
    """Seals by a prefix; the caller sent `mine-0` for `resp_0`."""
    return SealedIds("sealed-{}".format, "{}.ours".format, {"resp_0": "mine-0"})


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_every_event_has_our_ids(size: int) -> None:
    """Those of the response, of the one before it; a text that quotes an id stays."""
    response = {"id": "resp_1", "previous_response_id": "resp_0", "object": "response"}
    stream = (
        frame("response.created", sequence_number=0, response=response)
        + frame("response.output_text.delta", sequence_number=1, delta=SAID)
        + frame("response.completed", sequence_number=2, response=response)
    )
    filtered = NativeStreamFilter("responses", ours())
    sent = b"".join(filtered.feed(stream[at : at + size]) for at in range(0, len(stream), size))
    events = [
        orjson.loads(one.split(b"data: ")[1]) for one in (sent + filtered.last_event).split(b"\n\n")[:-1]
    ]
    named = [event["response"] for event in events if "response" in event]
    assert named == [response | {"id": "sealed-resp_1", "previous_response_id": "mine-0"}] * 2
    assert events[1]["delta"] == SAID


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_items_have_ours_in_every_event(size: int) -> None:
    """From their first event on; an id that is also a call's stays, and so does one that may be a word."""
    output: list[dict[str, object]] = [
        {"type": "message", "id": "msg_0123456789", "content": []},
        {"type": "function_call", "id": "fc_0123456789", "call_id": "fc_0123456789"},
        {"type": "message", "id": "message", "content": []},
    ]
    stream = b"".join(
        frame("response.output_item.added", output_index=at, item=item) for at, item in enumerate(output)
    )
    stream += frame("response.output_text.delta", item_id="msg_0123456789", delta=SAID)
    stream += frame("response.completed", response={"id": "resp_1", "output": output})
    filtered = NativeStreamFilter("responses", ours())
    sent = b"".join(filtered.feed(stream[at : at + size]) for at in range(0, len(stream), size))
    events = [
        orjson.loads(one.split(b"data: ")[1]) for one in (sent + filtered.last_event).split(b"\n\n")[:-1]
    ]
    expected = [{**output[0], "id": "msg_0123456789.ours"}, *output[1:]]
    assert [event["item"] for event in events[:3]] == expected
    assert (events[3]["item_id"], events[3]["delta"]) == ("msg_0123456789.ours", SAID)
    assert events[4]["response"]["output"] == expected


def test_a_stream_that_is_read_from_its_middle_has_them_at_its_end() -> None:
    """Its items were announced before."""
    item: dict[str, object] = {"type": "message", "id": "msg_0123456789", "content": []}
    filtered = NativeStreamFilter("responses", ours())
    filtered.feed(frame("response.completed", response={"id": "resp_1", "output": [item]}))
    assert b'"msg_0123456789.ours"' in filtered.last_event


def test_a_whole_answer_has_them_in_its_own_bytes() -> None:
    """Nothing else changes."""
    body = b'{"id": "resp_1",  "previous_response_id":"resp_0", "output": [1.50]}'
    expected = b'{"id": "sealed-resp_1",  "previous_response_id":"mine-0", "output": [1.50]}'
    assert ours().in_body(body, orjson.loads(body)) == expected


def test_reading_again_uses_nothing() -> None:
    """A stream that is read again states the usage of then."""
    usage = {"input_tokens": 3, "output_tokens": 4}
    filtered = NativeStreamFilter("responses", ours(), is_free=True)
    filtered.feed(frame("response.completed", response={"id": "resp_1", "usage": usage}))
    assert filtered.usage is not None
    assert filtered.usage[:2] == (0, 0)
    assert filtered.done
