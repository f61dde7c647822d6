"""What is asked of the limits store outside a gateway's life: at its start, and by the command line.

Invariant: a connection of its own, closed at the end. A store that is away refuses nothing and hears later:
replicas look for changes in Postgres too.
"""

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from llm_proxy.admission.check import ONE_TAG, Store, StoreAway, epoch_key
from llm_proxy.admission.store import SharedStore
from llm_proxy.identity import ANY


class EvictingStore(Exception):  # noqa: N818 -- errors are named for the state they report
    """The limits store may throw limits away when its memory is full."""


async def refuse_evicting(url: str, *, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None) -> None:
    """Ask the limits store whether it evicts; raises `EvictingStore`, and nothing when it is away."""
    async with _opened(url, timeout_s, tls) as store:
        try:
            policy = await store.memory_policy()
        except StoreAway:
            return
    if policy not in {"noeviction", "unknown"}:
        raise EvictingStore(
            f"LLM_PROXY__LIMITS_REDIS_URL: the store's maxmemory-policy is {policy!r};"
            " limits and budgets need 'noeviction'."
        )


async def announce(
    url: str, epochs: Mapping[str, int], *, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None
) -> bool:
    """Tell every replica of new epochs at once; False when the store did not hear."""
    async with _opened(url, timeout_s, tls) as store:
        try:
            await raise_all(store, epochs)
        except StoreAway:
            return False
    return True


async def raise_all(store: Store, epochs: Mapping[str, int]) -> None:
    """Raise the epochs of these tenants; raises `StoreAway`."""
    for tenant, epoch in epochs.items():
        if tenant != ANY:
            await store.raise_epoch(epoch_key(tenant), epoch)
            await store.raise_epoch(epoch_key(tenant, ONE_TAG), epoch)


@asynccontextmanager
async def _opened(url: str, timeout_s: float, tls: ssl.SSLContext | None) -> AsyncGenerator[SharedStore]:
    store = SharedStore(url, timeout_s=timeout_s, tls=tls)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()
