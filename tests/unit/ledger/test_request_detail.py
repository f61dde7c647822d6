"""A request's lines, of records and rejections that the flow tests do not produce."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from llm_proxy.ledger.request_detail import (
    CostPart,
    cost_parts_of,
    describe_limit,
    describe_request,
    redact_for_key,
)

AT = datetime(2026, 11, 26, 12, 0, 1, 5000, UTC)
RECORD: dict[str, Any] = {
    "started_at": AT, "door": "chat.completions", "group_asked": "dear", "model_group": "cheap",
    "key_prefix": "sk-one", "tenant": "acme", "outcome": "ok", "status": 200, "latency_ms": 1234.5,
    "prompt_tokens": 3, "completion_tokens": 4, "cost_usd": Decimal("0.000000007"), "cache": "miss",
    "deployment": "c-1", "model_calls": [],
    "hops": [["dear", "d-1", 500], ["dear", "d-2", 429], ["cheap", "c-1", 200]],
}  # fmt: skip


def row(attempt: str, deployment: str, status: str, began_s: float, **known: Any) -> dict[str, Any]:
    """A row of the sidecar's log, of a tenth of a second."""
    began = AT + timedelta(seconds=began_s)
    return {
        "attempt": attempt, "deployment": deployment, "status": status, "started_at": began,
        "ended_at": began + timedelta(milliseconds=100), "model_group": "g", "http_status": None, **known,
    }  # fmt: skip


def test_attempts_find_their_log_rows_in_any_order() -> None:
    """A row belongs to one attempt; an attempt without a row says so."""
    calls = [
        row("success:c-1", "c-1", "success", 2),
        row("failure:1:d-1", "d-1", "failure", 1, error_class="InternalServerError"),
    ]
    lines = describe_request({**RECORD, "model_calls": calls})
    assert lines == [
        "2026-11-26 12:00:01.005 chat.completions for dear by key sk-one, tenant acme",
        "hop 1: dear at d-1: status 500; 2026-11-26 12:00:02.005, 100 ms; InternalServerError",
        "hop 2: dear at d-2: status 429; time not known",
        "hop 3: cheap at c-1: status 200; 2026-11-26 12:00:03.005, 100 ms",
        "ended ok with 200, after 1,234 ms, 3 + 4 tokens, $0.000000007",
    ]
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"hops": None, "deployment": None, "cache": "hit"}, "no hop: the response cache answered"),
        (
            {"hops": None, "deployment": None, "replay_of": "call-1"},
            "no hop: the answer of call-1 again, by its idempotency key",
        ),
        (
            {"hops": None, "deployment": None},
            "no hop is known: nothing was sent to a provider, or it was not recorded",
        ),
        ({"hops": None}, "hop 1: cheap at c-1: status 200"),
        ({"hops": None, "outcome": "cut"}, "hop 1: cheap at c-1: status not known"),
        ({"cost_usd": Decimal("0.500000000")}, "tokens, $0.50"),
        ({"queue_ms": 0.0}, "after 1,234 ms, 3 + 4 tokens"),
        ({"queue_ms": 812.5}, "after 1,234 ms, of which 812 ms in the queue for a slot, 3 + 4 tokens"),
        ({"outcome": "lost", "status": 0}, "ended lost with its worker"),
        ({"outcome": "client_gone", "status": 0}, "ended client_gone, the caller was sent nothing"),
        ({"cost_usd": None, "prompt_tokens": None}, "tokens unknown, cost unknown"),
        ({"images": 2, "audio_ms": 61_500}, "3 + 4 tokens, 2 images, 61.5 audio seconds, $"),
        ({"search_units": 1, "characters": None}, "3 + 4 tokens, 1 search unit, $"),
        ({"would_refuse": "key:requests"}, "limits in shadow mode would have rejected it: key:requests"),
    ],
)
def test_unknown_facts_are_called_unknown(changes: dict[str, Any], line: str) -> None:
    """Of calls without attempts, without an answer, without figures."""
    assert line in "\n".join(describe_request(RECORD | changes))


def test_a_limit_of_unknown_use_says_so() -> None:
    """The limits store is unavailable, or a budget's spend is to be rebuilt."""
    away = {
        "kind": "budget", "scope": "agent", "subject": "agent a", "unit": "usd", "limit": "1.000000000",
        "held": "0.000000000", "kept": "0.000000000", "running": 0, "period": "month", "wait_ms": 1000,
    }  # fmt: skip
    assert describe_limit(away) == (
        "budget of agent a (scope agent); an unknown part of $1.00 a month used; wait 1 s"
    )


def test_an_attempt_that_no_provider_answered_has_no_status() -> None:
    """But the failure of its network; a status of LiteLLM's is not shown."""
    call = row(
        "failure:1:d-1", "d-1", "failure", 1, error_class="InternalServerError",
        normalized_error="500_PROVIDER_CONNECTION_ERROR",
    )  # fmt: skip
    failed = RECORD | {"hops": [["dear", "d-1", 0]], "model_calls": [call], "outcome": "error", "status": 502}
    assert describe_request(failed)[1] == (
        "hop 1: dear at d-1: not answered by the provider; 2026-11-26 12:00:02.005, 100 ms; "
        "provider connection error"
    )


def test_a_rejected_request_names_its_model_its_key_and_the_limit_s_end() -> None:
    """The key by its name where that is known, times in UTC."""
    reached = {
        "kind": "budget", "scope": "key", "subject": "key sk-one", "unit": "requests", "limit": 2, "used": 2,
        "held": 0, "kept": 0, "running": 0, "wanted": 1, "period": "day",
        "resets_at": "2026-11-28T00:00:00+01:00",
    }  # fmt: skip
    refused = {
        "refused_at": AT, "outcome": "refused", "status": 429, "code": "insufficient_quota",
        "model": "nosuch", "refused_by": "budget", "key_prefix": "sk-one", "key_name": "maria",
        "reached": reached,
    }  # fmt: skip
    full = "2 of 2 requests a day used; wanted 1 request; resets 2026-11-27 23:00 UTC"
    assert describe_request(refused) == [
        "2026-11-26 12:00:01.005 a request for nosuch by key maria",
        f"rejected with 429 insufficient_quota by the budget: budget of key maria (scope key); {full}",
    ]


def test_the_parts_of_a_cost_have_their_tokens_and_rates() -> None:
    """Of the attempt that answered, as command and console show them; a total has no tokens of its own."""
    breakdown = {"input_cost": "0.000003", "output_cost": 0.000008, "total_cost": "0.000011"}
    calls = [
        row("failure:1:d-1", "d-1", "failure", 1, cost_breakdown={"total_cost": "9"}),
        row("success:c-1", "c-1", "success", 2, cost_breakdown=breakdown),
    ]
    assert list(cost_parts_of(RECORD | {"model_calls": calls})) == [
        CostPart("input cost", 3, Decimal("0.000003"), Decimal(1)),
        CostPart("output cost", 4, Decimal("0.000008"), Decimal(2)),
        CostPart("total cost", None, Decimal("0.000011"), None),
    ]
    assert list(cost_parts_of(RECORD)) == []


def test_a_key_sees_no_shared_figures_and_no_message_it_did_not_receive() -> None:
    """Nor error classes; what it received stays."""
    calls = [row("failure:1:d-1", "d-1", "failure", 1, error_class="E", normalized_error="500_E")]
    failed = RECORD | {"status": 502, "provider_message": "It broke.", "model_calls": calls}
    own = redact_for_key(failed, {400})
    assert "provider_message" not in own
    assert set(calls[0]) - set(own["model_calls"][0]) == {"error_class", "normalized_error"}
    heard = redact_for_key(failed | {"status": 400}, {400})
    assert heard["provider_message"] == "It broke."
