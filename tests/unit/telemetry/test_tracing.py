"""Traces: the caller's trace is continued; spans hold no text."""

import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Span
from usage_records import record

from llm_proxy.telemetry import Metrics
from llm_proxy.telemetry.tracing import (
    SCHEMA_URL,
    Tracer,
    TraceTarget,
    span_attributes,
    span_name,
    traceparent_of,
)

CALLERS = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def tracer(free_port: int) -> AsyncIterator[Tracer]:
    """Yields a tracer whose collector is unavailable."""
    one = Tracer(TraceTarget(f"http://127.0.0.1:{free_port}"), Metrics())
    yield one
    await one.stop()


def parent_of(span: Span) -> str | None:
    """Returns the id of a span's parent; None for the first span of a trace."""
    parent = getattr(span, "parent", None)
    return f"{parent.span_id:016x}" if parent else None


async def test_span_continues_the_callers_trace(tracer: Tracer) -> None:
    """Same trace id, the caller's span as parent, the caller's sampling flag."""
    span = tracer.start_span(CALLERS, 1.7e9)
    version, trace_id, span_id, flags = traceparent_of(span).split("-")
    assert (version, trace_id, flags) == ("00", "4bf92f3577b34da6a3ce929d0e0e4736", "01")
    assert span_id != "00f067aa0ba902b7"
    assert parent_of(span) == "00f067aa0ba902b7"
    unsampled = tracer.start_span(CALLERS[:-2] + b"00", 1.7e9)
    assert not unsampled.is_recording()
    version, trace_id, span_id, flags = traceparent_of(unsampled).split("-")
    assert (version, trace_id, flags) == ("00", "4bf92f3577b34da6a3ce929d0e0e4736", "00")
    assert span_id != "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [
        None, b"", b"garbage", CALLERS[:-1], b"ff" + CALLERS[2:], CALLERS + b"-more", CALLERS.upper(),
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", b"\xff" + CALLERS,
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
    ],
)  # fmt: skip
async def test_invalid_header_starts_a_new_trace(tracer: Tracer, header: bytes | None) -> None:
    """As the W3C recommendation demands."""
    span = tracer.start_span(header, 1.7e9)
    assert parent_of(span) is None
    assert span.is_recording()
    _, trace_id, _, flags = traceparent_of(span).split("-")
    assert (len(trace_id), flags) == (32, "01")
    assert trace_id != "4bf92f3577b34da6a3ce929d0e0e4736"


def test_attributes_follow_the_genai_conventions() -> None:
    """Operation, provider, models, tokens; `llm_proxy.request_id` is the record's."""
    one = record(latency_ms=250.0)
    facts = span_attributes(one)
    assert span_name(one) == "chat gpt-4o-mini"
    assert facts["gen_ai.operation.name"] == "chat"
    assert facts["gen_ai.response.model"] == "gpt-4o-mini-2024-07-18"
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (12, 34)
    assert facts["llm_proxy.request_id"] == str(one.request_id)
    assert "error.type" not in facts
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    assert {name for name in facts if name.startswith("gen_ai.")} <= known
    assert SCHEMA_URL in {one.value for one in Schemas}


def test_failed_call_has_an_error_type() -> None:
    """The error's code, or the outcome."""
    facts = span_attributes(record(outcome="client_gone", refusal_code=None, status=0))
    assert facts["error.type"] == "client_gone"
    assert "http.response.status_code" not in facts
    assert span_attributes(record(outcome="error", refusal_code="overloaded"))["error.type"] == "overloaded"


def test_sdk_is_not_imported_without_an_endpoint() -> None:
    """Nor are the exporter and its dependencies."""
    theirs = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "requests", "google.protobuf")
    loaded = f"import sys, llm_proxy.cli.serve; print([one for one in {theirs} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
