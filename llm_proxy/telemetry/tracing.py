"""One span per call to an OpenTelemetry collector, and the caller's trace passed on; off unless configured.

Invariants: no prompt and no answer in a span; spans wait in a bounded queue and are dropped, counted, when
the collector is away; nothing on a call's way waits for it. OTLP over HTTP as JSON: no SDK needed.
Sources: https://www.w3.org/TR/trace-context/, https://opentelemetry.io/docs/specs/otlp/#otlphttp,
https://opentelemetry.io/docs/specs/semconv/gen-ai/.
"""

import asyncio
import http.client
import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from llm_proxy import __version__
from llm_proxy.background import BackgroundLoop
from llm_proxy.schema.database import sanitize_text
from llm_proxy.telemetry.metrics import FinishedCall, Metrics

log = logging.getLogger(__name__)

_MOST_SPANS = 4096
_EVERY_S = 1.0
_TIMEOUT_S = 5.0
_SERVER, _OK, _ERROR = 2, 1, 2
_OPERATIONS = {"chat.completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Trace:
    """One call's place in a trace.

    Attributes:
        parent_id: The caller's span; None when the trace begins here.
        sampled: Whether the span is to be delivered; the caller's choice where there is one.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    sampled: bool

    @property
    def header(self) -> str:
        """The `traceparent` to pass on."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def begin(traceparent: bytes | None) -> Trace:
    """The place of a new call: within the caller's trace, or in one of its own when it names none."""
    parent = _parse(traceparent)
    span_id = secrets.token_hex(8)
    if parent is None:
        return Trace(secrets.token_hex(16), span_id, None, sampled=True)
    trace_id, parent_id, sampled = parent
    return Trace(trace_id, span_id, parent_id, sampled=sampled)


class Tracer:
    """Delivers spans to a collector."""

    def __init__(self, endpoint: str, metrics: Metrics) -> None:
        """Deliver to this collector (its base address, or one ending in `/v1/traces`)."""
        url = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        self._secure = url.scheme == "https"
        self._host = url.netloc.rpartition("@")[2]
        self._path = url.path if url.path.endswith("/v1/traces") else f"{url.path.rstrip('/')}/v1/traces"
        self._metrics = metrics
        self._spans: list[dict[str, Any]] = []
        self._loop = BackgroundLoop("tracing", self._deliver, every_s=_EVERY_S)

    def finished(self, trace: Trace, call: FinishedCall) -> None:
        """A call ended: its span is queued; never waits."""
        if not trace.sampled:
            return
        if len(self._spans) >= _MOST_SPANS:
            self._metrics.increment("llm_proxy_traces_dropped_total")
            return
        self._spans.append(span(trace, call))

    async def start(self) -> None:
        """Begin to deliver."""
        self._loop.start()

    async def stop(self) -> None:
        """Deliver what is left, once, and end."""
        await self._loop.stop()
        await self._deliver()

    async def _deliver(self) -> None:
        spans, self._spans = self._spans, []
        if not spans:
            return
        try:
            await asyncio.to_thread(self._post, orjson.dumps(envelope(spans)))
        except (OSError, http.client.HTTPException) as fault:
            self._metrics.increment("llm_proxy_traces_dropped_total", by=len(spans))
            log.warning("spans were not delivered", extra={"spans": len(spans), "why": type(fault).__name__})

    def _post(self, body: bytes) -> None:
        connect = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = connect(self._host, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", self._path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 300:
                raise http.client.HTTPException(f"status {answer.status}")
        finally:
            connection.close()


def span(trace: Trace, call: FinishedCall) -> dict[str, Any]:
    """The span of a call, in OTLP's JSON."""
    start_ns = int(call.started_at.timestamp() * 1e6) * 1000
    operation = _OPERATIONS.get(call.door, call.door)
    failed = call.outcome != "ok"
    return {
        "traceId": trace.trace_id,
        "spanId": trace.span_id,
        **({"parentSpanId": trace.parent_id} if trace.parent_id else {}),
        "name": sanitize_text(f"{operation} {call.group}"),
        "kind": _SERVER,
        "startTimeUnixNano": str(start_ns),
        "endTimeUnixNano": str(start_ns + int(call.latency_ms * 1e6)),
        "attributes": list(_attributes(_facts(call, operation))),
        "status": {"code": _ERROR if failed else _OK},
    }


def envelope(spans: list[dict[str, Any]]) -> dict[str, Any]:
    """The body of one delivery."""
    service = {"service.name": "llm-proxy", "service.version": __version__}
    scope = {"name": "llm_proxy", "version": __version__}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": list(_attributes(service))},
                "scopeSpans": [{"scope": scope, "spans": spans}],
            }
        ]
    }


def _facts(call: FinishedCall, operation: str) -> dict[str, Any]:
    cost_usd = call.cost_nano_usd / 1e9 if call.cost_nano_usd is not None else None
    return {
        "gen_ai.operation.name": operation,
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
    }


def _attributes(facts: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, int):
            yield {"key": name, "value": {"intValue": str(value)}}
        elif isinstance(value, float):
            yield {"key": name, "value": {"doubleValue": value}}
        elif value is not None:
            yield {"key": name, "value": {"stringValue": sanitize_text(value)}}


def _parse(traceparent: bytes | None) -> tuple[str, str, bool] | None:
    parts = (traceparent or b"").decode("ascii", "replace").split("-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2] or parts[0] == "ff":
        return None
    version, trace_id, parent_id, flags = parts[:4]
    known = _HEX.issuperset(version + trace_id + parent_id + flags) and (version != "00" or len(parts) == 4)
    if not known or int(trace_id, 16) == 0 or int(parent_id, 16) == 0:
        return None
    return trace_id, parent_id, bool(int(flags, 16) & 1)
