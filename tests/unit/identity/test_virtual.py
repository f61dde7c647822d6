"""How long an identity is believed."""

import asyncio
from datetime import UTC, datetime

import pytest

from llm_proxy.errors import StoreUnavailable, Unauthorized
from llm_proxy.identity import KeyCache, KeySpec, PolicySnapshot
from llm_proxy.identity.virtual_keys import GeneratedKey, StoredKey, generate_key


class Kept:
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

    async def fetch_policies(self, known: int) -> PolicySnapshot | None:  # noqa: ARG002 -- the protocol's
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
def minted() -> GeneratedKey:
    """A key."""
    return generate_key()


async def test_an_identity_is_believed_for_thirty_seconds(minted: GeneratedKey) -> None:
    """Then it is read again, once however many ask."""
    kept, clock = Kept(minted), Clock()
    keys = KeyCache(kept, clock_s=clock)
    for _ in range(5):
        await keys.find_caller(minted.text.encode())
        clock.s += 5
    assert kept.reads == 1
    clock.s += 10
    await asyncio.gather(*(keys.find_caller(minted.text.encode()) for _ in range(9)))
    assert kept.reads == 2


async def test_while_the_store_is_away_it_is_believed_for_a_quarter_of_an_hour_and_no_longer(
    minted: GeneratedKey,
) -> None:
    """Then nobody can tell any more."""
    kept, clock = Kept(minted), Clock()
    keys = KeyCache(kept, clock_s=clock)
    await keys.find_caller(minted.text.encode())
    kept.away = True
    clock.s += 899
    assert (await keys.find_caller(minted.text.encode())).tenant == "t"
    clock.s += 2
    with pytest.raises(StoreUnavailable):
        await keys.find_caller(minted.text.encode())


async def test_a_store_that_failed_is_left_alone_for_a_second(minted: GeneratedKey) -> None:
    """An outage is no storm of look-ups."""
    kept, clock = Kept(minted), Clock()
    kept.away = True
    keys = KeyCache(kept, clock_s=clock)
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await keys.find_caller(minted.text.encode())
    assert kept.reads == 1
    kept.away = False
    clock.s += 1.1
    assert (await keys.find_caller(minted.text.encode())).kind == "virtual"


async def test_a_key_nobody_has_is_looked_up_once_and_refused(minted: GeneratedKey) -> None:
    """Guessing costs the guesser, not the database."""
    kept, clock = Kept(), Clock()
    keys = KeyCache(kept, clock_s=clock)
    for _ in range(20):
        with pytest.raises(Unauthorized):
            await keys.find_caller(minted.text.encode())
    assert kept.reads == 1


async def test_a_newer_epoch_ends_belief_at_once(minted: GeneratedKey) -> None:
    """And while the store is away nobody believes what is known to have changed."""
    kept, clock = Kept(minted), Clock()
    keys = KeyCache(kept, clock_s=clock)
    await keys.find_caller(minted.text.encode())
    kept.book = PolicySnapshot(epochs={"t": 5})
    await keys.fetch_policies(0)
    assert (await keys.find_caller(minted.text.encode())).revocation_epoch == 5
    assert kept.reads == 2
    kept.book, kept.away = PolicySnapshot(epochs={"*": 6}), True
    await keys.fetch_policies(5)
    with pytest.raises(StoreUnavailable):
        await keys.find_caller(minted.text.encode())


async def test_renewing_reads_what_is_so_now(minted: GeneratedKey) -> None:
    """A key that was revoked meanwhile is refused, one that was not keeps whom it acts for."""
    kept, clock = Kept(minted), Clock()
    keys = KeyCache(kept, clock_s=clock)
    caller = await keys.find_caller(minted.text.encode())
    renewed = await keys.refresh(caller, 7)
    assert (renewed.revocation_epoch, renewed.key_id, kept.reads) == (7, caller.key_id, 2)
    assert await keys.refresh(caller, 7) == renewed
    assert kept.reads == 2
    found = kept.found[minted.lookup]
    kept.found[minted.lookup] = StoredKey(
        found.key_id, found.spec, found.digest, datetime(2026, 1, 1, tzinfo=UTC), None, 8
    )
    with pytest.raises(Unauthorized):
        await keys.refresh(renewed, 8)
