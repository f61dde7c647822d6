"""A scan service on loopback, as owners run one: Presidio's routes, and those of the generic guardrail.

It finds e-mail addresses (masked) and the word `weapon` (blocked), and keeps each text that it was sent.
"""

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from threaded_server import serving

Json = dict[str, Any]
EMAIL = re.compile(r"[\w.]+@[\w.]+\w")
MASK = "<EMAIL_ADDRESS>"
BLOCKED_REASON = "Talk of a weapon is not allowed here"


@dataclass
class Scanner:
    """What was scanned, and how the service answers.

    Attributes:
        texts: Each text that was sent, with the kind of its scan: `analyze`, `request` or `response`.
        status: What each route answers with.
    """

    url: str = ""
    status: int = 200
    texts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def seen(self, mark: str) -> list[tuple[str, str]]:
        """The scans of a text that holds the mark."""
        return [one for one in self.texts if mark in one[1]]


class ScanRoutes(BaseHTTPRequestHandler):
    """Handles one scan."""

    def do_POST(self) -> None:
        """Scans what was sent."""
        service: Scanner = cast("Any", self.server).service
        sent: Json = json.loads(self.rfile.read(int(self.headers["content-length"])))
        found: object
        if self.path.endswith("/analyze"):
            service.texts.append(("analyze", sent["text"]))
            found = [
                {"entity_type": "EMAIL_ADDRESS", "start": one.start(), "end": one.end(), "score": 1.0}
                for one in EMAIL.finditer(sent["text"])
            ]
        elif self.path.endswith("/anonymize"):
            found = _anonymized(sent)
        else:
            texts: list[str] = sent["texts"] or []
            service.texts += [(str(sent["input_type"]), one) for one in texts]
            found = _verdict(texts)
        raw = json.dumps(found).encode()
        self.send_response(service.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 -- the base class names it so
        """Says nothing."""


def _anonymized(sent: Json) -> Json:
    """As Presidio answers: each item's place in the text that it returns, the last first."""
    text: str = sent["text"]
    items: list[Json] = []
    for one in sorted(sent["analyzer_results"], key=lambda result: -result["start"]):
        text = text[: one["start"]] + MASK + text[one["end"] :]
        moved = len(MASK) - (one["end"] - one["start"])
        for later in items:
            later |= {"start": later["start"] + moved, "end": later["end"] + moved}
        place = {"start": one["start"], "end": one["start"] + len(MASK)}
        items.append(place | {"text": MASK, "entity_type": one["entity_type"], "operator": "replace"})
    return {"text": text, "items": items}


def _verdict(texts: list[str]) -> Json:
    if any("weapon" in one for one in texts):
        return {"action": "BLOCKED", "blocked_reason": BLOCKED_REASON}
    if any(EMAIL.search(one) for one in texts):
        return {"action": "GUARDRAIL_INTERVENED", "texts": [EMAIL.sub(MASK, one) for one in texts]}
    return {"action": "NONE"}


@contextmanager
def run_scan_service() -> Generator[Scanner]:
    """A scan service, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), ScanRoutes)
    with serving(server) as url:
        cast("Any", server).service = service = Scanner(url)
        yield service
