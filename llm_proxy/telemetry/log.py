"""Structured logs: one JSON object a line on standard error, with the request's id.

Invariants: no prompt, answer or key is ever handed in, and key-like text is blanked on the way out; an
event is a short fixed sentence, everything that varies goes into `extra`; third-party loggers speak the
same way. Units: `at` UTC.
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
"""The request being served; set by the edge where a line may be written outside a record."""

_BUILT_IN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_QUIET = ("uvicorn.access", "asyncio", "httpx", "httpcore")


class JsonFormatter(logging.Formatter):
    """Renders a log record as one line of JSON; `extra` fields stand beside the event.

    A record whose `extra` holds `lines` becomes one line for each of them: what happens a thousand times a
    second is handed over by the batch. Those are redacted by who made them.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = tuple(secret for secret in secrets if secret)

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its newline."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": record.getMessage(),
            "logger": record.name,
        }
        if (asked := request_id.get()) is not None:
            line["request_id"] = asked
        many: Iterable[dict[str, object]] | None = getattr(record, "lines", None)
        if many is not None:
            head = _json(line)[:-1] + b","
            return b"\n".join(head + _json(one)[1:] for one in many).decode()
        line.update((name, value) for name, value in vars(record).items() if name not in _BUILT_IN)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return redact(_json(line).decode(), self._secrets)


def _json(line: dict[str, object]) -> bytes:
    """One object; text that is no UTF-8 costs no line, nor the others of its batch."""
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return json.dumps(line, default=str, separators=(",", ":")).encode()


def setup_logging(level: str = "INFO", *, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Make every logger of this process write JSON lines.

    Args:
        level: The lowest level written.
        secrets: Exact texts blanked wherever they appear.
        stream: Where lines go; standard error by default.
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
