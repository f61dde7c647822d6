"""Spans are delivered to a collector over HTTP; an unavailable collector loses only the spans."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from prometheus_page import value
from usage_records import record

from llm_proxy import __version__
from llm_proxy.ledger.record import UsageRecord
from llm_proxy.telemetry import Metrics
from llm_proxy.telemetry.tracing import MAX_SPANS, Tracer

UNSAMPLED = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


class Collector:
    """An OTLP endpoint that keeps the spans it receives."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.received: list[ResourceSpans] = []
        self.status = 200
        self.delay_s = 0.0
        outer = self

        class TracesEndpoint(BaseHTTPRequestHandler):
            """Answers every POST with the collector's status."""

            def do_POST(self) -> None:
                """Keeps the spans."""
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.paths.append(self.path)
                time.sleep(outer.delay_s)
                if outer.status == 200:
                    outer.received.extend(ExportTraceServiceRequest.FromString(body).resource_spans)
                self.send_response(outer.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
                """Logs nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), TracesEndpoint)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[Span]:
        """All spans received."""
        return [span for one in self.received for scope in one.scope_spans for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Yields a running collector."""
    one = Collector()
    thread = threading.Thread(target=one.server.serve_forever)
    thread.start()
    yield one
    one.server.shutdown()
    one.server.server_close()
    thread.join()


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
    tracer = Tracer(collector.url, metrics)
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
    tracer = Tracer(f"{collector.url}/v1/traces", Metrics())
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
    tracer = Tracer(f"http://127.0.0.1:{free_port}/otlp", metrics)
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
    tracer = Tracer(collector.url, metrics)
    trace(tracer, record())
    await tracer.stop()
    assert dropped(metrics) == 1
    collector.delay_s = 8.0
    tracer = Tracer(collector.url, metrics)
    trace(tracer, record())
    began = time.monotonic()
    await tracer.stop()
    assert time.monotonic() - began < 7.5
    assert dropped(metrics) == 2


async def test_text_that_is_no_utf8_loses_no_span(collector: Collector) -> None:
    """In names that callers choose."""
    tracer = Tracer(collector.url, Metrics())
    for changes in ({}, {"agent": "a\ud800\0", "group": "\udc80"}, {}):
        trace(tracer, record(**changes))
    await tracer.stop()
    assert [span.name for span in collector.spans] == ["chat gpt-4o-mini", "chat ?", "chat gpt-4o-mini"]
