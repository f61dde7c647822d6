"""Spans are delivered to a collector over HTTP; an unavailable collector loses only the spans."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otlp_collector import Collector, run_collector
from prometheus_page import value
from usage_records import record

from llm_proxy import __version__
from llm_proxy.ledger.record import UsageRecord
from llm_proxy.stack.probe import is_up
from llm_proxy.telemetry import Metrics
from llm_proxy.telemetry.tracing import MAX_SPANS, Tracer, TraceTarget

KEY = "tracing-key-0123456789abcdef"
UNSAMPLED = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Yields a running collector."""
    with run_collector() as one:
        yield one


def trace(tracer: Tracer, call: UsageRecord, traceparent: bytes | None = None) -> None:
    """Starts and ends a call's span."""
    tracer.end_span(tracer.start_span(traceparent, call.started_at.timestamp()), call)


def attribute_of(span: Span, name: str) -> str:
    """Returns the text of an attribute."""
    (found,) = [one.value.string_value for one in span.attributes if one.key == name]
    return str(found)


def dropped(metrics: Metrics) -> float:
    """Returns the number of spans counted as dropped."""
    return value(metrics.render(), "llm_proxy_traces_dropped_total")


async def test_spans_are_delivered_in_one_request(collector: Collector) -> None:
    """To `/v1/traces`, with the service's name; unsampled calls have no span."""
    metrics = Metrics()
    tracer = Tracer(TraceTarget(collector.url), metrics)
    calls = [record(latency_ms=250.0) for _ in range(3)]
    for one in calls:
        trace(tracer, one)
    trace(tracer, record(), UNSAMPLED)
    await tracer.stop()
    assert collector.paths == ["/v1/traces"]
    resource = collector.received[0].resource
    assert {one.key: one.value.string_value for one in resource.attributes} == {
        "service.name": "llm-proxy",
        "service.version": __version__,
    }
    assert [UUID(attribute_of(span, "llm_proxy.request_id")) for span in collector.spans] == [
        one.request_id for one in calls
    ]
    for span in collector.spans:
        assert (span.name, span.kind, span.status.code) == ("chat gpt-4o-mini", Span.SPAN_KIND_SERVER, 1)
        assert abs(span.end_time_unix_nano - span.start_time_unix_nano - 250_000_000) < 2000
        assert span.parent_span_id == b""
    assert dropped(metrics) == 0


async def test_span_is_in_the_callers_trace(collector: Collector) -> None:
    """The caller's span is its parent; a failed call's span is an error."""
    tracer = Tracer(TraceTarget(f"{collector.url}/v1/traces"), Metrics())
    trace(tracer, record(outcome="error", refusal_code="overloaded", status=503), UNSAMPLED[:-2] + b"01")
    await tracer.stop()
    (span,) = collector.spans
    assert span.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert span.parent_span_id.hex() == "00f067aa0ba902b7"
    assert span.status.code == 2
    assert attribute_of(span, "error.type") == "overloaded"
    assert collector.paths == ["/v1/traces"]


async def test_unavailable_collector_loses_only_the_spans(free_port: int) -> None:
    """All are counted, also those above the queue's limit; nothing raises or waits."""
    metrics = Metrics()
    tracer = Tracer(TraceTarget(f"http://127.0.0.1:{free_port}/otlp"), metrics)
    began = time.monotonic()
    for _ in range(MAX_SPANS + 4):
        trace(tracer, record())
    await tracer.stop()
    assert dropped(metrics) == MAX_SPANS + 4
    assert time.monotonic() - began < 10


async def test_failing_or_hanging_collector_delays_nothing(collector: Collector) -> None:
    """The lost spans are counted; `stop` is bounded."""
    metrics = Metrics()
    collector.status = 400
    tracer = Tracer(TraceTarget(collector.url), metrics)
    trace(tracer, record())
    await tracer.stop()
    assert dropped(metrics) == 1
    collector.delay_s = 8.0
    tracer = Tracer(TraceTarget(collector.url), metrics)
    trace(tracer, record())
    began = time.monotonic()
    await tracer.stop()
    assert time.monotonic() - began < 7.5
    assert dropped(metrics) == 2


async def test_text_that_is_no_utf8_loses_no_span(collector: Collector) -> None:
    """In names that callers choose."""
    tracer = Tracer(TraceTarget(collector.url), Metrics())
    for changes in ({}, {"agent": "a\ud800\0", "group": "\udc80"}, {}):
        trace(tracer, record(**changes))
    await tracer.stop()
    assert [span.name for span in collector.spans] == ["chat gpt-4o-mini", "chat ?", "chat gpt-4o-mini"]


@pytest.mark.parametrize(
    ("names", "path", "header", "attributes"),
    [
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "{url}/otlp",
                "OTEL_EXPORTER_OTLP_HEADERS": "x-team=a%20key,x-other=b",
                "OTEL_SERVICE_NAME": "our gateway",
                "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,service.name=hidden",
            },
            "/otlp/v1/traces",
            "a key",
            {"service.name": "our gateway", "deployment.environment": "test"},
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{url}/anywhere",
                "OTEL_EXPORTER_OTLP_HEADERS": "x-team=general",
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-team=traces",
                "OTEL_RESOURCE_ATTRIBUTES": "service.name=by attribute",
            },
            "/anywhere",
            "traces",
            {"service.name": "by attribute"},
        ),
        (
            {"LLM_PROXY__OTLP_ENDPOINT": "{url}", "LLM_PROXY__OTLP_HEADERS": "x-team=ours"},
            "/v1/traces",
            "ours",
            {"service.name": "llm-proxy"},
        ),
    ],
    ids=["general", "of traces", "our own"],
)
def test_opentelemetry_s_variables_are_obeyed(
    names: dict[str, str],
    path: str,
    header: str,
    attributes: dict[str, str],
    collector: Collector,
    tmp_path: Path,
    free_port: int,
) -> None:
    """By a gateway that runs as a process."""
    env = {name: text.format(url=collector.url) for name, text in names.items()}
    own = {"PATH": os.environ["PATH"], "LLM_PROXY__LLM_MODE": "mock", "LLM_PROXY__INTERNAL_API_KEY": KEY}
    argv = [sys.executable, "-m", "llm_proxy", "serve", "--port", str(free_port)]
    gateway = subprocess.Popen(argv, env=own | env, cwd=tmp_path)
    try:
        ends = time.monotonic() + 30
        while not is_up(free_port, "/health/live"):
            assert time.monotonic() < ends
            time.sleep(0.05)
        body = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}
        url = f"http://127.0.0.1:{free_port}/v1/chat/completions"
        assert httpx.post(url, json=body, headers={"x-api-key": KEY}).status_code == 200
        while not collector.received:
            assert time.monotonic() < ends
            time.sleep(0.05)
    finally:
        gateway.kill()
        gateway.wait()
    assert collector.paths == [path]
    assert collector.headers[0]["x-team"] == header
    found = {one.key: one.value.string_value for one in collector.received[0].resource.attributes}
    assert attributes.items() <= found.items()
