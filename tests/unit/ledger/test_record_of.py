"""What a call used, however it ended."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from llm_proxy.admission.loop_guard import Finding, GuardVerdict
from llm_proxy.call_context import CallContext, note_end, note_error
from llm_proxy.call_guard import InterruptReason
from llm_proxy.dialects import Call
from llm_proxy.errors import (
    APIError,
    InternalError,
    ProviderFailed,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    UpstreamConnectionLost,
)
from llm_proxy.identity import Caller
from llm_proxy.identity.caller import KeyAbove
from llm_proxy.ledger import UsageRecord, billed, record_of
from llm_proxy.quantities import NOTHING, Quantities
from llm_proxy.upstream import Catalog, RoutingInfo, TokenUsage
from llm_proxy.upstream.catalog import Deployment, ModelGroup
from llm_proxy.upstream.litellm_protocol import ProviderAttempt
from llm_proxy.upstream.token_usage import UnreadUsage, read_usage

START = datetime(2026, 1, 1, tzinfo=UTC)
CALL = Call("chat.completions", "openai", "m", "m", {}, prompt_bytes=400)
CALLER = Caller("k", "virtual")
PRICED = Catalog({"m": ModelGroup("m", deployments=(Deployment("d", "p", "m", None, None, 1_000, 10_000),))})


def admitted() -> CallContext:
    """A call that was admitted, of a model at 1 and 10 nano-dollars a token."""
    return CallContext(UUID(int=1), caller=CALLER, call=CALL, catalog=PRICED)


def ended(
    one: CallContext,
    why: InterruptReason | None = None,
    refused: APIError | None = None,
    *,
    unsent: bool = False,
) -> tuple[int | None, int | None, str]:
    """What is settled, and whose word the record says it is; both tell the same."""
    if refused is not None:
        note_error(one, refused)
    note_end(one, why, unsent=unsent)
    early = billed(one)
    record = record_of(one)
    assert billed(one) == early
    assert (record.total_tokens or 0, record.cost_nano_usd or 0) == early[:2]
    return early.tokens, early.cost_nano_usd, record.usage_source


@pytest.mark.parametrize("why", ["client_gone", "first_byte", "idle", "total", "silent", "drain"])
def test_a_call_cut_short_used_its_prompt_and_what_was_streamed_and_unsent_nothing(
    why: InterruptReason,
) -> None:
    """By an estimate, whoever cut it short; in a queue for a sidecar no model can have run."""
    assert ended(admitted(), why) == (100, 100, "estimated")
    assert ended(admitted(), why, unsent=True) == (0, 0, "unknown")
    streamed = admitted()
    streamed.status, streamed.content_tokens = 200, 7
    assert ended(streamed, why) == (107, 170, "estimated")


def test_what_the_provider_refused_used_nothing_and_what_broke_may_have_run() -> None:
    """A refusal before an answer is no use."""
    assert ended(admitted(), refused=ProviderFailed("It failed.")) == (0, 0, "unknown")
    for broken in (UpstreamConnectionLost("It broke."), InternalError()):
        assert ended(admitted(), refused=broken) == (100, 100, "estimated")


@pytest.mark.parametrize(
    ("refused", "cost"),
    [
        (ProviderFailed("It failed."), None),
        (ProviderRejected("It is not for me."), 0),
        (ProviderRateLimited("Later."), 0),
        (ProviderOverloaded("No room."), 0),
    ],
)
def test_what_a_providers_own_failure_costs_is_unknown_in_the_record_and_counts_in_no_budget(
    refused: APIError, cost: int | None
) -> None:
    """Nobody knows whether it bills a call that it answered with 500; a call it turned away cost nothing."""
    one = admitted()
    assert ended(one, refused=refused) == (0, 0, "unknown")
    assert record_of(one).cost_nano_usd == cost


def test_what_was_stated_is_used_whatever_became_of_the_caller() -> None:
    """The provider's word goes before any estimate; an answer of the cache uses nothing."""
    stated = admitted()
    stated.usage, stated.status = TokenUsage(12, 3), 200
    assert ended(stated, "client_gone") == (15, 42, "provider")
    hit = admitted()
    hit.usage, hit.status, hit.routing = TokenUsage(12, 3), 200, RoutingInfo(cache="hit")
    note_end(hit, None)
    assert billed(hit) == (0, 0, NOTHING)


def test_a_cost_is_of_the_latest_usage_and_of_who_answered_last() -> None:
    """It is kept, not computed again; what is noted later has a cost of its own."""
    one = admitted()
    assert one.cost_of(TokenUsage(1, 1)) == 11
    assert one.cost_of(TokenUsage(2, 1)) == 12
    one.routing = RoutingInfo(cost_nano_usd=5)
    assert one.cost_of(TokenUsage(2, 1)) == 5
    one.routing = RoutingInfo(cache="hit")
    assert one.cost_of(TokenUsage(2, 1)) == 0
    assert one.cost_of(None) == 0


@pytest.mark.parametrize(
    ("routing", "cost"),
    [(RoutingInfo(), 50), (RoutingInfo(cost_nano_usd=7), 7), (RoutingInfo(cost_nano_usd=0, cache="hit"), 0)],
)
def test_a_usage_that_is_read_late_costs_and_records_what_it_does_when_read_at_once(
    routing: RoutingInfo, cost: int
) -> None:
    """The header's cost, before it is read, is the record's, whether it is stated or comes of its tokens."""
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
    records = list[UsageRecord]()
    for found in (UnreadUsage(usage, {"service_tier": "flex"}), read_usage(usage, {"service_tier": "flex"})):
        one = admitted()
        one.usage, one.routing, one.status = found, routing, 200
        assert one.stated_cost() == cost
        note_end(one, None)
        records.append(record_of(one)._replace(started_at=START, latency_ms=0))
        assert one.usage == read_usage(usage, {"service_tier": "flex"})
    assert records[0] == records[1]
    assert (records[0].cached_tokens, records[0].service_tier) == (8, "flex")
    assert admitted().stated_cost() is None


def test_each_field_of_a_record_is_its_own() -> None:
    """It is made by position: no two of them are exchanged."""
    call = Call(
        "embeddings", "internal", "alias", "asked", {}, streaming=True, max_tokens=31, prompt_bytes=32,
        choices=33,
    )  # fmt: skip
    caller = Caller(
        "key", "virtual", "tenant", "agent", "user", "session", "channel", "prefix", run="run",
        tags=("t", "u"), run_id="run-name", above=(KeyAbove("root", "sk-root"),),
    )  # fmt: skip
    usage = TokenUsage(
        11, 12, 13, 14, cache_write_tokens=15, details="{}", service_tier="tier",
        quantities=Quantities(21, 22, 23, 24),
    )  # fmt: skip
    error = ProviderFailed("It failed.")
    error.provider_message = "It broke."
    hops = (ProviderAttempt("asked", "d-1", 0), ProviderAttempt("served", "d-2", 200))
    one = CallContext(UUID(int=1), started_at=1e9, caller=caller, call=call)
    one.client_request_id, one.usage, one.error, one.is_batch = "own-id", usage, error, True
    one.routing = RoutingInfo("served", "physical", "provider", "d-2", 42, hops, cost_nano_usd=41)
    one.status, one.outcome, one.would_refuse = 200, "cut", "key:requests"
    one.guard_verdict = GuardVerdict("warn", Finding("repeat", 51))
    one.queue_ms, one.ttft_ms, one.replay_of = 61.5, 62.5, UUID(int=2)
    found = record_of(one)._asdict()
    assert found.pop("latency_ms") > 0
    assert found == {
        "request_id": UUID(int=1), "started_at": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), "key_id": "key",
        "key_prefix": "prefix", "tenant": "tenant", "agent": "agent", "user": "user", "session": "session",
        "channel": "channel", "client_request_id": "own-id", "door": "embeddings", "dialect": "internal",
        "model": "alias", "group": "served", "model_resolved": "physical", "provider": "provider",
        "deployment": "d-2", "streamed": True, "status": 200, "outcome": "cut",
        "refusal_code": "provider_error", "prompt_tokens": 11, "completion_tokens": 12, "cached_tokens": 13,
        "reasoning_tokens": 14, "cost_nano_usd": 41, "usage_source": "provider", "cache": "miss",
        "attempts": 42, "ttft_ms": 62.5, "group_asked": "asked",
        "hops": '[["asked","d-1",0],["served","d-2",200]]', "provider_message": "It broke.", "run": "run",
        "tags": "t,u", "would_refuse": "key:requests", "cache_write_tokens": 15, "token_details": "{}",
        "service_tier": "tier", "prompt_bytes": 32, "max_tokens": 31, "choices": 33, "images": 21,
        "audio_ms": 22, "characters": 23, "search_units": 24, "queue_ms": 61.5, "run_name": "run-name",
        "replay_of": str(UUID(int=2)), "priority": "batch", "key_ancestors": "root", "guard_action": "warn",
        "guard_signal": "repeat", "guard_times": 51,
    }  # fmt: skip
