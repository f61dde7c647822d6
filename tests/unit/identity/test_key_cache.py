"""How long a cached key is valid."""

import asyncio
from datetime import UTC, datetime

import pytest

from llm_proxy.errors import StoreUnavailable, Unauthorized
from llm_proxy.identity import KeyCache, KeySpec, PolicySnapshot
from llm_proxy.identity.virtual_keys import GeneratedKey, StoredKey, generate_key


class CountingStore:
    """A key store that counts its readers and may be away."""

    def __init__(self, *keys: GeneratedKey) -> None:
        self.found: dict[str, StoredKey] = {
            one.lookup: StoredKey(f"id-{one.lookup}", KeySpec("n", "t"), one.digest, None, None, 0)
            for one in keys
        }
        self.reads = 0
        self.away = False
        self.book: PolicySnapshot | None = None

    async def fetch_key(self, lookup: str) -> StoredKey | None:
        """The key."""
        self.reads += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("away")
        return self.found.get(lookup)

    async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:  # noqa: ARG002 -- the protocol's
        """The rules."""
        return self.book


class Clock:
    """Hands that are turned by hand."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.s


@pytest.fixture
def key() -> GeneratedKey:
    """A key."""
    return generate_key()


async def test_a_key_is_cached_for_thirty_seconds(key: GeneratedKey) -> None:
    """Then it is read again, once for all concurrent requests."""
    kept, clock = CountingStore(key), Clock()
    keys = KeyCache(kept, clock_s=clock)
    for _ in range(5):
        await keys.find_caller(key.text.encode())
        clock.s += 5
    assert kept.reads == 1
    clock.s += 10
    await asyncio.gather(*(keys.find_caller(key.text.encode()) for _ in range(9)))
    assert kept.reads == 2


async def test_a_key_is_cached_for_15_minutes_while_the_store_is_unavailable(
    key: GeneratedKey,
) -> None:
    """Then it is 503."""
    kept, clock = CountingStore(key), Clock()
    keys = KeyCache(kept, clock_s=clock)
    await keys.find_caller(key.text.encode())
    kept.away = True
    clock.s += 899
    assert (await keys.find_caller(key.text.encode())).tenant == "t"
    clock.s += 2
    with pytest.raises(StoreUnavailable):
        await keys.find_caller(key.text.encode())


async def test_a_failed_store_is_not_asked_for_a_second(key: GeneratedKey) -> None:
    """An outage causes no storm of look-ups."""
    kept, clock = CountingStore(key), Clock()
    kept.away = True
    keys = KeyCache(kept, clock_s=clock)
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await keys.find_caller(key.text.encode())
    assert kept.reads == 1
    kept.away = False
    clock.s += 1.1
    assert (await keys.find_caller(key.text.encode())).kind == "virtual"


async def test_an_unknown_key_is_looked_up_once_and_rejected(key: GeneratedKey) -> None:
    """Guessing does not load the database."""
    kept, clock = CountingStore(), Clock()
    keys = KeyCache(kept, clock_s=clock)
    for _ in range(20):
        with pytest.raises(Unauthorized):
            await keys.find_caller(key.text.encode())
    assert kept.reads == 1


async def test_a_newer_epoch_invalidates_a_cached_key(key: GeneratedKey) -> None:
    """Also while the store is unavailable."""
    kept, clock = CountingStore(key), Clock()
    keys = KeyCache(kept, clock_s=clock)
    await keys.find_caller(key.text.encode())
    kept.book = PolicySnapshot(epochs={"t": 5})
    await keys.fetch_policies(0)
    assert (await keys.find_caller(key.text.encode())).revocation_epoch == 5
    assert kept.reads == 2
    kept.book, kept.away = PolicySnapshot(epochs={"*": 6}), True
    await keys.fetch_policies(5)
    with pytest.raises(StoreUnavailable):
        await keys.find_caller(key.text.encode())


async def test_refresh_reads_the_key_again(key: GeneratedKey) -> None:
    """A key revoked meanwhile is rejected; another keeps its attribution."""
    kept, clock = CountingStore(key), Clock()
    keys = KeyCache(kept, clock_s=clock)
    caller = await keys.find_caller(key.text.encode())
    renewed = await keys.refresh(caller, 7)
    assert (renewed.revocation_epoch, renewed.key_id, kept.reads) == (7, caller.key_id, 2)
    assert await keys.refresh(caller, 7) == renewed
    assert kept.reads == 2
    found = kept.found[key.lookup]
    kept.found[key.lookup] = StoredKey(
        found.key_id, found.spec, found.digest, datetime(2026, 1, 1, tzinfo=UTC), None, 8
    )
    with pytest.raises(Unauthorized):
        await keys.refresh(renewed, 8)
