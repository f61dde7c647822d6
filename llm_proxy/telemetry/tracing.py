"""One OpenTelemetry span a call, in the caller's trace; the SDK is imported only if traces are configured.

Invariants: no prompt and no answer is in a span. Ended spans wait in a queue of `MAX_SPANS`; spans that find
it full or cannot be delivered are dropped and counted. A thread of the SDK delivers them; no call waits
for it. Sources: https://www.w3.org/TR/trace-context/, https://opentelemetry.io/docs/specs/otlp/#otlphttp,
GenAI semantic conventions 1.44.0, https://opentelemetry.io/docs/specs/semconv/gen-ai/.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from llm_proxy import __version__
from llm_proxy.schema.database import sanitize_text
from llm_proxy.telemetry.metrics import FinishedCall, Metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span as Span  # noqa: PLC0414 -- the type of a call's span, for others too

log = logging.getLogger(__name__)

MAX_SPANS = 4096
DELIVER_EVERY_S = 1.0
TIMEOUT_S = 5.0
STOP_S = 2.0
"""Time for the delivery of the last spans when the gateway stops."""
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
_OPERATIONS = {"chat.completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}


@dataclass(frozen=True, slots=True)
class TraceTarget:
    """Where spans go, and how their origin is described.

    Attributes:
        endpoint: The collector's base address, or its address that ends in `/v1/traces`.
        is_whole: Whether the address is used as it is.
        headers: Sent with each delivery.
        attributes: Of the resource; they win over name and version of this service.
    """

    endpoint: str
    is_whole: bool = False
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


class Tracer:
    """Starts and ends spans, and delivers them to a collector."""

    def __init__(self, target: TraceTarget, metrics: Metrics) -> None:
        # Imported here: the SDK takes 30 MB and 0.3 s, and most gateways export no traces.
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import DEFAULT_ON  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        logging.getLogger("opentelemetry").setLevel(
            logging.CRITICAL
        )  # its lines would hold the collector's address
        self._metrics = metrics
        self._ended = 0
        self._exporter = _CountingExporter(_otlp_exporter(target), metrics)
        self._processor = BatchSpanProcessor(
            self._exporter,  # type: ignore[arg-type]  # it is one in all but its import
            max_queue_size=MAX_SPANS,
            max_export_batch_size=MAX_SPANS,
            schedule_delay_millis=1000 * DELIVER_EVERY_S,
        )
        own = {"service.name": "llm-proxy", "service.version": __version__}
        service = Resource({**own, **target.attributes})
        self._provider = TracerProvider(sampler=DEFAULT_ON, resource=service, shutdown_on_exit=False)
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("llm_proxy", __version__, schema_url=SCHEMA_URL)
        self._propagator = TraceContextTextMapPropagator()

    def start_span(self, traceparent: bytes | None, started_at_s: float) -> "Span":
        """Starts a call's span in the caller's trace, or in a new trace if the header is missing or invalid.

        Args:
            traceparent: The caller's header (W3C); the caller decides whether the span is sampled.
            started_at_s: The start of the call, in seconds since 1970.
        """
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        carrier = {"traceparent": (traceparent or b"").decode("ascii", "replace")}
        context = self._propagator.extract(carrier, Context())
        start_ns = int(started_at_s * 1e6) * 1000
        return self._tracer.start_span("call", context, SpanKind.SERVER, start_time=start_ns)

    def end_span(self, span: "Span", call: FinishedCall) -> None:
        """Ends a call's span and enqueues it; never waits."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        if not span.is_recording():
            return
        if self._ended - self._exporter.exported >= MAX_SPANS:
            self._metrics.increment("llm_proxy_traces_dropped_total")
            return
        self._ended += 1
        span.update_name(span_name(call))
        span.set_attributes(span_attributes(call))
        span.set_status(StatusCode.OK if call.outcome == "ok" else StatusCode.ERROR)
        span.end(int((call.started_at.timestamp() + call.latency_ms / 1000) * 1e6) * 1000)

    async def stop(self) -> None:
        """Delivers the last spans within `STOP_S`, and stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await asyncio.to_thread(self._processor.force_flush)
        self._exporter.shutdown()  # a delivery still in progress is given up
        await asyncio.to_thread(self._provider.shutdown)


class _CountingExporter:
    """Exports with another exporter and counts the spans that are lost.

    Attributes:
        exported: Number of spans that left the queue, delivered or not; only the SDK's thread writes it.
    """

    def __init__(self, exporter: "SpanExporter", metrics: Metrics) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self.exported = 0

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
        self.exported += len(spans)
        result = self._exporter.export(spans)
        if result.name != "SUCCESS":
            self._metrics.increment("llm_proxy_traces_dropped_total", by=len(spans))
            log.warning("spans were not delivered", extra={"spans": len(spans)})
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def traceparent_of(span: "Span") -> str:
    """Returns the `traceparent` header for the upstream (W3C), with the `sampled` flag alone."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"


def span_name(call: FinishedCall) -> str:
    """Returns the operation and the model, as GenAI's conventions name spans."""
    return sanitize_text(f"{_OPERATIONS.get(call.door, call.door)} {call.group}")


def span_attributes(call: FinishedCall) -> dict[str, str | int | float]:
    """Returns the attributes of a call's span, without those that are unknown."""
    cost_usd = call.cost_nano_usd / 1e9 if call.cost_nano_usd is not None else None
    facts: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATIONS.get(call.door, call.door),
        "gen_ai.provider.name": call.provider,
        "gen_ai.request.model": call.group,
        "gen_ai.response.model": call.model_resolved,
        "gen_ai.usage.input_tokens": call.prompt_tokens,
        "gen_ai.usage.output_tokens": call.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": call.cached_tokens,
        "http.response.status_code": call.status or None,
        "error.type": call.refusal_code or call.outcome if call.outcome != "ok" else None,
        "llm_proxy.request_id": str(call.request_id),
        "llm_proxy.agent": call.agent,
        "llm_proxy.tenant": call.tenant,
        "llm_proxy.outcome": call.outcome,
        "llm_proxy.cost_usd": cost_usd,
        "llm_proxy.ttft_ms": call.ttft_ms,
        "llm_proxy.queue_ms": call.queue_ms or None,
    }
    return {
        name: sanitize_text(value) if isinstance(value, str) else value
        for name, value in facts.items()
        if value is not None
    }


def _otlp_exporter(target: TraceTarget) -> "SpanExporter":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from requests import Session  # noqa: PLC0415

    url = urlsplit(target.endpoint if "://" in target.endpoint else f"http://{target.endpoint}")
    is_whole = target.is_whole or url.path.endswith("/v1/traces")
    path = url.path if is_whole else f"{url.path.rstrip('/')}/v1/traces"
    session = Session()
    session.trust_env = False  # no proxy from the environment
    return OTLPSpanExporter(
        urlunsplit(
            (url.scheme, url.netloc.rpartition("@")[2], path, url.query if target.is_whole else "", "")
        ),
        headers=dict(target.headers),
        certificate_file=ssl.get_default_verify_paths().cafile,
        timeout=TIMEOUT_S,
        session=session,
    )
