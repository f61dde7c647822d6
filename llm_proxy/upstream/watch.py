"""What may interrupt a call: the caller leaves, a deadline passes, its sidecar is given up, a drain ends.

One ticker looks over all running calls ten times a second; a call pays one set entry and no timer. Only a
call older than a tick gets a task that waits for its disconnect, so that quick answers never pay for one.
Invariants: a call is interrupted once, by cancelling its task; `why` says the reason, None means somebody
else cancelled. Units: seconds of the event loop's clock.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from llm_proxy.background import Loop, spawn
from llm_proxy.errors import Overloaded, Refused, RequestTimeout, UpstreamTimeout, UpstreamUnreachable

TICK_S = 0.1
FOREVER = float("inf")

Why = Literal["client_gone", "body", "first_byte", "idle", "total", "silent", "drain"]
Receive = Callable[[], Awaitable[Any]]


class Watch:
    """One running call, as the ticker sees it.

    Attributes:
        why: What interrupted it; None while nothing did.
        silent_at: When the current silence of the sidecar becomes a timeout.
        ends_at: When the whole call becomes a timeout.
        heard: How often something came from the sidecar.
        phase: Which timeout a silence is: `body` (the caller's), `first_byte` or `idle` (the sidecar's).
        unsent: The call waits for a sidecar; none has seen anything of it.
    """

    __slots__ = ("_listener", "_receive", "_task", "ends_at", "heard", "phase", "silent_at", "unsent", "why")

    def __init__(self, silent_at: float) -> None:
        self._task = asyncio.current_task()
        self._receive: Receive | None = None
        self._listener: asyncio.Task[None] | None = None
        self.heard = 0
        self.unsent = False
        self.why: Why | None = None
        self.phase: Why = "body"
        self.silent_at = silent_at
        self.ends_at = FOREVER

    def body_read(self, receive: Receive) -> None:
        """The body is whole: from now on `receive` only tells that the caller has left."""
        self.silent_at = FOREVER
        self._receive = receive

    def tick(self, now: float) -> None:
        """Interrupt the call if its time is up; start listening for the caller's leaving."""
        if self._listener is None and self._receive is not None:
            self._listener = spawn("callers-leaving", self._listen(self._receive))
        if now >= self.silent_at:
            self.interrupt(self.phase)
        elif now >= self.ends_at:
            self.interrupt("total")

    def interrupt(self, why: Why) -> None:
        """Cancel the call, once."""
        if self.why is None and self._task is not None:
            self.why = why
            self._task.cancel()

    def close(self) -> None:
        """Stop listening; the call has ended."""
        self._task = None
        if self._listener is not None:
            self._listener.cancel()

    def was_interrupted(self) -> bool:
        """Whether a `CancelledError` now in flight is ours; if so the task is usable again."""
        if self.why is None or self._task is None:
            return False
        self._task.uncancel()
        return True

    async def _listen(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.interrupt("client_gone")
                return


class Watches:
    """All running calls of this process."""

    def __init__(self) -> None:
        self._running: set[Watch] = set()
        self._ticker = Loop("call-timeouts", self._tick, every_s=TICK_S)

    def start(self) -> None:
        """Begin ticking on the running event loop."""
        self._ticker.start()

    def stop(self) -> None:
        """Stop ticking."""
        self._ticker.cancel()

    def open(self, silent_at: float) -> Watch:
        """Watch the current task until `close`; its body must be whole by `silent_at`."""
        watch = Watch(silent_at)
        self._running.add(watch)
        return watch

    def close(self, watch: Watch) -> None:
        """The call has ended."""
        self._running.discard(watch)
        watch.close()

    def interrupt_all(self, why: Why) -> int:
        """End every running call; returns how many there were."""
        for watch in list(self._running):
            watch.interrupt(why)
        return len(self._running)

    def __len__(self) -> int:
        return len(self._running)

    async def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        for watch in list(self._running):
            watch.tick(now)


def interruption(why: Why | None) -> Refused | None:
    """What an interrupted caller is told; nothing to one who has left."""
    if why is None or why == "client_gone":
        return None
    if why == "body":
        message = "The request's body did not arrive in time."
        return RequestTimeout(message, headers=(("connection", "close"),))
    if why == "drain":
        return Overloaded("The server is shutting down; please try again.", retry_after_s=1)
    if why == "silent":
        return UpstreamUnreachable("The model backend stopped answering.")
    return UpstreamTimeout("The model did not answer in time.")
