"""JSON logs, Prometheus metrics, OpenTelemetry traces, and the request ids that connect them."""

from llm_proxy.telemetry.log import request_id, setup_logging
from llm_proxy.telemetry.metrics import Metrics, WorkerMetricsFiles
from llm_proxy.telemetry.request_ids import timestamp_of, uuid7

__all__ = ["Metrics", "WorkerMetricsFiles", "request_id", "setup_logging", "timestamp_of", "uuid7"]
