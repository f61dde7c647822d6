"""The log line of a finished call."""

import io
import json
import logging

from usage_records import record

from llm_proxy.ledger.record import log_fields, row_of
from llm_proxy.telemetry.log import JsonFormatter


def test_a_line_has_the_call_and_no_person() -> None:
    """No user, session or client request id; unknown fields are left out."""
    one = record(user="person", session="s-1", client_request_id="theirs", agent="agent sk-abcdefghijklmnop")
    line = log_fields(row_of(one))
    assert not {"person", "s-1", "theirs"} & set(map(str, line.values()))
    assert line["agent"] == "agent sk-[redacted]"
    assert (line["request_id"], line["status"], line["cost_usd"]) == (one.request_id, 200, 0.000056789)
    assert "cached_tokens" not in line
    assert "queue_ms" not in log_fields(row_of(record(queue_ms=0.0)))
    assert log_fields(row_of(record(queue_ms=812.54)))["queue_ms"] == 812.5


def test_a_batch_is_one_json_object_a_line() -> None:
    """Each with its own request id."""
    out = io.StringIO()
    stream = logging.StreamHandler(out)
    stream.setFormatter(JsonFormatter())
    rows = [row_of(record()) for _ in range(200)]
    batch = logging.makeLogRecord({"name": "x", "msg": "call", "lines": [log_fields(row) for row in rows]})
    stream.handle(batch)
    reported = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["request_id"] for line in reported] == [str(row[0]) for row in rows]
    assert {line["event"] for line in reported} == {"call"}
