"""A receiver of webhooks: keeps every request, and answers as the test sets."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from threaded_server import serving

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Received:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Json:
        """The body as JSON."""
        found: Json = json.loads(self.body)
        return found


@dataclass
class WebhookReceiver:
    """What came, and what is answered.

    Attributes:
        answers: Statuses of the next requests, or seconds of silence before a 204; then 204 for ever.
    """

    port: int = 0
    received: list[Received] = field(default_factory=list[Received])
    answers: list[int | float] = field(default_factory=list[int | float])

    def url(self, path: str = "/hook") -> str:
        """The receiver's address."""
        return f"http://127.0.0.1:{self.port}{path}"

    def of(self, kind: str) -> list[Json]:
        """Returns the bodies of a kind, in the order received."""
        documents = [one.document for one in self.received]
        return [one for one in documents if one.get("type") == kind]


class Hooks(BaseHTTPRequestHandler):
    """Handles one request."""

    def do_POST(self) -> None:
        """Keeps the request and answers."""
        receiver = cast("Any", self.server).receiver
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer: int | float = receiver.answers.pop(0) if receiver.answers else 204
        receiver.received.append(Received(self.path, headers, body))
        if isinstance(answer, float):
            time.sleep(answer)
            answer = 204
        self.send_response(answer)
        if 300 <= answer < 400:
            self.send_header("location", receiver.url("/elsewhere"))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 -- http.server's signature
        """Logs nothing."""


class Server(ThreadingHTTPServer):
    """The receiver's server."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores senders that disconnect."""


@contextmanager
def run_receiver() -> Generator[WebhookReceiver]:
    """Yields a listening receiver."""
    server = Server(("127.0.0.1", 0), Hooks)
    receiver = WebhookReceiver(server.server_address[1])
    cast("Any", server).receiver = receiver
    with serving(server):
        yield receiver
