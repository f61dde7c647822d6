"""Log lines are JSON, and keys in them are redacted."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from llm_proxy.telemetry import request_id, setup_logging
from llm_proxy.telemetry.privacy import redact


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Yields the log output; the process's loggers are restored afterwards."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    out = io.StringIO()
    setup_logging("INFO", secrets=["literal-secret-of-ours"], stream=out)
    yield out
    root.handlers, root.level = before, level


def test_line_is_one_json_object_with_the_request_id(lines: io.StringIO) -> None:
    """For any message; `extra` fields stand beside the event."""
    token = request_id.set("0192-abc")
    logging.getLogger("llm_proxy.test").warning("postgres is away\nreally", extra={"records": 7})
    request_id.reset(token)
    reported = json.loads(lines.getvalue())
    assert reported["event"] == "postgres is away\nreally"
    assert (reported["level"], reported["request_id"], reported["records"]) == ("WARNING", "0192-abc", 7)
    assert lines.getvalue().count("\n") == 1


def test_traceback_stays_in_one_line(lines: io.StringIO) -> None:
    """It is the field `error`."""
    try:
        int("broken")
    except ValueError:
        logging.getLogger("llm_proxy.test").exception("it failed")
    assert "ValueError: invalid literal" in json.loads(lines.getvalue())["error"]


CANARY = "Zq3x9LmN7vTk2RbW8sYc"


@pytest.mark.parametrize(
    "text",
    [
        f"sk-{CANARY}",
        f"sk-ant-api03-{CANARY}",
        f"gsk_{CANARY}",
        f"AIza{CANARY}",
        f"Authorization: Bearer {CANARY}",
        f"Bearer {CANARY}",
        f"postgresql://user:{CANARY}@host/db",
        f"x-internal-auth: {CANARY}",
        f'{{"api_key": "{CANARY}"}}',
        f"password={CANARY}",
        f"eyJhbGciOiJIUzI1NiJ9.eyJ{CANARY}.x",
    ],
)
def test_key_in_a_message_is_redacted(lines: io.StringIO, text: str) -> None:
    """In the event, in a field, and in a traceback."""
    try:
        int(text)
    except ValueError:
        logging.getLogger("x").exception(f"saw {text}", extra={"header": text})  # noqa: G004 -- the point
    assert CANARY not in lines.getvalue()
    assert json.loads(lines.getvalue())["level"] == "ERROR"


def test_known_secret_is_redacted_everywhere(lines: io.StringIO) -> None:
    """Also if it does not look like a key."""
    logging.getLogger("x").info("so literal-secret-of-ours it is")
    assert "literal-secret-of-ours" not in lines.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "the task-force met",
        "risk-averse-people-everywhere",
        "model gpt-4o-mini-2024-07-18 failed",
        "https://api.x.ai/v1",
    ],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    """Redaction of ordinary words would hide events."""
    assert redact(text) == text


def test_text_that_is_no_utf8_loses_no_line(lines: io.StringIO) -> None:
    """Alone and in a batch."""
    log = logging.getLogger("llm_proxy.test")
    log.warning("an agent", extra={"agent": "a\ud800b"})
    log.warning("call", extra={"lines": [{"agent": "x"}, {"agent": "\udc80"}, {"agent": "y"}]})
    reported = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [one["agent"] for one in reported] == ["a\ud800b", "x", "\udc80", "y"]
