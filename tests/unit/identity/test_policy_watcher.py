"""When the policies are read again."""

import asyncio
import time

import pytest

from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import PolicySnapshot, PolicyWatcher


class PolicySourceStub:
    """Policies that take a moment to read, or cannot be read."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.reads = 0

    async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:  # noqa: ARG002 -- the protocol's
        """Nothing new."""
        self.reads += 1
        await asyncio.sleep(0.01)
        if self.away:
            raise StoreUnavailable("away")
        return None


async def test_concurrent_refreshes_share_one_read() -> None:
    """One read for the first, one more for all that came while it ran."""
    source = PolicySourceStub()
    watch = PolicyWatcher(source)
    await asyncio.gather(*(watch.refresh() for _ in range(50)))
    assert source.reads == 2


async def test_one_failed_read_fails_all_waiting_refreshes() -> None:
    """None waits for an unreachable database."""
    source = PolicySourceStub(away=True)
    watch = PolicyWatcher(source)
    fared = await asyncio.gather(*(watch.refresh() for _ in range(50)), return_exceptions=True)
    assert {type(one) for one in fared} == {StoreUnavailable}
    assert source.reads == 1
    with pytest.raises(StoreUnavailable):
        await watch.refresh()
    assert source.reads == 1


async def test_policies_that_another_reader_confirms_are_not_read() -> None:
    """With the epoch they have they are fresh; with another one they are read at once."""
    source = PolicySourceStub()
    watch = PolicyWatcher(source)
    await watch.start()
    reads = source.reads
    for _ in range(12):
        await asyncio.sleep(0.1)
        watch.confirm(watch.snapshot.newest_epoch, time.monotonic())
    assert watch.is_fresh
    assert source.reads <= reads + 1
    reads = source.reads
    watch.confirm(watch.snapshot.newest_epoch + 1, time.monotonic())
    await asyncio.sleep(0)
    assert source.reads == reads + 1
    await watch.stop()
