"""An OTLP collector over HTTP that keeps the spans it receives, and answers as a test sets."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from threaded_server import serving


class Collector:
    """An OTLP endpoint that keeps the spans it receives."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
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
                outer.headers.append(dict(self.headers))
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


@contextmanager
def run_collector() -> Generator[Collector]:
    """A collector, until the block ends."""
    one = Collector()
    with serving(one.server):
        yield one
