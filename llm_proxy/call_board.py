"""The running calls of a whole deployment, listed and stopped from any of its processes.

Invariants: a call is stopped by the process that runs it, through its guard, so that it is settled and
recorded once; while the limits store is unavailable, or without one, this process's calls alone are known,
and the list says so.
"""

import asyncio
import logging
import os
import secrets
import socket
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import orjson

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.call_exchange import REPORT_INTERVAL_S, CallExchange
from llm_proxy.background import BackgroundLoop
from llm_proxy.json_access import Json
from llm_proxy.running_calls import RunningCalls

log = logging.getLogger(__name__)

MAX_PUBLISHED = 1000
"""Calls that a process publishes, those that have run longest."""
ANSWER_WAIT_S = 4 * REPORT_INTERVAL_S
POLL_S = 0.05
StoreState = Literal["up", "away", "none"]


@dataclass(frozen=True, slots=True)
class CallList:
    """The running calls, the oldest first.

    Attributes:
        workers: The processes that run calls, as far as the store knows them.
        silent: Those of them that did not answer in time.
        unlisted: Calls beyond `MAX_PUBLISHED` of one process.
        store: The limits store: `none` is configured, or it is `away`; then only this process answers.
    """

    calls: list[Json]
    workers: int
    silent: int
    unlisted: int
    store: StoreState

    @property
    def is_complete(self) -> bool:
        """Whether every running call is in the list, as far as the processes are known."""
        return self.store == "up" and not self.silent and not self.unlisted


class CallBoard:
    """Lists and stops the running calls of all processes that share the limits store."""

    def __init__(self, running: RunningCalls, exchange: CallExchange | None) -> None:
        self._running = running
        self._exchange = exchange
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._loop = BackgroundLoop("running-calls", self._report, every_s=REPORT_INTERVAL_S, at_once=True)

    async def start(self) -> None:
        """Starts reporting this process and its calls."""
        if self._exchange is not None:
            self._loop.start()

    async def stop(self) -> None:
        """Stops reporting, and removes this process from the deployment's list."""
        if self._exchange is None:
            return
        await self._loop.stop()
        try:
            await self._exchange.leave(self.worker)
        except LimiterUnavailable:
            log.debug("the store forgets this process by itself")

    async def list_calls(self, tenant: str | None = None) -> CallList:
        """Returns the running calls of one tenant, or of all (None); never raises."""
        own = self._own_calls(tenant)
        if self._exchange is None:
            return CallList(own, 1, 0, self._unlisted(), "none")
        try:
            await self._exchange.watch()
            found = await self._published(self._exchange)
        except LimiterUnavailable:
            return CallList(own, 1, 0, self._unlisted(), "away")
        others = {name: orjson.loads(text) if text else None for name, text in found.items()}
        others.pop(self.worker, None)
        answered = [one for one in others.values() if one is not None]
        calls = own + [
            call for one in answered for call in one["calls"] if tenant is None or call["tenant"] == tenant
        ]
        unlisted = self._unlisted() + sum(one["unlisted"] for one in answered)
        calls.sort(key=lambda call: -call["age_s"])
        return CallList(calls, len(others) + 1, len(others) - len(answered), unlisted, "up")

    async def stop_call(self, request_id: UUID, tenant: str | None = None) -> Json | None:
        """Stops a call wherever it runs; returns it as it ran, None where no process says that it had it.

        Args:
            request_id: The call.
            tenant: Only a call of this tenant; None for any.
        """
        found = self._stop_here(request_id, tenant)
        if found is not None or self._exchange is None:
            return found
        name, text = str(request_id), None
        try:
            await self._exchange.ask_to_stop(name, orjson.dumps({"tenant": tenant}))
            async with asyncio.timeout(ANSWER_WAIT_S):
                while (text := await self._exchange.find_stopped(name)) is None:  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(POLL_S)
        except (LimiterUnavailable, TimeoutError):
            return None
        stopped: Json = orjson.loads(text)
        return stopped

    async def _published(self, exchange: CallExchange) -> dict[str, bytes | None]:
        """Returns what the processes have published, once all have or `ANSWER_WAIT_S` are over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ANSWER_WAIT_S
        while True:
            found = await exchange.published()
            silent = [name for name, text in found.items() if text is None and name != self.worker]
            if not silent or loop.time() >= until:
                return found
            await asyncio.sleep(POLL_S)

    async def _report(self) -> None:
        """Reports this process as alive, stops the requested calls, publishes its calls if watched."""
        exchange = self._exchange
        assert exchange is not None  # noqa: S101 -- else the loop was not started
        try:
            orders = await exchange.report(self.worker)
            for name, scope in orders.stops.items():
                stopped = self._stop_here(UUID(name), orjson.loads(scope)["tenant"])
                if stopped is not None:
                    await exchange.report_stopped(name, orjson.dumps(stopped))
            if orders.watched:
                document = {"calls": self._own_calls(None), "unlisted": self._unlisted()}
                await exchange.publish(self.worker, orjson.dumps(document))
        except LimiterUnavailable:
            log.debug("running calls are not published: the limits store is away")

    def _stop_here(self, request_id: UUID, tenant: str | None) -> Json | None:
        stopped = self._running.stop_call(request_id, tenant)
        if stopped is None:
            return None
        log.warning("an operator stopped a call", extra={"request_id": str(request_id)})
        return stopped | {"worker": self.worker}

    def _own_calls(self, tenant: str | None) -> list[Json]:
        return [one | {"worker": self.worker} for one in self._running.oldest(MAX_PUBLISHED, tenant)]

    def _unlisted(self) -> int:
        return max(0, len(self._running) - MAX_PUBLISHED)
