"""What may interrupt a running call: its caller disconnects, a timeout, a silent sidecar, a drain.

One ticker checks all running calls ten times a second; a call costs one set entry, and a task that waits
for its disconnect only when it is older than a tick. The first pattern that matches a model group gives its
timeouts; a caller may ask for less in total, never for more. Invariant: a call is interrupted once, by
cancelling its task; `why` None means somebody else cancelled. Units: seconds of the event loop's clock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.errors import APIError, Overloaded, RequestTimeout, UpstreamTimeout, UpstreamUnreachable
from llm_proxy.settings import Settings
from llm_proxy.wildcards import wildcard_matches


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Longest waits."""

    first_byte_s: float = 120
    idle_s: float = 60
    total_s: float = 600


class TimeoutPolicy:
    """Longest waits of every model group."""

    def __init__(self, default: Timeouts, of_groups: Iterable[tuple[str, Timeouts]] = ()) -> None:
        """Put them together.

        Args:
            default: For groups nothing else is said of.
            of_groups: Patterns (`slow-*`) and what holds for the groups they fit; the first that fits counts.
        """
        self._default = default
        self._of_groups = tuple(of_groups)

    def for_group(self, group: str) -> Timeouts:
        """The waits of one group."""
        if not self._of_groups:
            return self._default
        return next((wait for name, wait in self._of_groups if wildcard_matches(name, group)), self._default)

    def total_s(self, group: str, asked_s: float | None) -> float:
        """How long a call may take in total, when its caller asked for so much."""
        longest = self.for_group(group).total_s
        return longest if asked_s is None else min(asked_s, longest)


def timeout_policy(settings: Settings) -> TimeoutPolicy:
    """The deadlines an operator has set."""
    usual = Timeouts(settings.first_byte_timeout_s, settings.idle_timeout_s, settings.total_timeout_s)
    others = {name: one.model_dump(exclude_none=True) for name, one in settings.deadlines.items()}
    return TimeoutPolicy(usual, [(name, replace(usual, **said)) for name, said in others.items()])


TICK_S = 0.1
NEVER = float("inf")

InterruptReason = Literal["client_gone", "body", "first_byte", "idle", "total", "silent", "drain"]
Receive = Callable[[], Awaitable[Any]]


class CallGuard:
    """One running call, as the ticker sees it.

    Attributes:
        reason: What interrupted it; None while nothing did.
        idle_deadline: When the current silence of the sidecar becomes a timeout.
        total_deadline: When the whole call becomes a timeout.
        activity: How often something came from the sidecar.
        phase: Which timeout a silence is: `body` (the caller's), `first_byte` or `idle` (the sidecar's).
        unsent: The call waits for a sidecar; none has seen anything of it.
    """

    __slots__ = (
        "_listener",
        "_receive",
        "_task",
        "activity",
        "idle_deadline",
        "phase",
        "reason",
        "total_deadline",
        "unsent",
    )

    def __init__(self, silent_at: float) -> None:
        self._task = asyncio.current_task()
        self._receive: Receive | None = None
        self._listener: asyncio.Task[None] | None = None
        self.activity = 0
        self.unsent = False
        self.reason: InterruptReason | None = None
        self.phase: InterruptReason = "body"
        self.idle_deadline = silent_at
        self.total_deadline = NEVER

    def body_received(self, receive: Receive) -> None:
        """The body is whole: from now on `receive` only tells that the caller has left."""
        self.idle_deadline = NEVER
        self._receive = receive

    def tick(self, now: float) -> None:
        """Interrupt the call if its time is up; start listening for the caller's leaving."""
        if self._listener is None and self._receive is not None:
            self._listener = spawn("callers-leaving", self._listen(self._receive))
        if now >= self.idle_deadline:
            self.interrupt(self.phase)
        elif now >= self.total_deadline:
            self.interrupt("total")

    def interrupt(self, why: InterruptReason) -> None:
        """Cancel the call, once."""
        if self.reason is None and self._task is not None:
            self.reason = why
            self._task.cancel()

    def close(self) -> None:
        """Stop listening; the call has ended."""
        self._task = None
        if self._listener is not None:
            self._listener.cancel()

    def was_interrupted(self) -> bool:
        """Whether a `CancelledError` now in flight is ours; if so the task is usable again."""
        if self.reason is None or self._task is None:
            return False
        self._task.uncancel()
        return True

    async def _listen(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.interrupt("client_gone")
                return


class RunningCalls:
    """All running calls of this process."""

    def __init__(self) -> None:
        self._running: set[CallGuard] = set()
        self._ticker = BackgroundLoop("call-timeouts", self._tick, every_s=TICK_S)

    def start(self) -> None:
        """Begin ticking on the running event loop."""
        self._ticker.start()

    def stop(self) -> None:
        """Stop ticking."""
        self._ticker.cancel()

    def open(self, silent_at: float) -> CallGuard:
        """Watch the current task until `close`; its body must be whole by `silent_at`."""
        watch = CallGuard(silent_at)
        self._running.add(watch)
        return watch

    def close(self, watch: CallGuard) -> None:
        """The call has ended."""
        self._running.discard(watch)
        watch.close()

    def interrupt_all(self, why: InterruptReason) -> int:
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


def interrupt_error(why: InterruptReason | None) -> APIError | None:
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
