"""The calls that run in this process: lists them, stops one, ticks their guards ten times a second.

Invariants: without a running call nothing ticks; a call costs one entry from its first byte to its last; a
list is made on request, from the fields that a call has anyway; it holds no text of a prompt or an answer.
Units: seconds, bytes, tokens; tokens are estimates until the record has them.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Literal
from uuid import UUID

from llm_proxy.background import BackgroundLoop
from llm_proxy.call_context import CallContext
from llm_proxy.call_guard import CallGuard, InterruptReason
from llm_proxy.dialects import BYTES_PER_TOKEN
from llm_proxy.json_access import Json

TICK_S = 0.1
CallState = Literal["reading", "admitting", "queued", "waiting", "streaming", "ending"]
"""Reading the body; checking limits; waiting for a slot; for the first byte; sending; interrupted."""


class RunningCalls:
    """All running calls of this process.

    Attributes:
        draining: The process is to end: it reports not ready, and serves calls that still come.
    """

    def __init__(self) -> None:
        self.draining = False
        self._ended_by: InterruptReason | None = None
        self._running: dict[CallGuard, CallContext] = {}
        self._some_run = asyncio.Event()
        self._ticker = BackgroundLoop("call-timeouts", self._tick, every_s=TICK_S)

    def start(self) -> None:
        """Starts the ticker on the running event loop."""
        self._ticker.start()

    def stop(self) -> None:
        """Stops the ticker."""
        self._ticker.cancel()

    def open(self, context: CallContext, idle_deadline: float) -> CallGuard:
        """Guards the current task until `close`; its body must be complete by `idle_deadline`."""
        guard = CallGuard(idle_deadline)
        self._running[guard] = context
        self._some_run.set()
        if self._ended_by is not None:
            guard.interrupt(self._ended_by)
        return guard

    def close(self, guard: CallGuard) -> None:
        """Removes a call that has ended."""
        self._running.pop(guard, None)
        guard.close()

    def interrupt_all(self, reason: InterruptReason) -> int:
        """Ends every running call, and each that begins later; returns how many are running."""
        self._ended_by = reason
        for guard in list(self._running):
            guard.interrupt(reason)
        return len(self._running)

    def stop_call(self, request_id: UUID, tenant: str | None = None) -> Json | None:
        """Ends one call for an operator; returns it as it ran, None where it does not run here.

        Args:
            request_id: The call.
            tenant: Only a call of this tenant; None for any.
        """
        for guard, context in self._running.items():
            if context.request_id == request_id and guard.reason is None and _is_of(context, tenant):
                found = describe_call(context, guard)
                guard.interrupt("stopped")
                return found
        return None

    def oldest(self, most: int, tenant: str | None = None) -> Iterator[Json]:
        """Yields the calls that have run longest, at most so many, of one tenant or of all (None)."""
        found = ((one, guard) for guard, one in self._running.items() if _is_of(one, tenant))
        return (describe_call(context, guard) for context, guard in islice(found, most))

    def __len__(self) -> int:
        return len(self._running)

    async def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        for guard in list(self._running):
            guard.tick(now)
        if not self._running:
            self._some_run.clear()
            await self._some_run.wait()


def describe_call(context: CallContext, guard: CallGuard) -> Json:
    """Returns a running call as JSON: who, what, where, since when, and what it has sent so far."""
    caller, call, frames = context.caller, context.call, context.frames
    return {
        "request_id": str(context.request_id),
        "client_request_id": context.client_request_id,
        "state": _state(context, guard),
        "started_at": datetime.fromtimestamp(context.started_at, UTC).isoformat(timespec="milliseconds"),
        "age_s": round(context.elapsed_ms() / 1000, 1),
        "endpoint": call.endpoint if call else None,
        "model": call.model if call else None,
        "model_group": call.group if call else None,
        "streamed": call.streaming if call else None,
        "key_id": caller.key_id if caller else None,
        "key_prefix": caller.key_prefix if caller else None,
        "key_ancestors": [one.key_id for one in caller.above] if caller else [],
        "tenant": caller.tenant if caller else None,
        "agent": caller.agent if caller else None,
        "user": caller.user if caller else None,
        "session": caller.session if caller else None,
        "run": caller.run if caller else None,
        "sent_bytes": context.sent_bytes,
        "estimated_prompt_tokens": call.prompt_bytes // BYTES_PER_TOKEN if call else None,
        "estimated_completion_tokens": frames.content_tokens() if frames is not None else None,
        "provider": context.routing.provider,
        "deployment": context.routing.deployment,
        "sidecar": guard.sidecar or None,
    }


def _is_of(context: CallContext, tenant: str | None) -> bool:
    return tenant is None or (context.caller is not None and context.caller.tenant == tenant)


def _state(context: CallContext, guard: CallGuard) -> CallState:
    if guard.reason is not None:
        return "ending"
    if context.ttft_ms is not None:
        return "streaming"
    if context.call is None:
        return "reading"
    if not context.sent_at:
        return "admitting"
    return "queued" if guard.unsent else "waiting"
