"""`llm-proxy serve`: the gateway alone, in one process or in several that share a socket.

Invariants: SIGTERM turns readiness off, accepts for the drain delay, closes the listener, lets running calls
finish within the drain timeout, then ends them with an error event. A worker that ends is replaced, after a
growing pause while workers end within `EARLY_EXIT_S`; a signal to the parent goes to every worker; on Linux
no worker outlives a killed parent.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click
import uvicorn
from pydantic import ValidationError

from llm_proxy.app import Gateway, create_app
from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.cli.printing import EXIT_WRONG_INPUT, exit_with_lines, fail, warn
from llm_proxy.edge.http_protocol import (
    BoundedHttpProtocol,
    close_slow_connections,
    set_socket_timeouts,
)
from llm_proxy.edge.routes.notifications import webhook_errors
from llm_proxy.hardening import harden_process
from llm_proxy.settings import Settings, insecure_settings, load, setting_errors
from llm_proxy.stack.process import die_with_parent
from llm_proxy.telemetry import WorkerMetricsFiles
from llm_proxy.telemetry.metrics import metrics_directory

KEEP_ALIVE_S = 75
HEADER_TIMEOUT_S = 10
SLOW_CHECK_EVERY_S = 1
BACKLOG = 2048
GC_THRESHOLD = 20_000
"""Allocated objects before a collection: reference cycles are rare here."""
EARLY_EXIT_S = 5.0
MIN_RESTART_PAUSE_S = 0.1
MAX_RESTART_PAUSE_S = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class GatewayServer(uvicorn.Server):
    """A server that drains before it stops."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, settings: Settings) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._delay_s = settings.drain_delay_s
        self._limit_s = settings.drain_timeout_s
        self._drain: asyncio.Task[None] | None = None

    async def close_slow_connections(self) -> None:
        """Closes connections whose request head is over its timeout."""
        now = asyncio.get_running_loop().time()
        connections = self.server_state.connections
        close_slow_connections(connections, now, timeout_s=HEADER_TIMEOUT_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- uvicorn's signature
        """SIGTERM drains; a second signal, or SIGINT, interrupts every call and stops."""
        if self._drain is not None or sig == signal.SIGINT:
            self.should_exit = True
            self._gateway.interrupt_all()
            return
        self._gateway.drain()
        self._drain = spawn("drain", self._stop_later())

    async def _stop_later(self) -> None:
        await asyncio.sleep(self._delay_s)
        self.should_exit = True
        await asyncio.sleep(self._limit_s)
        self._gateway.interrupt_all()


@click.command(context_settings={"show_default": True})
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--workers", type=int, help="Processes sharing the port.")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Run the gateway alone."""
    harden_process()
    settings = start_settings(host=host, port=port, workers=workers)
    if settings.workers > 1 and settings.llm_mode == "mock":
        warn("mock mode counts in the memory of one process: one worker runs")
    elif settings.workers > 1:
        sys.exit(run_workers(settings))
    sys.exit(run_worker(settings, bind_socket(settings)))


def start_settings(**flags: str | int | None) -> Settings:
    """Returns the settings a gateway starts with; ends the process with a line for each that prevents it."""
    try:
        settings = load(**flags)
    except ValidationError as error:
        exit_with_lines(setting_errors(error), EXIT_WRONG_INPUT)
    if faults := insecure_settings(settings) + webhook_errors(settings):
        exit_with_lines([f"refused to start: {fault}" for fault in faults], EXIT_WRONG_INPUT)
    return settings


def bind_socket(settings: Settings) -> socket.socket:
    """Returns a socket bound to the gateway's address; ends the command if that is impossible."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    bound.set_inheritable(True)
    set_socket_timeouts(bound, settings.unread_timeout_s)
    return bound


def run_worker(settings: Settings, bound: socket.socket, files: WorkerMetricsFiles | None = None) -> int:
    """Runs one gateway process on a bound socket until a signal stops it; returns its exit code."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_run_gateway(settings, bound, files))


async def _run_gateway(settings: Settings, bound: socket.socket, files: WorkerMetricsFiles | None) -> int:
    gateway = create_app(settings, files)
    gc.freeze()  # scanning what lives as long as the process costs 4 % of a call
    gc.set_threshold(GC_THRESHOLD)
    config = uvicorn.Config(
        gateway.asgi,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=settings.max_connections + 1,
        proxy_headers=False,
    )
    server = GatewayServer(config, gateway, settings)
    # Not a task of the app: connections are closed while the server stops, too.
    slow = BackgroundLoop("slow-connections", server.close_slow_connections, every_s=SLOW_CHECK_EVERY_S)
    slow.start()
    await server.serve(sockets=[bound])
    await slow.stop()
    return 0 if server.started else 3


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Returns an event loop for a gateway: uvloop where it exists."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415 -- does not exist on Windows

    loop = uvloop.new_event_loop()
    loop.set_exception_handler(_report_loop_error)
    return loop


def _report_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Drops failed name look-ups that no task awaits any more: the connection's end was reported already."""
    if isinstance(context.get("exception"), socket.gaierror) and "never retrieved" in context["message"]:
        return
    loop.default_exception_handler(context)


def run_workers(settings: Settings) -> int:
    """Runs the configured number of workers until a signal stops them; returns the exit code."""
    bound = bind_socket(settings)
    bound.listen(BACKLOG)
    with metrics_directory() as directory:
        return Workers(settings, bound, directory).run()


class Workers:
    """The worker processes of one gateway."""

    def __init__(self, settings: Settings, bound: socket.socket, directory: Path) -> None:
        """`directory` holds the workers' metrics."""
        self._directory = directory
        self._settings = settings
        self._bound = bound
        self._started: dict[int, tuple[WorkerMetricsFiles, float]] = {}
        self._stopping = False
        self._pause_s = MIN_RESTART_PAUSE_S

    def run(self) -> int:
        """Keeps the number of workers until a signal; returns when the last worker has ended."""
        for one in _SIGNALS:
            signal.signal(one, self._forward_signal)
        for number in range(self._settings.workers):
            self._fork(WorkerMetricsFiles(self._directory, number))
        while self._started:
            pid, status = os.wait()
            files, started = self._started.pop(pid)
            files.drop_gauges()
            if not self._stopping:
                warn(f"worker {pid} ended ({os.waitstatus_to_exitcode(status)}); starting another")
                self._replace(files, time.monotonic() - started)
        return 0

    def _replace(self, files: WorkerMetricsFiles, age_s: float) -> None:
        self._pause_s = (
            min(self._pause_s * 2, MAX_RESTART_PAUSE_S) if age_s < EARLY_EXIT_S else MIN_RESTART_PAUSE_S
        )
        time.sleep(self._pause_s)
        while not self._stopping:
            try:
                return self._fork(files)
            except OSError as error:
                warn(f"no worker can be started ({error.strerror}); trying again")
                self._pause_s = min(self._pause_s * 2, MAX_RESTART_PAUSE_S)
                time.sleep(self._pause_s)
        return None

    def _fork(self, files: WorkerMetricsFiles) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            for one in _SIGNALS:
                signal.signal(one, signal.SIG_DFL)
            die_with_parent(parent, signal.SIGTERM)
            os._exit(run_worker(self._settings, self._bound, files))
        self._started[pid] = files, time.monotonic()

    def _forward_signal(self, signum: int, _: FrameType | None) -> None:
        self._stopping = True
        for pid in list(self._started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
