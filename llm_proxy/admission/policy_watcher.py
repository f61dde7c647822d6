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
"""Rules read so recently need no look at the store's epoch."""


class PolicyWatcher:
    """Reads the rules again when they changed."""

    def __init__(self, defaults: PolicyDefaults, source: PolicySource | None) -> None:
        self._defaults = defaults
        self._source = source
        self._seen: dict[str, int] = {}
        self._read_at = float("-inf")
        self._away = False
        self._turn = asyncio.Lock()
        self._loop = BackgroundLoop("rules", self._step, every_s=POLL_S)
        self.policies = PolicyResolver.from_snapshot(defaults, PolicySnapshot())

    @property
    def is_enabled(self) -> bool:
        """Whether there is anything that could change."""
        return self._source is not None

    @property
    def is_fresh(self) -> bool:
        """Whether no change can have escaped us for longer than `FRESH_S`."""
        return self._source is None or time.monotonic() - self._read_at < FRESH_S

    def epoch_of(self, tenant: str) -> int:
        """The newest epoch of a tenant that our knowledge reflects."""
        return max(self.policies.snapshot.epoch_of(tenant), self._seen.get(tenant, 0))

    async def start(self) -> None:
        """Read the rules, now if Postgres is there, and again when they change."""
        if self._source is not None:
            await self._loop.run_once(self._first)
            self._loop.start()

    async def stop(self) -> None:
        """Stop reading."""
        await self._loop.stop()

    async def refresh(self, tenant: str = ANY, epoch: int = 0) -> None:
        """Read the rules as they are now; `epoch` is what the store says of the tenant.

        Raises:
            StoreUnavailable: Postgres did not answer, or is known to be away; then nobody waits for it.
        """
        if self._source is None:
            return
        asked_at = time.monotonic()
        if self._away:
            raise _unread()
        async with self._turn:
            if self._away:
                raise _unread()
            if self._read_at < asked_at:  # who came while it was read waits for one more, together
                await self._read(self._source)
        if epoch > self.epoch_of(tenant):
            self._seen[tenant] = epoch

    async def _read(self, source: PolicySource) -> None:
        began = time.monotonic()
        try:
            book = await source.fetch_policies(self.policies.snapshot.newest_epoch)
        except StoreUnavailable:
            self._away = True
            raise
        self._read_at, self._away = began, False
        if book is not None:
            self.policies = PolicyResolver.from_snapshot(self._defaults, book)

    async def _first(self) -> None:
        try:
            await self.refresh()
        except StoreUnavailable:
            log.warning("rules not readable at start; defaults hold")

    async def _step(self) -> None:
        if self._source is not None:
            with contextlib.suppress(StoreUnavailable):
                async with self._turn:
                    await self._read(self._source)


def _unread() -> StoreUnavailable:
    return StoreUnavailable("The rules cannot be read right now.", retry_after_s=FRESH_S)
