"""Traces: the caller's is passed on, and a span says what was called, never what was said."""

import pytest
from usage_records import record

from llm_proxy.telemetry.tracing import begin, span

CALLERS = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_callers_trace_is_continued_with_a_span_of_ours() -> None:
    """The trace id stays, the parent is the caller's span, the flags are its choice."""
    trace = begin(CALLERS)
    assert (trace.trace_id, trace.parent_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert trace.header == f"00-{trace.trace_id}-{trace.span_id}-01"
    assert trace.span_id != trace.parent_id
    assert begin(CALLERS[:-2] + b"00").sampled is False


@pytest.mark.parametrize(
    "header",
    [
        None, b"", b"garbage", CALLERS[:-1], b"ff" + CALLERS[2:], CALLERS + b"-more", CALLERS.upper(),
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
    ],
)  # fmt: skip
def test_a_header_that_is_none_begins_a_new_trace(header: bytes | None) -> None:
    """As the W3C recommendation says of invalid ones."""
    trace = begin(header)
    assert trace.parent_id is None
    assert trace.sampled
    assert len(trace.trace_id) == 32


def test_a_span_speaks_the_genai_conventions() -> None:
    """Operation, provider, models, tokens; the request's id ties it to the record."""
    one = record(latency_ms=250.0)
    told = span(begin(CALLERS), one)
    facts = {item["key"]: next(iter(item["value"].values())) for item in told["attributes"]}
    assert told["name"] == "chat gpt-4o-mini"
    assert told["parentSpanId"] == "00f067aa0ba902b7"
    assert int(told["endTimeUnixNano"]) - int(told["startTimeUnixNano"]) == 250_000_000
    assert facts["gen_ai.operation.name"] == "chat"
    assert facts["gen_ai.response.model"] == "gpt-4o-mini-2024-07-18"
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == ("12", "34")
    assert facts["llm_proxy.request_id"] == str(one.request_id)
    assert "error.type" not in facts


def test_a_failed_call_is_an_error_with_its_type() -> None:
    """Our refusal's code, or how it ended."""
    told = span(begin(None), record(outcome="client_gone", refusal_code=None, status=0))
    facts = {item["key"]: next(iter(item["value"].values())) for item in told["attributes"]}
    assert told["status"] == {"code": 2}
    assert facts["error.type"] == "client_gone"
    assert "http.response.status_code" not in facts
