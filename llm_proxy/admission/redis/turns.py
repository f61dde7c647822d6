"""The last turns of each run in Redis, shared by all replicas; see `admission/turns.py`."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from llm_proxy.admission.limiter import SHARED_TAG, LimiterUnavailable
from llm_proxy.admission.loop_guard import MAX_TURNS_KEPT, RECORD_BYTES
from llm_proxy.admission.redis.backend import RedisBackend
from llm_proxy.admission.redis.connection import Argument
from llm_proxy.admission.turns import IDLE_TTL_MS, OnLateTurn, RunName, RunTurns

_QUARANTINED = f"lp:{SHARED_TAG}:quarantined"
"""A hash of the runs in quarantine: by digest when it ends, and the evidence."""
_ELSEWHERE = ("NOSCRIPT", "MOVED", "ASK", "TRYAGAIN")
"""Replies of a node that has not the script, or not the key."""
_MOST_BYTES = MAX_TURNS_KEPT * RECORD_BYTES


class RedisTurns:
    """The turns of the runs of all replicas; a `TurnStore`."""

    def __init__(self, backend: RedisBackend) -> None:
        self._backend = backend

    def add(self, key: str, turn: bytes, on_late: OnLateTurn | None = None) -> Awaitable[RunTurns]:
        """Adds a turn that runs now, sent with what else is sent now; returns the turns before it."""
        args: list[Argument] = [1, key, turn, IDLE_TTL_MS, _MOST_BYTES]
        late = partial(_tell_late, on_late)
        try:
            sent = self._backend.send_script("turn", args, late)
        except LimiterUnavailable:
            sent = None
        return self._added(sent, args, late)

    async def _added(
        self, sent: "asyncio.Future[Any] | None", args: list[Argument], late: Callable[[list[Any]], None]
    ) -> RunTurns:
        if sent is None:
            raise LimiterUnavailable
        try:
            return RunTurns(*await sent)
        except asyncio.CancelledError:
            if sent.done() and not sent.cancelled() and not sent.exception():
                late(sent.result())  # it came in the same cycle of the event loop
            raise
        except LimiterUnavailable as unavailable:
            if not str(unavailable).startswith(_ELSEWHERE):
                raise
        return RunTurns(*await self._backend.run_script("turn", args, late))

    async def quarantine(self, run: RunName, evidence: bytes, duration_ms: int) -> int:
        """Puts a run into quarantine, if it is in none, and forgets its turns; returns when that ends."""
        args: list[Argument] = [1, run.key, duration_ms, evidence, IDLE_TTL_MS]
        until_ms: int = await self._backend.run_script("quarantine", args)
        entry = b"%d:%s" % (until_ms, evidence)
        await self._backend.cluster.execute(_QUARANTINED, "HSET", _QUARANTINED, run.digest, entry)
        return until_ms

    async def release(self, run: RunName) -> bool:
        """Ends a run's quarantine; returns False if it was in none."""
        until_ms: int = await self._backend.run_script("quarantine", [1, run.key, 0, b"", IDLE_TTL_MS])
        await self._backend.cluster.execute(_QUARANTINED, "HDEL", _QUARANTINED, run.digest)
        return until_ms > 0

    async def quarantined(self) -> list[tuple[bytes, int]]:
        """Returns the evidence of every run in quarantine, and when that ends; forgets those that ended."""
        execute = self._backend.cluster.execute
        seconds, micros = await execute(_QUARANTINED, "TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        flat: list[bytes] = await execute(_QUARANTINED, "HGETALL", _QUARANTINED)
        found: list[tuple[bytes, int]] = []
        for digest, entry in zip(flat[::2], flat[1::2], strict=True):
            until_ms, _, evidence = entry.partition(b":")
            if int(until_ms) > now_ms:
                found.append((evidence, int(until_ms)))
            else:
                await execute(_QUARANTINED, "HDEL", _QUARANTINED, digest)
        return found


def _tell_late(on_late: OnLateTurn | None, reply: list[Any]) -> None:
    number = RunTurns(*reply).number
    if on_late is not None and number:
        on_late(number)
