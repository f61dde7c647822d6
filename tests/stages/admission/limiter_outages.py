"""A Valkey to be ill-treated, replicas that count there, and a ledger that says what it is told to."""

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

from llm_proxy.admission import AdmissionController, SettledUsage
from llm_proxy.admission.redis.connection import RedisConnection
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError
from llm_proxy.identity import ANY, Caller, LimitPolicy, PolicySnapshot
from llm_proxy.money import Price
from llm_proxy.settings import Settings
from llm_proxy.stack import probe, process
from llm_proxy.stack.stores import valkey_spec, valkey_url

CALL = Call("chat.completions", "openai", "gpt", "gpt", {}, prompt_bytes=400, max_tokens=100)
COST_NANO_USD = 200
PASSWORD = "only-for-this-test"
PATIENT_MS = 5_000
"""Where the deadline itself is not in question, a busy machine must not decide."""


class OwnValkey:
    """A Valkey of this test's own, to be ill-treated."""

    def __init__(self, folder: Path) -> None:
        port = probe.free_port()
        self.url = valkey_url(port, PASSWORD)
        self._part = valkey_spec("limits", folder, port, PASSWORD)
        self._logs = folder / "logs"
        self.start()

    def start(self) -> None:
        """Start, with what it wrote to disk."""
        self._running = process.start(self._part, self._logs)
        process.wait_until_ready([self._running])

    def kill(self) -> None:
        """As a machine dies."""
        self._running.popen.kill()
        self._running.popen.wait()

    def freeze(self) -> None:
        """It holds its connections and says nothing."""
        os.kill(self._running.popen.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
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
        """Gone, whatever state it is in."""
        with contextlib.suppress(ProcessLookupError):
            self.thaw()
        self.kill()


class Ledger:
    """What was spent, as Postgres would say; and the price of every model."""

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
        """What all replicas have settled."""
        return self.latest

    async def exact_usage(self, requests: Sequence[UUID]) -> Mapping[UUID, tuple[SettledUsage, bool]] | None:
        """What the sidecar's log has told of, and whether exactly."""
        return {one: self.logged[one] for one in requests if one in self.logged}

    @property
    def names(self) -> tuple[str, ...]:
        """The models there are."""
        return CALL.group, "unpriced"

    def resolved(self, name: str) -> str:
        """Nobody goes by another name."""
        return name

    def providers(self, group: str) -> tuple[str, ...]:
        """By the first word of the group's name."""
        return (group.partition("-")[0],)

    def fallback_providers(self, group: str) -> tuple[str, ...]:  # noqa: ARG002 -- the protocol's
        """Every call may end up at one more."""
        return ("spare",)

    def price(self, group: str) -> Price | None:
        """One nano-dollar a token; `gpt-unpriced` has none."""
        return Price(1_000, 1_000) if group != "unpriced" else None


class Rules:
    """A rulebook that stays as it is."""

    def __init__(self, book: PolicySnapshot) -> None:
        self._book: PolicySnapshot | None = book

    async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:  # noqa: ARG002 -- the protocol's
        """The book, once."""
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
        """One more, under these rules."""
        chosen = settings_of(limits_redis_url=self._url, **settings)
        rules = Rules(PolicySnapshot(laid, epochs={ANY: 1})) if laid else None
        made = AdmissionController(chosen, prices=ledger, spend_source=ledger, policy_source=rules)
        self._made.append(made)
        await made.start()
        return made

    async def stop(self) -> None:
        """All of them."""
        for one in self._made:
            await one.stop()


async def outcome(admission: AdmissionController, caller: Caller) -> str:
    """How a call fares: the header's word, or the refusal's code."""
    try:
        lease = await admission.admit(caller, CALL, uuid4())
    except APIError as refused:
        return refused.code or ""
    lease.settle(10, 10)
    return dict(lease.headers)[b"x-llm-proxy-limits"].decode()


async def until(expected: str, admission: AdmissionController, caller: Caller, within_s: float = 5) -> float:
    """How long it took until calls fared so, in seconds."""
    began = time.monotonic()
    while (fared := await outcome(admission, caller)) != expected:
        assert time.monotonic() - began < within_s, fared
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def somebody(**said: object) -> Caller:
    """A caller of a tenant of its own."""
    return Caller("k", "internal", tenant=f"t-{uuid4().hex}", **said)  # type: ignore[arg-type]  # as the caller's fields
