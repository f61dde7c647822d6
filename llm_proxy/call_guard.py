"""What may interrupt a running call: its caller disconnects, a timeout, a silent sidecar, an operator.

`running_calls` looks at every guard ten times a second; once older than a tick, a call has a task that waits
for its disconnect. A group's timeouts are of the first pattern that matches it, else the settings', else
longer if the sidecar's file says so; a caller may ask for less in total, never for more.
Invariant: a call is interrupted once, by cancelling its task; `reason` None: another did. Units: seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from llm_proxy.background import spawn
from llm_proxy.errors import (
    APIError,
    CallStopped,
    Overloaded,
    RequestTimeout,
    StoreUnavailable,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from llm_proxy.settings import Settings
from llm_proxy.wildcards import wildcard_matches

NEVER = float("inf")
InterruptReason = Literal[
    "client_gone", "body", "first_byte", "idle", "total", "silent", "drain", "stopped", "unclaimed"
]  # fmt: skip
Receive = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The longest waits of a call, in seconds."""

    first_byte_s: float = 120
    idle_s: float = 60
    total_s: float = 600


class StatedTimeouts(NamedTuple):
    """How long a call may take by the sidecar's own file, in seconds: until an answer, and between frames."""

    silence_s: float
    idle_s: float


GroupTimeouts = Callable[[str], StatedTimeouts | None]
TimeoutName = Literal["first_byte_s", "idle_s", "total_s"]


class TimeoutPolicy:
    """The timeouts of every model group."""

    def __init__(
        self,
        default: Timeouts,
        of_groups: Iterable[tuple[str, Mapping[str, float]]] = (),
        *,
        chosen: Collection[str] = (),
        stated: GroupTimeouts | None = None,
    ) -> None:
        """Builds the policy.

        Args:
            default: For groups without timeouts of their own.
            of_groups: Patterns (`slow-*`) and the timeouts of the groups they match; the first match counts.
            chosen: The fields of the default that an operator has set: nothing lengthens them.
            stated: The timeouts of the sidecar's file, which lengthen the others.
        """
        self._default = default
        self._of_groups = tuple((name, dict(values)) for name, values in of_groups)
        self._chosen = frozenset(chosen)
        self._stated = stated

    def for_group(self, group: str) -> Timeouts:
        """Returns the timeouts of one group."""
        stated = self._stated(group) if self._stated is not None else None
        if stated is None and not self._of_groups:
            return self._default
        nothing: dict[str, float] = {}
        own = next((found for name, found in self._of_groups if wildcard_matches(name, group)), nothing)
        if stated is None:
            return replace(self._default, **own) if own else self._default
        usual = self._default
        longer = max(0, stated.silence_s - usual.first_byte_s)
        lengthened = {
            "first_byte_s": usual.first_byte_s + longer,
            "idle_s": max(usual.idle_s, stated.idle_s),
            "total_s": usual.total_s + longer,
        }
        return replace(
            usual, **{name: value for name, value in lengthened.items() if name not in self._chosen} | own
        )

    def total_s(self, group: str, requested_s: float | None) -> float:
        """Returns the total timeout of a call whose caller requested `requested_s`."""
        longest_s = self.for_group(group).total_s
        return longest_s if requested_s is None else min(requested_s, longest_s)


def timeout_policy(settings: Settings, stated: GroupTimeouts | None = None) -> TimeoutPolicy:
    """Returns the timeouts of the settings, lengthened by those of the sidecar's file."""
    default = Timeouts(settings.first_byte_timeout_s, settings.idle_timeout_s, settings.total_timeout_s)
    own = [(name, one.model_dump(exclude_none=True)) for name, one in settings.deadlines.items()]
    chosen = [name for name, setting in _SETTINGS.items() if setting in settings.model_fields_set]
    return TimeoutPolicy(default, own, chosen=chosen, stated=stated)


_SETTINGS: Mapping[TimeoutName, str] = {
    "first_byte_s": "first_byte_timeout_s",
    "idle_s": "idle_timeout_s",
    "total_s": "total_timeout_s",
}


class CallGuard:
    """One running call, as the ticker sees it.

    Attributes:
        reason: What interrupted it; None while nothing did.
        idle_deadline: When the present silence of the sidecar becomes a timeout.
        total_deadline: When the whole call becomes a timeout.
        activity: How often data came from the sidecar.
        phase: Which timeout a silence is: `body` (the caller's), `first_byte` or `idle` (the sidecar's).
        unsent: The call waits for a sidecar; none has received anything of it.
        is_batch: It waits for a slot behind interactive calls.
        queue_s: How long the call has waited for slots at sidecars.
        sidecar: The address of the sidecar that has the call; empty before.
        on_sent: Called when the request has left for a sidecar, before its answer is waited for.
        audience: Whether others wait for the answer of a call whose caller has disconnected; None: none do.

    What was not set is the class's: most calls set little of it.
    """

    reason: InterruptReason | None = None
    phase: InterruptReason = "body"
    total_deadline = NEVER
    activity = 0
    unsent = False
    is_batch = False
    queue_s = 0.0
    sidecar = ""
    on_sent: Callable[[], object] | None = None
    audience: Callable[[], bool] | None = None
    _is_left = False
    _receive: Receive | None = None
    _disconnect_task: asyncio.Task[None] | None = None

    def __init__(self, idle_deadline: float) -> None:
        self._task = asyncio.current_task()
        self.idle_deadline = idle_deadline

    def body_received(self, receive: Receive) -> None:
        """The body is complete: from now on `receive` returns only the caller's disconnect."""
        self.idle_deadline = NEVER
        self._receive = receive

    def tick(self, now: float) -> None:
        """Interrupts the call if its time is up; starts waiting for the caller's disconnect."""
        if self._disconnect_task is None and self._receive is not None:
            self._disconnect_task = spawn("callers-leaving", self._wait_for_disconnect(self._receive))
        if now >= self.idle_deadline:
            self.interrupt(self.phase)
        elif now >= self.total_deadline:
            self.interrupt("total")
        elif self._is_left and self.audience is not None and not self.audience():
            self.interrupt("client_gone")

    def interrupt(self, reason: InterruptReason) -> None:
        """Cancels the call, once."""
        if self.reason is None and self._task is not None:
            self.reason = reason
            self._task.cancel()

    def close(self) -> None:
        """Ends the guard: the call has ended. A cancelled task keeps its frame, which holds the guard."""
        self._task = self._receive = self.on_sent = None
        if self._disconnect_task is not None:
            self._disconnect_task.cancel()
            self._disconnect_task = None

    def was_interrupted(self) -> bool:
        """Whether a `CancelledError` now in flight is the guard's; if so the task is usable again."""
        if self.reason is None or self._task is None:
            return False
        self._task.uncancel()
        return True

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._is_left = True
                if self.audience is None or not self.audience():
                    self.interrupt("client_gone")
                return


def interrupt_error(reason: InterruptReason | None) -> APIError | None:
    """Returns the error for the caller of an interrupted call; None for a caller that has disconnected."""
    error: APIError | None = None
    match reason:
        case None | "client_gone":
            pass
        case "body":
            message = "The request's body did not arrive in time."
            error = RequestTimeout(message, headers=(("connection", "close"),))
        case "drain":
            error = Overloaded("The server is shutting down; please try again.", retry_after_s=1)
        case "stopped":
            error = CallStopped("An operator of the gateway, or the holder of its key, stopped this call.")
        case "unclaimed":
            message = "It is no longer certain that this call is the only one with its 'Idempotency-Key'."
            error = StoreUnavailable(f"{message} Please try again.", retry_after_s=1)
        case "silent":
            error = UpstreamUnreachable("The model backend stopped answering.")
        case _:
            error = UpstreamTimeout("The model did not answer in time.")
    return error
