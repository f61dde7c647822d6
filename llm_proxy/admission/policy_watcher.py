"""Limit policies and kill switches as this replica knows them, kept up to date with Postgres.

Invariants: a change is seen within 0.5 s while Postgres answers, at once when the store's epoch shows it;
while Postgres is unreachable the last policies hold; `policies` is replaced as a whole, never changed.
"""

import asyncio
import contextlib
import logging
import time

from llm_proxy.admission.policy_resolver import PolicyDefaults, PolicyResolver
from llm_proxy.background import BackgroundLoop
from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import ANY, PolicySnapshot, PolicySource

log = logging.getLogger(__name__)

POLL_S = 0.5
FRESH_S = 1.0
"""Policies read so recently need no comparison with the store's epoch."""


class PolicyWatcher:
    """Reads the policies again when they have changed."""

    def __init__(self, defaults: PolicyDefaults, source: PolicySource | None) -> None:
        self._defaults = defaults
        self._source = source
        self._seen: dict[str, int] = {}
        self._read_at = float("-inf")
        self._unavailable = False
        self._lock = asyncio.Lock()
        self._loop = BackgroundLoop("rules", self._step, every_s=POLL_S)
        self.policies = PolicyResolver.from_snapshot(defaults, PolicySnapshot())

    @property
    def is_enabled(self) -> bool:
        """Whether there is anything that could change."""
        return self._source is not None

    @property
    def is_fresh(self) -> bool:
        """Whether no change can have been missed for longer than `FRESH_S`."""
        return self._source is None or time.monotonic() - self._read_at < FRESH_S

    def epoch_of(self, tenant: str) -> int:
        """The newest epoch of a tenant that `policies` reflects."""
        return max(self.policies.snapshot.epoch_of(tenant), self._seen.get(tenant, 0))

    async def start(self) -> None:
        """Reads the policies, now if Postgres answers, and again when they change."""
        if self._source is not None:
            await self._loop.run_once(self._read_at_start)
            self._loop.start()

    async def stop(self) -> None:
        """Stops reading."""
        await self._loop.stop()

    async def refresh(self, tenant: str = ANY, epoch: int = 0) -> None:
        """Reads the policies as they are now; `epoch` is the tenant's in the limits store.

        Raises:
            StoreUnavailable: Postgres did not answer, or is known to be unreachable; then it is not waited
                for.
        """
        if self._source is None:
            return
        called_at = time.monotonic()
        if self._unavailable:
            raise _not_readable()
        async with self._lock:
            if self._unavailable:
                raise _not_readable()
            if self._read_at < called_at:  # callers that came during a read share the next one
                await self._read(self._source)
        if epoch > self.epoch_of(tenant):
            self._seen[tenant] = epoch

    async def _read(self, source: PolicySource) -> None:
        started = time.monotonic()
        try:
            snapshot = await source.fetch_policies(self.policies.snapshot.newest_epoch)
        except StoreUnavailable:
            self._unavailable = True
            raise
        self._read_at, self._unavailable = started, False
        if snapshot is not None:
            self.policies = PolicyResolver.from_snapshot(self._defaults, snapshot)

    async def _read_at_start(self) -> None:
        try:
            await self.refresh()
        except StoreUnavailable:
            log.warning("rules not readable at start; defaults hold")

    async def _step(self) -> None:
        if self._source is not None:
            with contextlib.suppress(StoreUnavailable):
                async with self._lock:
                    await self._read(self._source)


def _not_readable() -> StoreUnavailable:
    return StoreUnavailable("The rules cannot be read right now.", retry_after_s=FRESH_S)
