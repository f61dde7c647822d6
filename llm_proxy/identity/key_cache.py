"""Looks virtual keys up in the key store and caches the callers they stand for.

Invariants: a key that is malformed, and no imported one, causes no look-up; concurrent requests with one key
share one. An entry is valid for 30 s, for 15 min while Postgres is unavailable. An unknown key is 401, or 503
while Postgres is unavailable. Digests are compared, in constant time; a wrong secret takes as long as an
unknown key.
"""

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from llm_proxy.errors import StoreUnavailable, Unauthorized
from llm_proxy.identity.authenticator import Credential, invalid_key_error
from llm_proxy.identity.caller import NO_ATTRIBUTION, Attribution, Caller, on_behalf_of
from llm_proxy.identity.policies import PolicySnapshot
from llm_proxy.identity.virtual_keys import (
    KEY_TYPE_PREFIX,
    StoredKey,
    apply_raise,
    caller_from_key,
    ended_key_error,
    imported_lookup,
    lookup_from_key,
)

CACHE_TTL_S = 30.0
OUTAGE_TTL_S = 900.0
RETRY_PAUSE_S = 1.0
"""Time after a failed look-up during which the store is not queried."""
MAX_ENTRIES = 50_000
_NEVER_S = float("-inf")


class KeyStore(Protocol):
    """Stores keys and policies; both methods raise `StoreUnavailable`."""

    async def fetch_key(self, lookup: str) -> StoredKey | None:
        """Returns the key with this public part; None if there is none."""
        ...

    async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:
        """Returns the policies; None when no epoch is newer than `known_epoch`."""
        ...


@dataclass(frozen=True, slots=True)
class _CachedKey:
    """A key and the caller it stands for.

    Attributes:
        read_at_s: By the cache's monotonic clock.
        expires_at: When the key or this secret ends, by this process's clock.
        raised_caller: The caller while a raise runs, and the end of the raise by this process's clock.
        is_steady: It is valid, and neither key, secret nor raise ends by itself.
    """

    stored: StoredKey
    caller: Caller
    read_at_s: float
    expires_at: datetime | None
    raised_caller: tuple[datetime, Caller] | None
    is_steady: bool


class KeyCache:
    """Finds the callers of virtual keys; a `KeyLookup` and a `PolicySource`."""

    def __init__(
        self,
        store: KeyStore,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_old_secret: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_old_secret` is called for a secret that ends because its key was rotated."""
        self._store = store
        self._on_old_secret = on_old_secret
        self._clock_s = clock_s
        self._now = now
        self._keys: dict[str, _CachedKey] = {}
        self._invalid_since_s: dict[bytes, float] = {}
        self._running: dict[tuple[str, int], asyncio.Task[_CachedKey | None]] = {}
        self._epochs = PolicySnapshot()
        self._unavailable_until_s = _NEVER_S

    def cached_caller(self, credential: Credential) -> Caller | None:
        """Returns the caller of a key that was read lately; None where it has to be looked up.

        Raises:
            Unauthorized: The key is revoked or expired.
        """
        cached = self._keys.get(credential.lookup)
        if (
            cached is None
            or not hmac.compare_digest(cached.stored.digest, credential.digest)
            or not self._is_fresh(cached)
        ):
            return None
        return cached.caller if cached.is_steady else self._caller_or_error(cached)

    async def find_caller(self, key: bytes) -> Caller:
        """Returns the caller of a call with this key.

        Raises:
            Unauthorized: The key is unknown, revoked or expired.
            StoreUnavailable: The key is not in the cache, and the store is unavailable.
        """
        credential = Credential.of_key(key)
        caller = self.cached_caller(credential)
        return await self.look_up(credential) if caller is None else caller

    async def look_up(self, credential: Credential) -> Caller:
        """Returns the caller of a key that `cached_caller` does not know; raises as `find_caller` does."""
        return self._caller_or_error(await self._read(credential))

    async def refresh(self, caller: Caller, epoch: int) -> Caller:
        """Returns the caller as its key is at a tenant's new epoch; raises as `find_caller` does.

        Raises:
            Forbidden: The key's new binding does not cover what the request is attributed to.
        """
        lookup = caller.key_prefix.removeprefix(KEY_TYPE_PREFIX)
        cached = self._keys.get(lookup)
        if cached is None or cached.caller.revocation_epoch < epoch:
            cached = await self._fetch_shared(lookup, epoch)
        if cached is None:
            raise invalid_key_error()
        attribution = Attribution(
            caller.tenant, caller.agent, caller.user, caller.session, caller.channel, caller.run, caller.tags
        )
        return on_behalf_of(self._caller_or_error(cached), attribution, NO_ATTRIBUTION, caller.run_id)

    async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:
        """Returns the store's policies and notes their epochs, so that outdated keys are read again."""
        policies = await self._store.fetch_policies(known_epoch)
        if policies is not None:
            if policies.has_imported_keys and not self._epochs.has_imported_keys:
                self._invalid_since_s.clear()
            self._epochs = policies
        return policies

    async def _read(self, credential: Credential) -> _CachedKey:
        key, digest = credential.key, credential.digest
        began_s = self._clock_s()
        if began_s - self._invalid_since_s.get(digest, _NEVER_S) < CACHE_TTL_S:
            raise invalid_key_error()
        lookup = lookup_from_key(key)
        if lookup is None and self._epochs.has_imported_keys:
            lookup = imported_lookup(key, digest)
        if lookup is None:
            raise invalid_key_error()
        # A wrong secret of a cached key is looked up too: a faster 401 would reveal that the key exists.
        cached = await self._fetch_or_stale(lookup, self._keys.get(lookup))
        if cached is None or not hmac.compare_digest(cached.stored.digest, digest):
            if len(self._invalid_since_s) > MAX_ENTRIES:
                self._invalid_since_s.clear()
            self._invalid_since_s[digest] = began_s
            raise invalid_key_error()
        return cached

    def _is_fresh(self, cached: _CachedKey) -> bool:
        epoch = self._epochs.epoch_of(cached.caller.tenant)
        return self._clock_s() - cached.read_at_s < CACHE_TTL_S and cached.caller.revocation_epoch >= epoch

    async def _fetch_or_stale(self, lookup: str, cached: _CachedKey | None) -> _CachedKey | None:
        """Returns the stored key, or the cached one while the store is unavailable."""
        epoch = self._epochs.epoch_of(cached.caller.tenant) if cached is not None else 0
        try:
            return await self._fetch_shared(lookup, epoch)
        except StoreUnavailable:
            if (
                cached is None
                or cached.caller.revocation_epoch < epoch
                or self._clock_s() - cached.read_at_s > OUTAGE_TTL_S
            ):
                raise
            return cached

    async def _fetch_shared(self, lookup: str, epoch: int) -> _CachedKey | None:
        """Reads the key once for all requests that wait for it since the same epoch."""
        if self._clock_s() < self._unavailable_until_s:
            raise _unavailable()
        task = self._running.get((lookup, epoch))
        if task is None:
            task = self._running[lookup, epoch] = asyncio.create_task(self._fetch(lookup, epoch))
            task.add_done_callback(lambda _: self._running.pop((lookup, epoch), None))
        return await asyncio.shield(task)

    async def _fetch(self, lookup: str, epoch: int) -> _CachedKey | None:
        began_s = self._clock_s()
        try:
            stored = await self._store.fetch_key(lookup)
        except StoreUnavailable:
            self._unavailable_until_s = self._clock_s() + RETRY_PAUSE_S
            raise
        if len(self._keys) > MAX_ENTRIES:
            self._keys.clear()
        if stored is None:
            self._keys.pop(lookup, None)
            return None
        caller = caller_from_key(stored, lookup)
        # The read began after `epoch` was known, so it reflects it, whatever the table of epochs holds.
        caller = replace(caller, revocation_epoch=max(epoch, caller.revocation_epoch))
        # Keys and raises end by the database's clock, at once on all replicas: converted to this clock.
        ahead = stored.read_at - self._now() if stored.read_at is not None else timedelta(0)
        expires_at = stored.ends_at - ahead if stored.ends_at is not None else None
        raised_caller: tuple[datetime, Caller] | None = None
        if stored.running_raise is not None:
            spec = apply_raise(stored.spec, stored.running_raise)
            raised = replace(caller, limits=spec.limits, budgets=spec.budgets, is_raised=True)
            raised_caller = stored.running_raise.until - ahead, raised
        is_steady = (
            expires_at is None
            and raised_caller is None
            and ended_key_error(stored, caller, None, self._now()) is None
        )
        cached = _CachedKey(stored, caller, began_s, expires_at, raised_caller, is_steady)
        self._keys[lookup] = cached
        return cached

    def _caller_or_error(self, cached: _CachedKey) -> Caller:
        ended = ended_key_error(cached.stored, cached.caller, cached.expires_at, self._now())
        if ended is not None:
            raise Unauthorized(ended)
        if cached.stored.secret_expires_at is not None:
            self._on_old_secret()
        if cached.raised_caller is not None and cached.raised_caller[0] > self._now():
            return cached.raised_caller[1]
        return cached.caller


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable(
        "API keys cannot be checked, because their database does not answer; please try again.",
        retry_after_s=RETRY_PAUSE_S,
    )
