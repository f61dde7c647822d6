"""The HTTP server of one sidecar process, and how the process ends.

Invariants: it drains on SIGTERM; one that a replacement relieves takes no new connection, closes each of its
own after one more response, and loses no call. Units: seconds, MiB.
"""

import asyncio
import os
import random
import signal
import socket
from collections.abc import Mapping
from types import FrameType

import uvicorn

from llm_proxy.http_server import PromptServer
from llm_proxy.sidecar.app import SidecarApp
from llm_proxy.sidecar.http_protocol import SidecarHttpProtocol
from llm_proxy.sidecar.prefork import ORPHAN_S, ParentLink
from llm_proxy.sidecar.process_log import log_line
from llm_proxy.sidecar.recycle_limits import read_recycle_limits, resident_mib

DRAIN_NOTICE_S = 3.0
"""Gateways check once a second and wait two seconds for the response: by then each has noticed."""
DRAIN_TIMEOUT_S = 30
RELIEVED_S = 22.0
"""Gateways keep an idle connection for 20 s: what is idle now is not used again after that."""
CALLS_S = 3600
"""A relieved process lives as long as its calls, which have time limits of their own."""
LIMIT_SPREAD = 0.1
"""Each process lowers its limits by up to this share, so that several are not replaced together."""
_CHECK_TICKS = 50
"""Of uvicorn's ticks, ten a second."""
KEEP_ALIVE_S = 75


class SidecarServer(PromptServer):
    """A server that reports it is draining before it stops listening.

    A process over its recycle limits requests a replacement from its parent. Without a parent it drains and
    ends, and the process that started it starts it again.
    """

    def __init__(self, app: SidecarApp, env: Mapping[str, str], link: ParentLink | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=SidecarHttpProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                server_header=False,
                date_header=False,  # the gateway reads none
                proxy_headers=False,  # nothing reads a caller's address: it is the gateway's
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(env.get("LLM_PROXY_SIDECAR_DRAIN_S") or DRAIN_TIMEOUT_S),
                backlog=2048,
            )
        )
        self._app, self._link = app, link
        self._drain_s = self.config.timeout_graceful_shutdown or DRAIN_TIMEOUT_S
        self._notice_s = float(env.get("LLM_PROXY_SIDECAR_LEAVE_S", DRAIN_NOTICE_S))
        self._limits = read_recycle_limits(env).lowered(random.random() * LIMIT_SPREAD)  # noqa: S311 -- a spread, not a secret
        self._initial_mib = resident_mib(os.getpid())
        self._is_over_limit = self._has_all_time = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen once the parent allows it, then report to the parent."""
        if self._link is not None and not self._link.may_listen():
            self.end()
            return
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._finish_calls)
        if self._link is not None:
            loop.add_reader(self._link, self._read_link, self._link)
            self._link.report_ready(loop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening; finish the running calls."""
        if self._link is not None:
            self._link.report_closing()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- uvicorn's signature
        """Drain on the first SIGTERM; stop at once on SIGINT or another SIGTERM."""
        if self._app.draining or sig == signal.SIGINT:
            self.end()
            return
        self._start_draining(self._notice_s)
        if self._has_all_time:
            after_s = self._notice_s + self._drain_s
            asyncio.get_running_loop().call_later(after_s, setattr, self, "force_exit", True)  # noqa: FBT003 -- setattr's

    async def on_tick(self, counter: int) -> bool:
        """Check the limits every five seconds; end a relieved process that has no connection left."""
        if self._app.relieved and not self.server_state.connections:
            self.end()
        if counter % _CHECK_TICKS == 0 and not (self._app.draining or self._app.relieved):
            self._check_limits()
        return await super().on_tick(counter)

    def _check_limits(self) -> None:
        used_mib = resident_mib(os.getpid())
        reason = self._limits.recycle_reason(used_mib, self._initial_mib, self._app.completed)
        if reason is None or self._is_over_limit:
            return
        self._is_over_limit = True
        if self._link is not None:
            log_line(f"{reason}: another process starts to replace this one")
            self._link.request_replacement()
            return
        log_line(f"ending, to be started again: {used_mib:.0f} MiB, {self._app.completed} calls answered")
        self._drain_with_time(DRAIN_TIMEOUT_S)
        self._start_draining(DRAIN_NOTICE_S)

    def _read_link(self, link: ParentLink) -> None:
        replaced = link.was_replaced()
        if replaced is False:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(link)
        if replaced:
            self._be_relieved(loop)
        else:
            log_line(f"the parent has died: leaving in {ORPHAN_S:g} s")
            loop.call_later(ORPHAN_S, self._leave_as_orphan)

    def _be_relieved(self, loop: asyncio.AbstractEventLoop) -> None:
        log_line("the replacement serves: finishing the running calls")
        self._app.relieved = True
        for server in self.servers:
            server.close()
        self._has_all_time = True
        self._drain_with_time(CALLS_S)
        loop.call_later(RELIEVED_S, self.end)

    def _finish_calls(self) -> None:
        """Stop listening, and end after the running calls: no gateway sends another one."""
        self._has_all_time = True
        self._drain_with_time(CALLS_S)
        self.end()

    def _leave_as_orphan(self) -> None:
        if not self._app.draining:
            self._drain_with_time(DRAIN_TIMEOUT_S)
            self._start_draining(DRAIN_NOTICE_S)

    def _drain_with_time(self, min_s: int) -> None:
        self.config.timeout_graceful_shutdown = max(self.config.timeout_graceful_shutdown or 0, min_s)

    def _start_draining(self, after_s: float) -> None:
        self._app.draining = True
        asyncio.get_running_loop().call_later(after_s, self.end)
