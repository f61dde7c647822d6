"""Spans reach a real collector over HTTP, and a collector that is away costs nothing but the spans."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prometheus_page import value
from usage_records import record

from llm_proxy import background
from llm_proxy.telemetry import Metrics
from llm_proxy.telemetry.tracing import Tracer, begin

Json = dict[str, Any]


class Collector:
    """An endpoint that keeps what it is sent, as an OpenTelemetry collector would."""

    def __init__(self) -> None:
        self.received: list[tuple[str, Json]] = []
        outer = self

        class Door(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                outer.received.append((self.path, json.loads(self.rfile.read(length))))
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector."""
    one = Collector()
    thread = threading.Thread(target=one.server.serve_forever)
    thread.start()
    yield one
    one.server.shutdown()
    one.server.server_close()
    thread.join()


async def test_spans_are_delivered_with_the_service_and_without_text(collector: Collector) -> None:
    """In one delivery, to OTLP's path."""
    tracer = Tracer(collector.url, Metrics())
    await tracer.start()
    calls = [record() for _ in range(3)]
    for one in calls:
        tracer.finished(begin(None), one)
    tracer.finished(begin(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), record())
    await tracer.stop()
    ((path, body),) = collector.received
    assert path == "/v1/traces"
    resource = body["resourceSpans"][0]
    assert resource["resource"]["attributes"][0] == {
        "key": "service.name",
        "value": {"stringValue": "llm-proxy"},
    }
    spans = resource["scopeSpans"][0]["spans"]
    ids = [
        next(a["value"]["stringValue"] for a in span["attributes"] if a["key"] == "llm_proxy.request_id")
        for span in spans
    ]
    assert ids == [str(one.request_id) for one in calls]


async def test_a_collector_that_is_away_costs_the_spans_alone(free_port: int) -> None:
    """They are counted; nothing is raised, nothing waits."""
    metrics = Metrics()
    tracer = Tracer(f"http://127.0.0.1:{free_port}/otlp", metrics)
    await tracer.start()
    for _ in range(4100):
        tracer.finished(begin(None), record())
    await tracer.stop()
    assert value(metrics.render(), "llm_proxy_traces_dropped_total") == 4100


async def test_a_span_with_text_that_is_no_utf8_holds_up_no_other(collector: Collector) -> None:
    """Names a caller chose."""
    tracer = Tracer(collector.url, Metrics())
    await tracer.start()
    for changes in ({}, {"agent": "a\ud800\0", "group": "\udc80"}, {}):
        tracer.finished(begin(None), record(**changes))
    await tracer.stop()
    assert "tracing" not in background.failing_loops()
    spans = [
        one for _, body in collector.received for one in body["resourceSpans"][0]["scopeSpans"][0]["spans"]
    ]
    assert len(spans) == 3
