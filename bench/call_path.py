"""The files and packages that one plain chat call runs through, counted.

    python -m bench.call_path          prints the files in order, how many they are, the visits and returns

A gateway without stores (one limit of requests, counted in memory; records in the journal) serves a real
connection; a scripted sidecar in a thread answers it. `sys.setprofile` sees every Python function that the
gateway's thread enters. A file counts when one of its functions is entered between the client's first byte
and `SETTLED_S` after the answer's last byte. Loops beside the calls share the thread, so the smallest of
`CALLS` calls is taken.
A reader opens each file when the call first gets there. A return is a file, in that order, of a package the
list had left before: edge, identity, dialects, admission, upstream or ledger. Files that all packages may
use (errors, money, telemetry, ...) count as files and never as returns. A call up is a function of the edge
or the pipeline entered by what it is built on.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

import llm_proxy
from llm_proxy.cli.serve import bind_socket, run_worker
from llm_proxy.settings import load

ROOT = f"{Path(llm_proxy.__file__).parent}{os.sep}"
LEADERS = frozenset({"edge", "pipeline"})
STAGES = frozenset({"identity", "dialects", "admission", "upstream", "ledger"})
PACKAGES = STAGES | {"edge"}
Entry = tuple[str, str]
"""The file of a function that was entered, and the file of ours that called it (empty for none)."""
CALLS = 30
SETTLED_S = 0.02
FIRST = 8
"""A coroutine that goes on after an await is at a later instruction."""
KEY = "sk-call-path-0123456789"
CATALOG = {"groups": [{"name": "m", "deployments": [{"id": "d", "provider": "openai", "physical": "m"}]}]}
CHOICE = {
    "index": 0,
    "finish_reason": "stop",
    "logprobs": None,
    "message": {"role": "assistant", "content": "Paris.", "refusal": None},
}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
ANSWER = {"id": "a", "object": "chat.completion", "model": "m", "choices": [CHOICE], "usage": USAGE}
BODY = {"model": "m", "messages": [{"role": "user", "content": "The capital of France?"}]}


class ScriptedSidecar(BaseHTTPRequestHandler):
    """Answers health checks, the catalog and every call."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Health and catalog."""
        self._send(CATALOG if self.path == "/llmp/catalog" else {})

    def do_POST(self) -> None:
        """A call."""
        self.rfile.read(int(self.headers["content-length"]))
        self._send(ANSWER)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name of the library
        """Logs nothing."""

    def _send(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def count() -> list[Entry]:
    """Returns every function of ours that the shortest of the calls entered, in order."""
    sidecar = ThreadingHTTPServer(("127.0.0.1", 0), ScriptedSidecar)
    threading.Thread(target=sidecar.serve_forever, daemon=True).start()
    entered: list[Entry] = []
    seen: list[list[Entry]] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT) and frame.f_lasti < FIRST:
            entered.append((_file(frame), _caller(frame)))

    with tempfile.TemporaryDirectory() as folder:
        settings = load(
            environment="development", internal_api_key=KEY, agent_rpm=10_000, spool_dir=Path(folder), port=0,
            litellm_proxy_url=f"http://127.0.0.1:{sidecar.server_port}", log_level="ERROR",
        )  # fmt: skip
        bound = bind_socket(settings)
        port: int = bound.getsockname()[1]
        client = threading.Thread(target=_call_repeatedly, args=(port, entered, seen.append))
        client.start()
        sys.setprofile(profile)
        try:
            run_worker(settings, bound)
        finally:
            sys.setprofile(None)
        client.join()
    sidecar.shutdown()
    return min(seen, key=lambda one: (len({file for file, _ in one}), len(one)))


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename.removeprefix(ROOT)


def _caller(frame: FrameType) -> str:
    """The nearest file of ours up the stack."""
    caller = frame.f_back
    while caller is not None and not caller.f_code.co_filename.startswith(ROOT):
        caller = caller.f_back
    return "" if caller is None else _file(caller)


def _call_repeatedly(port: int, entered: list[Entry], keep: Callable[[list[Entry]], None]) -> None:
    body = json.dumps(BODY).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {KEY}\r\n"
        f"x-agent-id: scout\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    try:
        with _connected(port) as connection:
            time.sleep(1)  # the gateway reads its sidecar's catalog
            for _ in range(CALLS):
                time.sleep(SETTLED_S)
                entered.clear()
                connection.sendall(head.encode() + body)
                answer = connection.recv(65_536)
                time.sleep(SETTLED_S)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(answer)
                keep(entered.copy())
    finally:
        os.kill(os.getpid(), signal.SIGINT)


def _connected(port: int) -> socket.socket:
    """Returns a connection, once the gateway listens."""
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise TimeoutError


def stage_of(file: str) -> str:
    """Returns the package of a file, or its name when it is in none."""
    return file.partition(os.sep)[0].removesuffix(".py")


def packages(files: list[str]) -> list[str]:
    """Returns the packages in the order of their files, one entry for files in a row."""
    found: list[str] = []
    for file in files:
        package = stage_of(file)
        if package in PACKAGES and found[-1:] != [package]:
            found.append(package)
    return found


def calls_up(entered: list[Entry]) -> list[Entry]:
    """Returns the calls of a stage into the edge or the pipeline, and of the pipeline into the edge."""
    pairs = ((entry, stage_of(entry[0]), stage_of(entry[1])) for entry in entered)
    return [
        entry
        for entry, stage, caller in pairs
        if (stage in LEADERS and caller in STAGES) or (stage, caller) == ("edge", "pipeline")
    ]


def main() -> None:
    """Print what was counted."""
    entered = count()
    files = list(dict.fromkeys(file for file, _ in entered))
    order, up = packages(files), calls_up(entered)
    print("\n".join(files))
    print(" > ".join(order))
    for file, caller in dict.fromkeys(up):
        print(f"{caller} calls up into {file}")
    print(f"{len(files)} files, {len(order) - len(set(order))} returns, {len(up)} calls up")


if __name__ == "__main__":
    main()
