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
from llm_proxy.identity.caller import NO_ATTRIBUTION, Attribution, Caller, on_behalf_of
from llm_proxy.identity.policies import PolicySnapshot
from llm_proxy.identity.virtual_keys import (
    KEY_TYPE_PREFIX,
    StoredKey,
    apply_raise,
    caller_from_key,
    key_digest,
    lookup_from_key,
    unchecked_lookup,
)

CACHE_TTL_S = 30.0
OUTAGE_TTL_S = 900.0
RETRY_PAUSE_S = 1.0
"""After a failed look-up the store is left alone so long."""
MAX_ENTRIES = 50_000


class KeyStore(Protocol):
    """Where keys are kept."""

    async def fetch_key(self, lookup: str) -> StoredKey | None:
        """The key with this public part; raises `StoreUnavailable`."""
        ...

    async def fetch_policies(self, known: int) -> PolicySnapshot | None:
        """The rules, or None when nothing is newer than the epoch known; raises `StoreUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class _CachedKey:
    stored: StoredKey
    caller: Caller
    read_at: float
    ends_at: datetime | None
    raised_caller: tuple[datetime, Caller] | None
    """The caller until then."""


class KeyCache:
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
        self._known: dict[str, _CachedKey] = {}
        self._wrong: dict[bytes, float] = {}
        self._reading: dict[tuple[str, int], asyncio.Task[_CachedKey | None]] = {}
        self._epochs = PolicySnapshot()
        self._away_until = float("-inf")

    async def find_caller(self, key: bytes) -> Caller:
        """The caller a key belongs to.

        Raises:
            Unauthorized: It is no key of ours, or one that was revoked or has expired.
            StoreUnavailable: Nobody can tell right now.
        """
        kept = key_digest(key)
        known = self._known.get(unchecked_lookup(key))
        if known is None or not hmac.compare_digest(known.stored.digest, kept) or not self._is_fresh(known):
            known = await self._look_up(key, kept)
        return self._caller_or_error(known)

    async def refresh(self, caller: Caller, epoch: int) -> Caller:
        """The caller as it is at an epoch at which something of its tenant changed; raises like `find`.

        Raises:
            Forbidden: The key's new binding does not cover whom the request acts for.
        """
        lookup = caller.key_prefix.removeprefix(KEY_TYPE_PREFIX)
        known = self._known.get(lookup)
        if known is None or known.caller.revocation_epoch < epoch:
            known = await self._fetch_shared(lookup, epoch)
        if known is None:
            raise _invalid_key_error()
        named = Attribution(
            caller.tenant, caller.agent, caller.user, caller.session, caller.channel, caller.run, caller.tags
        )
        return on_behalf_of(self._caller_or_error(known), named, NO_ATTRIBUTION)

    async def fetch_policies(self, known: int) -> PolicySnapshot | None:
        """The store's rules; whoever asks for them keeps us up with what was revoked."""
        book = await self._store.fetch_policies(known)
        if book is not None:
            self._epochs = book
        return book

    async def _look_up(self, key: bytes, kept: bytes) -> _CachedKey:
        lookup = lookup_from_key(key)
        began = self._clock_s()
        if lookup is None or began - self._wrong.get(kept, float("-inf")) < CACHE_TTL_S:
            raise _invalid_key_error()
        # Also for a wrong secret of a key that is remembered: at once, it would tell of the key.
        known = await self._fetch_or_stale(lookup, self._known.get(lookup))
        if known is None or not hmac.compare_digest(known.stored.digest, kept):
            if len(self._wrong) > MAX_ENTRIES:
                self._wrong.clear()
            self._wrong[kept] = began
            raise _invalid_key_error()
        return known

    def _is_fresh(self, known: _CachedKey) -> bool:
        epoch = self._epochs.epoch_of(known.caller.tenant)
        return self._clock_s() - known.read_at < CACHE_TTL_S and known.caller.revocation_epoch >= epoch

    async def _fetch_or_stale(self, lookup: str, known: _CachedKey | None) -> _CachedKey | None:
        """What the store says, or, while it is away, what it said before."""
        epoch = self._epochs.epoch_of(known.caller.tenant) if known is not None else 0
        try:
            return await self._fetch_shared(lookup, epoch)
        except StoreUnavailable:
            if (
                known is None
                or known.caller.revocation_epoch < epoch
                or self._clock_s() - known.read_at > OUTAGE_TTL_S
            ):
                raise
            return known

    async def _fetch_shared(self, lookup: str, epoch: int) -> _CachedKey | None:
        """Ask the store, together with others who ask since the same epoch."""
        if self._clock_s() < self._away_until:
            raise _unavailable()
        task = self._reading.get((lookup, epoch))
        if task is None:
            task = self._reading[lookup, epoch] = asyncio.create_task(self._fetch(lookup, epoch))
            task.add_done_callback(lambda _: self._reading.pop((lookup, epoch), None))
        return await asyncio.shield(task)

    async def _fetch(self, lookup: str, epoch: int) -> _CachedKey | None:
        began = self._clock_s()
        try:
            found = await self._store.fetch_key(lookup)
        except StoreUnavailable:
            self._away_until = self._clock_s() + RETRY_PAUSE_S
            raise
        if len(self._known) > MAX_ENTRIES:
            self._known.clear()
        if found is None:
            self._known.pop(lookup, None)
            return None
        caller = caller_from_key(found, lookup)
        # Read after the epoch was heard of, so it reflects it, whatever the table of epochs says.
        caller = replace(caller, revocation_epoch=max(epoch, caller.revocation_epoch))
        ends = [end for end in (found.spec.expires_at, found.secret_expires_at) if end is not None]
        # A key ends by the database's clock, everywhere at once: `ends_at` is that moment on ours.
        ahead = found.read_at - self._now() if found.read_at is not None else timedelta(0)
        ends_at = min(ends) - ahead if ends else None
        higher: tuple[datetime, Caller] | None = None
        if found.running_raise is not None:  # ends by the database's clock too
            spec = apply_raise(found.spec, found.running_raise)
            higher = (
                found.running_raise.until - ahead,
                replace(caller, limits=spec.limits, budgets=spec.budgets),
            )
        known = self._known[lookup] = _CachedKey(found, caller, began, ends_at, higher)
        return known

    def _caller_or_error(self, known: _CachedKey) -> Caller:
        if known.stored.revoked_at is not None:
            raise Unauthorized("This API key was revoked.")
        if known.ends_at is not None and known.ends_at <= self._now():
            raise Unauthorized("This API key has expired.")
        if known.raised_caller is not None and known.raised_caller[0] > self._now():
            return known.raised_caller[1]
        return known.caller


def _invalid_key_error() -> Unauthorized:
    return Unauthorized("Incorrect API key provided.")


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("API keys cannot be checked right now.", retry_after_s=RETRY_PAUSE_S)
