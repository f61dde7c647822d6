"""`llm-proxy serve`: the gateway alone, in one process or in several that share a socket.

Invariants: SIGTERM turns readiness off, accepts for the drain delay, closes the listener, lets running calls
finish within the drain timeout, then ends them with an error event. SIGUSR1 means that another process
accepts on the same socket: connections here end with their calls. A gateway that cannot start prints the
reason on its last line and ends with `EXIT_UNAVAILABLE`; `workers.py` runs several processes, or one apart.
"""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import click
import uvicorn
from pydantic import ValidationError

from llm_proxy.app import Gateway, create_app
from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.cli.printing import EXIT_UNAVAILABLE, EXIT_WRONG_INPUT, exit_with_lines, fail, warn
from llm_proxy.cli.workers import OnLoop, Workers, WorkersEnd
from llm_proxy.edge.http_protocol import (
    BoundedHttpProtocol,
    close_slow_connections,
    set_socket_timeouts,
)
from llm_proxy.edge.routes.notifications import webhook_errors
from llm_proxy.garbage import collect_garbage
from llm_proxy.hardening import harden_process, raise_files_limit
from llm_proxy.http_server import PromptServer
from llm_proxy.huge_pages import use_huge_pages
from llm_proxy.insecure_settings import insecure_settings
from llm_proxy.settings import (
    Settings,
    load,
    set_variables,
    setting_errors,
    unknown_settings,
)
from llm_proxy.stack.probe import bind
from llm_proxy.stack.state_dir import STATE_VARIABLE, Launcher
from llm_proxy.telemetry import WorkerMetricsFiles
from llm_proxy.telemetry.metrics import metrics_directory

KEEP_ALIVE_S = 75
HEADER_TIMEOUT_S = 10
SLOW_CHECK_EVERY_S = 1
BACKLOG = 2048
HANDOVER_S = 5.0
"""How long idle connections wait for a last request, whose response has `connection: close`."""
GC_THRESHOLD = 20_000
"""Allocated objects before a collection: reference cycles are rare here."""


class GatewayServer(PromptServer):
    """A server that drains before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        gateway: Gateway,
        settings: Settings,
        on_serving: Callable[[], object],
    ) -> None:
        super().__init__(config, tick_s=None)
        self._on_serving = on_serving
        self._gateway = gateway
        self._delay_s = settings.drain_delay_s
        self._limit_s = settings.drain_timeout_s
        self._longest_call_s = settings.total_timeout_s
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the gateway and listens; then calls back, and arranges the memory that stays."""
        await super().startup(sockets)
        self._on_serving()
        use_huge_pages()  # a call after a pause takes a twentieth less CPU

    async def close_slow_connections(self) -> None:
        """Closes connections whose request head is over its timeout, and idle ones."""
        now = asyncio.get_running_loop().time()
        connections = self.server_state.connections
        close_slow_connections(connections, now, timeout_s=HEADER_TIMEOUT_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- uvicorn's signature
        """SIGTERM drains; a second signal, or SIGINT, interrupts every call and stops."""
        if self._drain is not None or sig == signal.SIGINT:
            self.end()
            self._gateway.interrupt_all()
            return
        self._gateway.drain()
        self._drain = spawn("drain", self._stop_later(self._delay_s, self._limit_s))

    def hand_over(self) -> None:
        """Accepts no connection any more, and ends when the calls of those it has are over."""
        if self._drain is not None:
            return
        for server in self.servers:
            server.close()
        for connection in self.server_state.connections:
            cast("BoundedHttpProtocol", connection).end_with_next_response()
        self._drain = spawn("drain", self._stop_later(HANDOVER_S, self._longest_call_s))

    async def _stop_later(self, delay_s: float, limit_s: float) -> None:
        await asyncio.sleep(delay_s)
        self.end()
        await asyncio.sleep(limit_s)
        self._gateway.interrupt_all()


@click.command(context_settings={"show_default": True})
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--workers", type=int, help="Processes sharing the port.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    envvar=STATE_VARIABLE,
    show_default=False,
    help="The folder of the `llm-proxy up` that runs this gateway; admins may request a reload there.",
)
@click.option("--prefork", is_flag=True, help="Restart the gateway if it ends or hangs, by a parent process.")
@click.option("--listener", type=int, hidden=True, help="The socket of the launcher, which it hands on.")
def serve(
    *,
    host: str | None,
    port: int | None,
    workers: int | None,
    state: Path | None,
    prefork: bool,
    listener: int | None,
) -> None:
    """Run the gateway alone."""
    harden_process()
    raise_files_limit()
    launcher = Launcher(state) if state is not None else None
    settings = start_settings(host=host, port=port, workers=workers)
    count = settings.workers
    if count > 1 and settings.llm_mode == "mock":
        warn("mock mode counts in the memory of one process: one worker runs")
        count = 1
    bound = bind_socket(settings, listener)
    serves = launcher.note_gateway if launcher is not None else lambda: None
    if count > 1 or prefork:
        end = run_workers(settings, bound, count, serves, launcher)
        if end.reason is not None:
            fail(end.reason, end.exit_code)
        return
    reason = run_worker(settings, bound, on_serving=serves, launcher=launcher)
    if reason is not None:
        fail(f"the gateway cannot start: {reason}", EXIT_UNAVAILABLE)


def start_settings(**flags: str | int | None) -> Settings:
    """Returns the settings a gateway starts with; ends the process with a line for each that prevents it."""
    try:
        settings = load(**flags)
    except ValidationError as error:
        exit_with_lines(setting_errors(error), EXIT_WRONG_INPUT)
    if faults := insecure_settings(settings) + webhook_errors(settings):
        exit_with_lines([f"refused to start: {fault}" for fault in faults], EXIT_WRONG_INPUT)
    for line in unknown_settings(set_variables()):
        warn(line)
    return settings


def bind_or_fail(host: str, port: int) -> socket.socket:
    """Returns a socket bound to an address; ends the command if that is impossible."""
    try:
        return bind(host, port)
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror}")


def bind_socket(settings: Settings, listener: int | None = None) -> socket.socket:
    """Returns a socket bound to the gateway's address, or the inherited one; else ends the command."""
    bound = bind_or_fail(settings.host, settings.port) if listener is None else socket.socket(fileno=listener)
    bound.set_inheritable(True)
    set_socket_timeouts(bound, settings.unread_timeout_s)
    return bound


def run_worker(
    settings: Settings,
    bound: socket.socket,
    files: WorkerMetricsFiles | None = None,
    on_serving: Callable[[], object] = lambda: None,
    on_loop: OnLoop = lambda _: None,
    launcher: Launcher | None = None,
) -> str | None:
    """Runs one gateway process on a bound socket until a signal stops it; returns why it could not start.

    Args:
        settings: Of the gateway.
        bound: The socket.
        files: This worker's of several, for their metrics.
        on_serving: Called once it accepts calls.
        on_loop: Called with its event loop first of all.
        launcher: Of the stack it belongs to.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        on_loop(runner.get_loop())
        gateway = partial(create_app, settings, files, launcher)
        return runner.run(_run_gateway(gateway, settings, bound, on_serving))


async def _run_gateway(
    create: Callable[[], Gateway],
    settings: Settings,
    bound: socket.socket,
    on_serving: Callable[[], object],
) -> str | None:
    gateway = create()
    gc.freeze()  # scanning what lives as long as the process costs 4 % of a call
    gc.set_threshold(GC_THRESHOLD)
    collect_garbage()
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
    server = GatewayServer(config, gateway, settings, on_serving)
    # Not a task of the app: connections are closed while the server stops, too.
    slow = BackgroundLoop("slow-connections", server.close_slow_connections, every_s=SLOW_CHECK_EVERY_S)
    slow.start()
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, server.hand_over)
    try:
        await server.serve(sockets=[bound])
    except SystemExit:  # how uvicorn reports that the application did not start
        return gateway.start_fault or "the reason is in the log"
    finally:
        await slow.stop()
    return None


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


def run_workers(
    settings: Settings,
    bound: socket.socket,
    count: int,
    on_serving: Callable[[], object],
    launcher: Launcher | None,
) -> WorkersEnd:
    """Runs so many workers until a signal stops them, or none can start."""
    bound.listen(BACKLOG)
    run = partial(run_worker, launcher=launcher)
    if count == 1:
        return Workers(settings, bound, [None], run).run(on_serving)
    with metrics_directory() as directory:
        files = [WorkerMetricsFiles(directory, number) for number in range(count)]
        return Workers(settings, bound, files, run).run(on_serving)
