"""Calls with an `Idempotency-Key` after the limits store has lost its claims: paid once all the same."""

import asyncio
from uuid import uuid4

import pytest
from flow.test_idempotency import TwoGateways, chat, gateways, running, valkey

__all__ = ("gateways", "running")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_replayed_though_its_claim_is_lost(
    gateways: TwoGateways,
    *,
    stream: bool,
) -> None:
    """At any gateway, to many at once; the claim is restored: another request with the key is rejected."""
    key, body = uuid4().hex, chat(stream=stream)
    first = await gateways.ask(0, key, body)
    await valkey(gateways, "limits", "FLUSHALL")
    for at in (1, 0, 1):
        again = await gateways.ask(at, key, body)
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["x-llm-proxy-replay-of"] == first.headers["x-request-id"]
    await valkey(gateways, "limits", "FLUSHALL")
    other = await gateways.ask(1, key, chat(stream=stream, text="something else"))
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert (await gateways.ask(0, key, body)).content == first.content
    await valkey(gateways, "limits", "FLUSHALL")
    crowd = await asyncio.gather(*(gateways.ask(at % 2, key, body) for at in range(12)))
    assert {one.status_code for one in crowd} <= {200, 409}
    assert {one.json()["error"]["code"] for one in crowd if one.status_code == 409} <= {
        "idempotency_call_lost"
    }
    assert (await gateways.ask(0, key, body)).content == first.content
    assert len(await gateways.calls()) == 1


async def test_what_is_gone_is_not_paid_again_and_what_is_not_kept_runs_anew(
    gateways: TwoGateways,
) -> None:
    """An answer that was too large to keep; an error that may be retried; both stores emptied."""
    large, failed, kept = (uuid4().hex for _ in range(3))
    too_much, wrong = chat(text="x" * 30_000), chat(do="cut", stream=True)
    await gateways.ask(0, large, too_much)
    await gateways.ask(0, failed, wrong)
    await gateways.ask(0, kept, chat())
    await valkey(gateways, "limits", "FLUSHALL")
    gone = await gateways.ask(1, large, too_much)
    assert (gone.status_code, gone.json()["error"]["code"]) == (409, "idempotency_replay_gone"), gone.text
    before = len(await gateways.calls())
    assert "idempotency-replayed" not in (await gateways.ask(1, failed, wrong)).headers
    assert len(await gateways.calls()) > before
    for name in ("limits", "cache"):
        await valkey(gateways, name, "FLUSHALL")
    assert "idempotency-replayed" not in (await gateways.ask(1, kept, chat())).headers
