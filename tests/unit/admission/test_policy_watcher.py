"""How often the rules are read again."""

import asyncio

import pytest

from llm_proxy.admission.policy_resolver import PolicyDefaults
from llm_proxy.admission.policy_watcher import PolicyWatcher
from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import PolicySnapshot


class Source:
    """Rules that take a moment to read, or cannot be read."""

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


async def test_calls_that_ask_for_the_rules_at_once_read_them_together() -> None:
    """One read for the first, one more for all who came while it ran."""
    source = Source()
    watch = PolicyWatcher(PolicyDefaults(), source)
    await asyncio.gather(*(watch.refresh() for _ in range(50)))
    assert source.reads == 2


async def test_when_the_rules_cannot_be_read_one_finds_out_and_the_others_are_told() -> None:
    """Nobody queues for a database that is away."""
    source = Source(away=True)
    watch = PolicyWatcher(PolicyDefaults(), source)
    fared = await asyncio.gather(*(watch.refresh() for _ in range(50)), return_exceptions=True)
    assert {type(one) for one in fared} == {StoreUnavailable}
    assert source.reads == 1
    with pytest.raises(StoreUnavailable):
        await watch.refresh()
    assert source.reads == 1
