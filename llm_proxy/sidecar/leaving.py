"""How the process ends: told to, or by itself when it has grown too large or answered enough calls.

Invariants: it says that it is leaving before it stops listening, so that no gateway sends it one call more;
what runs then ends first, within a limit; whoever supervises it starts it again. Units: MiB, seconds.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import uvicorn

from llm_proxy.sidecar.doors import Doors

LEAVE_S = 3.0
"""By then every gateway has looked: they do once a second, and wait two for the answer."""
DRAIN_S = 30
SPREAD = 0.1
"""Each process of several takes up to so much less, so that they do not leave together."""
_LOOK_TICKS = 50


class Leaving(uvicorn.Server):
    """A server that first says it is leaving, and then stops.

    `LLM_PROXY_SIDECAR_MAX_MIB` of resident memory, or `LLM_PROXY_SIDECAR_MAX_CALLS` answered, make it leave
    by itself; unset they mean no limit.
    """

    def __init__(self, config: uvicorn.Config, doors: Doors, given: Mapping[str, str]) -> None:
        super().__init__(config)
        self._doors = doors
        self._leave_s = float(given.get("LLM_PROXY_SIDECAR_LEAVE_S", LEAVE_S))
        less = 1 - random.random() * SPREAD  # noqa: S311 -- a spread, not a secret
        self._most_mib = float(given.get("LLM_PROXY_SIDECAR_MAX_MIB") or "inf") * less
        self._most_calls = float(given.get("LLM_PROXY_SIDECAR_MAX_CALLS") or "inf") * less

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- uvicorn's signature
        """The first SIGTERM says so and waits a little; another signal stops at once."""
        if self._doors.leaving or sig == signal.SIGINT:
            self.should_exit = True
        else:
            self._leave(self._leave_s)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; every five seconds it looks at itself."""
        if counter % _LOOK_TICKS == 0 and not self._doors.leaving:
            self._look()
        return await super().on_tick(counter)

    def _look(self) -> None:
        grown, answered = resident_mib(), self._doors.answered
        if grown > self._most_mib or answered > self._most_calls:
            why = f"{grown:.0f} MiB, {answered} calls answered"
            print(f"sidecar: leaving, to be started anew: {why}", file=sys.stderr, flush=True)  # noqa: T201 -- its log
            self.config.timeout_graceful_shutdown = max(self.config.timeout_graceful_shutdown or 0, DRAIN_S)
            self._leave(LEAVE_S)

    def _leave(self, after_s: float) -> None:
        self._doors.leaving = True
        asyncio.get_running_loop().call_later(after_s, setattr, self, "should_exit", True)  # noqa: FBT003 -- setattr's


def resident_mib() -> float:
    """Memory of this process that is in use (proc(5), statm); 0 where nothing tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
