"""How long a cached key is valid."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from llm_proxy.errors import StoreUnavailable, Unauthorized
from llm_proxy.identity import KeyCache, KeySpec, Limits, PolicySnapshot
from llm_proxy.identity.authenticator import Authenticator, Credential, InternalKeys
from llm_proxy.identity.caller import NO_ATTRIBUTION, Attribution, KeyAbove, on_behalf_of
from llm_proxy.identity.restore_gate import RestoreGate
from llm_proxy.identity.virtual_keys import GeneratedKey, KeyRaise, StoredKey, generate_key


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


DAY = timedelta(days=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDED: dict[str, dict[str, object]] = {
    "revoked": {"revoked_at": NOW},
    "expired": {"spec": KeySpec("n", "t", expires_at=NOW)},
    "rotated": {"secret_expires_at": NOW},
    "above": {"above_ended": True},
    "outside": {"above": (KeyAbove("root", "", tenant="another"),)},
}


def authenticator(keys: KeyCache, gate: RestoreGate | None = None) -> Authenticator:
    """An authenticator of virtual keys alone."""
    return Authenticator(InternalKeys((), {}, lambda _: None), keys, gate)


@pytest.mark.parametrize("how", ENDED)
async def test_a_credential_that_was_valid_is_rejected_once_its_key_has_ended(
    how: str, key: GeneratedKey
) -> None:
    """What was parsed of a credential holds no verdict: the next request with it is a 401."""
    kept, credential = CountingStore(key), Credential.of_key(key.text.encode())
    keys = KeyCache(kept, now=lambda: NOW)
    check = authenticator(keys)
    for _ in range(3):
        assert (await check.authenticate(credential)).tenant == "t"
    assert kept.reads == 1
    kept.found[key.lookup] = replace(kept.found[key.lookup], epoch=3, **ENDED[how])  # type: ignore[arg-type]
    kept.book = PolicySnapshot(epochs={"t": 3})
    await keys.fetch_policies(0)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await check.authenticate(credential)
    assert kept.reads == 2


@pytest.mark.parametrize("field", ["spec", "secret_expires_at", "above_ends_at"])
async def test_a_cached_key_ends_by_the_clock(field: str, key: GeneratedKey) -> None:
    """With itself, its secret or a key above it, without another look-up."""
    now, kept = NOW, CountingStore(key)
    end = KeySpec("n", "t", expires_at=NOW + DAY) if field == "spec" else NOW + DAY
    kept.found[key.lookup] = replace(kept.found[key.lookup], **{field: end})  # type: ignore[arg-type]
    check, credential = authenticator(KeyCache(kept, now=lambda: now)), Credential.of_key(key.text.encode())
    for _ in range(2):
        await check.authenticate(credential)
    now += DAY
    with pytest.raises(Unauthorized):
        await check.authenticate(credential)
    assert kept.reads == 1


async def test_a_raise_of_a_cached_key_ends_by_the_clock(key: GeneratedKey) -> None:
    """The key's own limits are back."""
    now, kept = NOW, CountingStore(key)
    spec = KeySpec("n", "t", limits=Limits(rpm=3))
    kept.found[key.lookup] = replace(
        kept.found[key.lookup], spec=spec, running_raise=KeyRaise(Limits(rpm=30), (), NOW + DAY)
    )
    check, credential = authenticator(KeyCache(kept, now=lambda: now)), Credential.of_key(key.text.encode())
    await check.authenticate(credential)
    raised = await check.authenticate(credential)
    assert (raised.limits.rpm, raised.is_raised) == (30, True)
    now += DAY
    ended = await check.authenticate(credential)
    assert (ended.limits.rpm, ended.is_raised) == (3, False)
    assert ended.revocation_epoch == raised.revocation_epoch
    assert on_behalf_of(raised, Attribution(user="u"), NO_ATTRIBUTION).is_raised


async def test_a_cached_key_is_rejected_while_the_gate_is_closed(key: GeneratedKey) -> None:
    """A restored database may have forgotten its revocation."""
    gate, credential = RestoreGate(), Credential.of_key(key.text.encode())
    check = authenticator(KeyCache(CountingStore(key)), gate)
    await check.authenticate(credential)
    gate.reason = "restored"
    with pytest.raises(StoreUnavailable):
        await check.authenticate(credential)
    gate.reason = None
    assert (await check.authenticate(credential)).tenant == "t"


async def test_another_secret_of_a_cached_key_is_looked_up_and_rejected(key: GeneratedKey) -> None:
    """Its lookup is the same; and no text of a key is in a credential's representation."""
    kept, credential = CountingStore(key), Credential.of_key(key.text.encode())
    check = authenticator(KeyCache(kept))
    await check.authenticate(credential)
    wrong = replace(credential, digest=Credential.of_key(b"another").digest)
    assert KeyCache(kept).cached_caller(credential) is None
    assert key.text not in repr(credential)
    keys = KeyCache(kept)
    await keys.find_caller(credential.key)
    assert keys.cached_caller(wrong) is None
    assert keys.cached_caller(credential) is not None
