"""A Valkey that a test may stop, replicas that count there, and a ledger with fixed figures."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from llm_proxy.admission import AdmissionController
from llm_proxy.admission.corrections import RefreshCaller
from llm_proxy.admission.lease import SettledUsage
from llm_proxy.admission.limit_planner import PriceSource
from llm_proxy.admission.redis.connection import RedisConnection
from llm_proxy.admission.renewal import SpendSource
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError
from llm_proxy.identity import (
    ANY,
    AccessPolicy,
    Caller,
    LimitPolicy,
    PolicySnapshot,
    PolicySource,
    PolicyWatcher,
)
from llm_proxy.json_access import Json
from llm_proxy.money import Price
from llm_proxy.settings import Settings
from llm_proxy.stack import probe, process
from llm_proxy.stack.stores import valkey_spec, valkey_url

CALL = Call("chat.completions", "openai", "gpt", "gpt", {}, prompt_bytes=400, max_tokens=100)
COST_NANO_USD = 200


def repeated_call(steps: int, said: str = "") -> Call:
    """A conversation after so many equal steps."""
    messages: list[Json] = [{"role": "user", "content": f"Do it. {said}"}]
    for at in range(steps):
        called = {"id": f"c{at}", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": f"c{at}", "content": "nothing"},
        ]
    return Call("chat.completions", "openai", "m", "m", {"messages": messages}, prompt_bytes=100 * steps + 9)


PASSWORD = "only-for-this-test"
PATIENT_MS = 5_000
"""Where the deadline itself is not in question, a busy machine must not decide."""


def build_admission(
    settings: Settings,
    *,
    prices: PriceSource | None = None,
    spend_source: SpendSource | None = None,
    policy_source: PolicySource | None = None,
    refresh_caller: RefreshCaller | None = None,
) -> AdmissionController:
    """Returns a controller with a policy watcher of its own, as the composition root builds it."""
    watcher = PolicyWatcher(policy_source)
    access = AccessPolicy(watcher, prices, settings.default_models)
    return AdmissionController(
        settings, watcher, access, prices=prices, spend_source=spend_source, refresh_caller=refresh_caller
    )


class OwnValkey:
    """A Valkey of one test, which may stop it."""

    def __init__(self, folder: Path) -> None:
        port = probe.free_port()
        self.url = valkey_url(port, PASSWORD)
        self._part = valkey_spec("limits", folder, port, PASSWORD)
        self._logs = folder / "logs"
        self.start()

    def start(self) -> None:
        """Starts it, with what it wrote to disk."""
        self._running = process.start(self._part, self._logs)
        process.wait_until_ready([self._running])

    def kill(self) -> None:
        """Kills it, as when a machine dies."""
        self._running.popen.kill()
        self._running.popen.wait()

    def freeze(self) -> None:
        """Stops it: it keeps its connections and does not answer."""
        os.kill(self._running.popen.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continues it."""
        os.kill(self._running.popen.pid, signal.SIGCONT)

    async def ask(self, *words: str) -> Any:
        """The reply to one command."""
        wire = RedisConnection(self.url, timeout_s=1, load_commands=list)
        await wire.start()
        try:
            return await wire.execute(*words)
        finally:
            await wire.stop()

    def end(self) -> None:
        """Ends it in any state."""
        with contextlib.suppress(ProcessLookupError):
            self.thaw()
        self.kill()


class Ledger:
    """Spend, as Postgres would have it, and the price of every model."""

    def __init__(self, spent: int | None = 0) -> None:
        self.spent_before = spent
        self.asked = 0
        self.logged: dict[UUID, tuple[SettledUsage, bool]] = {}
        self.latest: list[tuple[str, int]] = []

    async def fetch_spend(
        self,
        scope: str,  # noqa: ARG002 -- the protocol's
        spender: str,  # noqa: ARG002 -- the same
        since: datetime,  # noqa: ARG002 -- the same
        tenant: str | None,  # noqa: ARG002 -- the same
        group: str,  # noqa: ARG002 -- the same
        unit: str,  # noqa: ARG002 -- the same
    ) -> int | None:
        """What was spent."""
        self.asked += 1
        return self.spent_before

    async def recent_answers(self) -> Sequence[tuple[str, int]] | None:
        """The lengths of all replicas' answers."""
        return self.latest

    async def exact_usage(self, requests: Sequence[UUID]) -> Mapping[UUID, tuple[SettledUsage, bool]] | None:
        """What the sidecar's log has, and whether it is exact."""
        return {one: self.logged[one] for one in requests if one in self.logged}

    @property
    def names(self) -> tuple[str, ...]:
        """The model groups."""
        return CALL.group, "unpriced"

    def resolved(self, name: str) -> str:
        """There are no aliases."""
        return name

    def providers(self, group: str) -> tuple[str, ...]:
        """The first word of the group's name."""
        return (group.partition("-")[0],)

    def fallback_providers(self, group: str) -> tuple[str, ...]:  # noqa: ARG002 -- the protocol's
        """Every call may fall back to one more."""
        return ("spare",)

    def price(self, group: str) -> Price | None:
        """One nano-dollar a token; `gpt-unpriced` has none."""
        return Price(1_000, 1_000) if group != "unpriced" else None

    def most_of_units(self, call: Call, prompt_tokens: int, answer_tokens: int) -> int | None:  # noqa: ARG002 -- the protocol's
        """A hundred nano-dollars an image; `gpt-unpriced` has no price."""
        return 100 * call.quantities.images if call.group != "unpriced" else None


class FixedPolicies:
    """Policies that do not change."""

    def __init__(self, book: PolicySnapshot) -> None:
        self._book: PolicySnapshot | None = book

    async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:  # noqa: ARG002 -- the protocol's
        """The snapshot, once."""
        book, self._book = self._book, None
        return book


def settings_of(**said: object) -> Settings:
    """Settings with these values, no database, and the defaults elsewhere."""
    return Settings(**({"database_url": None} | said))  # type: ignore[arg-type]  # pydantic reads the texts


class Replicas:
    """Replicas of a gateway's admission, all counting at one address."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._made: list[AdmissionController] = []

    async def start(
        self, ledger: Ledger | None = None, *laid: LimitPolicy, **settings: object
    ) -> AdmissionController:
        """Starts one more, under these policies."""
        chosen = settings_of(limits_redis_url=self._url, **settings)
        rules = FixedPolicies(PolicySnapshot(laid, epochs={ANY: 1})) if laid else None
        made = build_admission(chosen, prices=ledger, spend_source=ledger, policy_source=rules)
        self._made.append(made)
        await made.start()
        return made

    async def stop(self) -> None:
        """Stops all of them."""
        for one in self._made:
            await one.stop()


async def outcome(admission: AdmissionController, caller: Caller) -> str:
    """What becomes of a call: the header's state, or the error's code."""
    try:
        lease = await admission.admit(caller, CALL, uuid4())
    except APIError as error:
        return error.code or ""
    lease.settle(10, 10)
    return dict(lease.headers)[b"x-llm-proxy-limits"].decode()


async def until(expected: str, admission: AdmissionController, caller: Caller, within_s: float = 5) -> float:
    """Seconds until calls have this outcome."""
    began = time.monotonic()
    while (fared := await outcome(admission, caller)) != expected:
        assert time.monotonic() - began < within_s, fared
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def new_caller(**said: object) -> Caller:
    """A caller of a tenant of its own."""
    return Caller("k", "internal", tenant=f"t-{uuid4().hex}", **said)  # type: ignore[arg-type]  # as the caller's fields
