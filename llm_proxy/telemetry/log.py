"""Structured logs: one JSON object a line on standard error, with the request's id.

Invariants: callers log no prompt, answer or key; key-like text is redacted on output all the same. An event
is a short fixed sentence; variable values go into `extra`. Third-party loggers use the same format. Units:
`at` UTC.
"""

import json
import logging
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import orjson

from llm_proxy.telemetry.privacy import redact

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The current request; set by the edge."""

_BUILT_IN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_QUIET = ("uvicorn.access", "asyncio", "httpx", "httpcore")


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON, with the fields of `extra` beside the event.

    A record with `lines` in `extra` becomes one line for each: events that occur a thousand times a second
    are logged in batches. The caller redacts `lines`.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = tuple(secret for secret in secrets if secret)

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line or lines, without the last newline."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": record.getMessage(),
            "logger": record.name,
        }
        if (current_id := request_id.get()) is not None:
            line["request_id"] = current_id
        many: Iterable[dict[str, object]] | None = getattr(record, "lines", None)
        if many is not None:
            head = _json(line)[:-1] + b","
            return b"\n".join(head + _json(one)[1:] for one in many).decode()
        line.update((name, value) for name, value in vars(record).items() if name not in _BUILT_IN)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return redact(_json(line).decode(), self._secrets)


def _json(line: dict[str, object]) -> bytes:
    """Returns one object as JSON, also if it holds text that is no UTF-8."""
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return json.dumps(line, default=str, separators=(",", ":")).encode()


def setup_logging(level: str = "INFO", *, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Makes every logger of this process write JSON lines.

    Args:
        level: The lowest level written.
        secrets: Exact texts redacted wherever they appear.
        stream: The output; standard error by default.
    """
    out = logging.StreamHandler(stream or sys.stderr)
    out.setFormatter(JsonFormatter(secrets))
    root = logging.getLogger()
    root.handlers = [out]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "fastapi"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel("WARNING")
