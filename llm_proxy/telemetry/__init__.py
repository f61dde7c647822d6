"""What can be seen from outside: JSON logs, metrics, traces, and the ids that tie them together."""

from llm_proxy.telemetry.log import request_id, setup_logging
from llm_proxy.telemetry.metrics import Metrics, WorkerFiles
from llm_proxy.telemetry.request_ids import time_of, uuid7

__all__ = ["Metrics", "WorkerFiles", "request_id", "setup_logging", "time_of", "uuid7"]
