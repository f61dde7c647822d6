"""What changed at another replica holds for the call that learns of it, from the limits store or before that.

Calls go through `process_call` to a sidecar on a real socket; a real Valkey tells of the changes.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
import pytest
from stages.admission.limiter_outages import PATIENT_MS, OwnValkey, Replicas, settings_of
from stages.admission.limiter_outages import Ledger as Prices
from stages.admission.test_asked_meanwhile import Trial, trial_of

from llm_proxy.admission import AdmissionController
from llm_proxy.call_context import CallContext
from llm_proxy.identity import (
    AccessPolicy,
    Caller,
    KeyCache,
    KeySpec,
    KillSwitch,
    Limits,
    PolicySnapshot,
    PolicyWatcher,
)
from llm_proxy.identity.caller import ANY
from llm_proxy.identity.virtual_keys import StoredKey, generate_key
from llm_proxy.upstream import Catalog
from llm_proxy.upstream.catalog import ModelGroup
from llm_proxy.upstream.litellm_protocol import LiteLLMControls

KEY = generate_key()
SPEC = KeySpec("n", "t", models=("*",), limits=Limits(rpm=100), tags=("old",))


class ChangedStore:
    """The key and the policies, which a test changes as another replica would."""

    def __init__(self) -> None:
        self.spec, self.policies = SPEC, PolicySnapshot(epochs={ANY: 1})

    def change(self, spec: KeySpec = SPEC, *switches: KillSwitch) -> int:
        """Changes both; returns the tenant's new epoch."""
        epoch = self.policies.newest_epoch + 1
        self.spec, self.policies = spec, PolicySnapshot((), frozenset(switches), {ANY: 1, "t": epoch})
        return epoch

    async def fetch_key(self, lookup: str) -> StoredKey | None:
        """The key as it is now."""
        return StoredKey("k", self.spec, KEY.digest, None, None, 1) if lookup == KEY.lookup else None

    async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:
        """What they are now, if that is not known."""
        return self.policies if self.policies.newest_epoch > known_epoch else None


class Changing(NamedTuple):
    """A gateway before one sidecar, and the replica at which things change."""

    trial: Trial
    store: ChangedStore
    keys: KeyCache
    watcher: PolicyWatcher
    elsewhere: AdmissionController

    async def caller(self) -> Caller:
        """The key's caller, as this gateway knows it."""
        return await self.keys.find_caller(KEY.text.encode())

    async def change(self, spec: KeySpec = SPEC, *switches: KillSwitch) -> None:
        """Changes things at the other replica: this one hears of it by the limits store."""
        await self.elsewhere.publish_epochs({"t": self.store.change(spec, *switches)})

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The bodies that the sidecar has got."""
        return [orjson.loads(body) for body in self.trial.received]


@asynccontextmanager
async def changing(own: OwnValkey, replicas: Replicas) -> AsyncGenerator[Changing]:
    """A trial of two model groups, of which one is the other's fallback."""
    store, prices = ChangedStore(), Prices(spent=0)
    keys = KeyCache(store)
    watcher = PolicyWatcher(keys)
    access = AccessPolicy(watcher, prices, ("*",))
    settings = settings_of(limits_redis_url=own.url, store_timeout_ms=PATIENT_MS)
    admission = AdmissionController(settings, watcher, access, prices=prices, refresh_caller=keys.refresh)
    elsewhere = await replicas.start(prices)
    await admission.start()
    try:
        async with trial_of(admission, LiteLLMControls(access=access)) as trial:
            groups = {"gpt": ModelGroup("gpt", fallbacks=("other",)), "other": ModelGroup("other")}
            trial.catalog.update(Catalog(groups, {}, is_ours=True))
            yield Changing(trial, store, keys, watcher, elsewhere)
    finally:
        await admission.stop()


async def test_a_switch_that_the_store_tells_of_holds_for_the_call_that_asks(
    own: OwnValkey, replicas: Replicas
) -> None:
    """Another replica has switched the fallback off: the sidecar is told not to use it."""
    async with changing(own, replicas) as one:
        await one.trial.call(await one.caller())
        caller = await one.caller()
        await one.change(SPEC, KillSwitch("model", "other"))
        await one.trial.call(caller)
        assert ["disable_fallbacks" in body for body in one.sent] == [False, True]


async def test_a_key_that_is_narrowed_elsewhere_is_narrow_for_the_call_that_asks(
    own: OwnValkey, replicas: Replicas
) -> None:
    """Its models, also as fallbacks, its cap, its cache and its tags; the record has the call's own tags."""
    async with changing(own, replicas) as one:
        await one.trial.call(await one.caller())
        caller = replace(await one.caller(), tags=("old", "call"))
        await one.change(replace(SPEC, models=("gpt",), max_tokens_cap=4, cache=False))
        context = await one.trial.call(caller, max_tokens=10)
        assert ["disable_fallbacks" in body for body in one.sent] == [False, True]
        assert [body.get("max_tokens") for body in one.sent] == [None, 4]
        assert one.sent[1]["cache"] == {"no-cache": True, "no-store": True}
        assert context.caller is not None
        assert context.caller.models == ("gpt",)
        assert context.caller.tags == ("old", "call")


async def test_a_key_that_is_narrowed_while_its_body_comes_is_narrow_for_that_call(
    own: OwnValkey, replicas: Replicas
) -> None:
    """This gateway knows of the change before it asks the store; the caller was read before that."""
    async with changing(own, replicas) as one:
        caller = await one.caller()
        await one.change(replace(SPEC, models=("gpt",), max_tokens_cap=4))
        await one.watcher.refresh("t", 2)
        await one.trial.call(caller, max_tokens=10)
        assert ["disable_fallbacks" in body for body in one.sent] == [True]
        assert [body["max_tokens"] for body in one.sent] == [4]


async def test_a_call_composed_anew_gets_one_line_for_the_journal(
    own: OwnValkey, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is made while the store is asked."""
    async with changing(own, replicas) as one:
        caller, ledger = await one.caller(), one.trial.services.ledger
        made, started_line = list[bytes](), ledger.started_line

        def counted_line(context: CallContext) -> bytes:
            made.append(started_line(context))
            return made[-1]

        monkeypatch.setattr(ledger, "started_line", counted_line)
        await one.change(replace(SPEC, models=("gpt",)))
        await one.trial.call(caller)
        assert len(made) == 1
