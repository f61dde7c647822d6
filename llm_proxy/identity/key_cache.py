"""Looks virtual keys up in the key store and caches the callers they stand for.

Invariants: a key of the wrong format causes no look-up; concurrent requests with one key share one look-up.
An entry is valid for 30 s, for 15 min while Postgres is unavailable. An unknown key is 401, or 503 while
Postgres is unavailable. Secrets are compared as digests, in constant time; a wrong secret takes as long as
an unknown key.
"""

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from llm_proxy.errors import StoreUnavailable, Unauthorized
from llm_proxy.identity.caller import NOBODY, Caller, Named, on_behalf_of
from llm_proxy.identity.policies import Rulebook
from llm_proxy.identity.virtual_keys import (
    MARK,
    FoundKey,
    caller_of,
    digest_of,
    lookup_of,
    public_part,
    raised,
)

BELIEVED_S = 30.0
BELIEVED_IN_OUTAGE_S = 900.0
PAUSE_S = 1.0
"""After a failed look-up the store is left alone so long."""
MOST_REMEMBERED = 50_000


class KeyStore(Protocol):
    """Where keys are kept."""

    async def read(self, lookup: str) -> FoundKey | None:
        """The key with this public part; raises `StoreUnavailable`."""
        ...

    async def rulebook(self, known: int) -> Rulebook | None:
        """The rules, or None when nothing is newer than the epoch known; raises `StoreUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    found: FoundKey
    caller: Caller
    read_at: float
    ends_at: datetime | None
    raised: tuple[datetime, Caller] | None
    """The caller until then."""


class VirtualKeys:
    """Tells whose a virtual key is."""

    def __init__(
        self,
        store: KeyStore,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._clock_s = clock_s
        self._now = now
        self._known: dict[str, _Known] = {}
        self._wrong: dict[bytes, float] = {}
        self._reading: dict[tuple[str, int], asyncio.Task[_Known | None]] = {}
        self._epochs = Rulebook()
        self._away_until = float("-inf")

    async def find(self, key: bytes) -> Caller:
        """The caller a key belongs to.

        Raises:
            Unauthorized: It is no key of ours, or one that was revoked or has expired.
            StoreUnavailable: Nobody can tell right now.
        """
        kept = digest_of(key)
        known = self._known.get(public_part(key))
        if known is None or not hmac.compare_digest(known.found.digest, kept) or not self._believed(known):
            known = await self._looked_up(key, kept)
        return self._valid(known)

    async def renew(self, caller: Caller, epoch: int) -> Caller:
        """The caller as it is at an epoch at which something of its tenant changed; raises like `find`.

        Raises:
            Forbidden: The key's new binding does not cover whom the request acts for.
        """
        lookup = caller.key_prefix.removeprefix(MARK)
        known = self._known.get(lookup)
        if known is None or known.caller.revocation_epoch < epoch:
            known = await self._fetch(lookup, epoch)
        if known is None:
            raise _incorrect()
        named = Named(
            caller.tenant, caller.agent, caller.user, caller.session, caller.channel, caller.run, caller.tags
        )
        return on_behalf_of(self._valid(known), named, NOBODY)

    async def rulebook(self, known: int) -> Rulebook | None:
        """The store's rules; whoever asks for them keeps us up with what was revoked."""
        book = await self._store.rulebook(known)
        if book is not None:
            self._epochs = book
        return book

    async def _looked_up(self, key: bytes, kept: bytes) -> _Known:
        lookup = lookup_of(key)
        began = self._clock_s()
        if lookup is None or began - self._wrong.get(kept, float("-inf")) < BELIEVED_S:
            raise _incorrect()
        # Also for a wrong secret of a key that is remembered: at once, it would tell of the key.
        known = await self._read(lookup, self._known.get(lookup))
        if known is None or not hmac.compare_digest(known.found.digest, kept):
            if len(self._wrong) > MOST_REMEMBERED:
                self._wrong.clear()
            self._wrong[kept] = began
            raise _incorrect()
        return known

    def _believed(self, known: _Known) -> bool:
        epoch = self._epochs.epoch_of(known.caller.tenant)
        return self._clock_s() - known.read_at < BELIEVED_S and known.caller.revocation_epoch >= epoch

    async def _read(self, lookup: str, known: _Known | None) -> _Known | None:
        """What the store says, or, while it is away, what it said before."""
        epoch = self._epochs.epoch_of(known.caller.tenant) if known is not None else 0
        try:
            return await self._fetch(lookup, epoch)
        except StoreUnavailable:
            if (
                known is None
                or known.caller.revocation_epoch < epoch
                or self._clock_s() - known.read_at > BELIEVED_IN_OUTAGE_S
            ):
                raise
            return known

    async def _fetch(self, lookup: str, epoch: int) -> _Known | None:
        """Ask the store, together with others who ask since the same epoch."""
        if self._clock_s() < self._away_until:
            raise _away()
        task = self._reading.get((lookup, epoch))
        if task is None:
            task = self._reading[lookup, epoch] = asyncio.create_task(self._ask(lookup, epoch))
            task.add_done_callback(lambda _: self._reading.pop((lookup, epoch), None))
        return await asyncio.shield(task)

    async def _ask(self, lookup: str, epoch: int) -> _Known | None:
        began = self._clock_s()
        try:
            found = await self._store.read(lookup)
        except StoreUnavailable:
            self._away_until = self._clock_s() + PAUSE_S
            raise
        if len(self._known) > MOST_REMEMBERED:
            self._known.clear()
        if found is None:
            self._known.pop(lookup, None)
            return None
        caller = caller_of(found, lookup)
        # Read after the epoch was heard of, so it reflects it, whatever the table of epochs says.
        caller = replace(caller, revocation_epoch=max(epoch, caller.revocation_epoch))
        ends = [end for end in (found.spec.expires_at, found.secret_expires_at) if end is not None]
        # A key ends by the database's clock, everywhere at once: `ends_at` is that moment on ours.
        ahead = found.read_at - self._now() if found.read_at is not None else timedelta(0)
        ends_at = min(ends) - ahead if ends else None
        higher: tuple[datetime, Caller] | None = None
        if found.raised is not None:  # ends by the database's clock too
            spec = raised(found.spec, found.raised)
            higher = found.raised.until - ahead, replace(caller, limits=spec.limits, budgets=spec.budgets)
        known = self._known[lookup] = _Known(found, caller, began, ends_at, higher)
        return known

    def _valid(self, known: _Known) -> Caller:
        if known.found.revoked_at is not None:
            raise Unauthorized("This API key was revoked.")
        if known.ends_at is not None and known.ends_at <= self._now():
            raise Unauthorized("This API key has expired.")
        if known.raised is not None and known.raised[0] > self._now():
            return known.raised[1]
        return known.caller


def _incorrect() -> Unauthorized:
    return Unauthorized("Incorrect API key provided.")


def _away() -> StoreUnavailable:
    return StoreUnavailable("API keys cannot be checked right now.", retry_after_s=PAUSE_S)
