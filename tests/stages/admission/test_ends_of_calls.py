"""Whatever fails while a call ends, the rest of its end is done: it holds nothing, and runs no longer.

Calls go through `process_call` to a sidecar on a real socket, with a real Valkey and a real journal.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_page import series, value
from stages.admission.limiter_outages import PATIENT_MS, Replicas, new_caller
from stages.admission.limiter_outages import Ledger as Prices
from stages.admission.test_asked_meanwhile import BUDGET, Trial, trial_of, until_nothing_runs

from llm_proxy import pipeline
from llm_proxy.admission import AdmissionController
from llm_proxy.admission.lease import ActiveLeases
from llm_proxy.background import failure_counts
from llm_proxy.call_context import CallContext
from llm_proxy.identity import Limits
from llm_proxy.ledger import CallObservers, Ledger
from llm_proxy.ledger.usage_store import MemoryUsage
from llm_proxy.ledger.worker_slot import acquire_slot
from llm_proxy.pipeline import AdmittedCall, ReplayedCall
from llm_proxy.telemetry import Metrics, uuid7
from llm_proxy.telemetry.privacy import EVERY_TENANT, PayloadPolicy
from llm_proxy.upstream import client
from llm_proxy.upstream.http_client import ConnectionPool

CALLER = new_caller(limits=Limits(parallel=1, tpm=10_000), budgets=BUDGET)


class Ending:
    """A gateway with a journal whose calls are looked at after their end."""

    def __init__(self, admission: AdmissionController, trial: Trial, folder: Path) -> None:
        self.admission, self.trial, self.metrics = admission, trial, Metrics()
        self.ledger = Ledger(None, self.metrics, slot=acquire_slot(folder), memory_usage=trial.usage)
        self.payloads: list[object] = []
        observers = CallObservers(None, PayloadPolicy((EVERY_TENANT,)), self.payloads.append)
        trial.services = replace(trial.services, ledger=self.ledger, observers=observers)

    def gauge(self, name: str, **labels: str) -> float:
        """A figure of the metrics' page."""
        self.metrics.collect()
        return value(self.metrics.render(), name, **labels)

    async def check(self, *, records: int) -> None:
        """Checks that nothing is held, and that so many records wait to be written."""
        await until_nothing_runs(self.admission, CALLER)
        assert self.trial.is_idle
        assert len(self.trial.calls) == 0
        assert self.gauge("llm_proxy_in_flight") == 0
        assert self.ledger.state().queued == records
        assert self.ledger._journal.used == records  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- no page tells


@asynccontextmanager
async def ending(replicas: Replicas, folder: Path) -> AsyncGenerator[Ending]:
    """One gateway."""
    admission = await replicas.start(Prices(spent=0), store_timeout_ms=PATIENT_MS)
    async with trial_of(admission) as trial:
        yield Ending(admission, trial, folder)


def fail(*_: object, **__: object) -> Any:
    """A step that fails."""
    raise RuntimeError("a step failed")


async def test_a_record_that_cannot_be_encoded_ends_its_call(replicas: Replicas, tmp_path: Path) -> None:
    """It is counted as dropped, its slot in the journal is free, and the metrics have the call."""
    async with ending(replicas, tmp_path) as one:
        await one.trial.call(CALLER)
        unencodable: Any = object()
        with pytest.raises((TypeError, ValueError)):
            await one.trial.call(replace(CALLER, channel=unencodable))
        await one.check(records=1)
        assert one.gauge("llm_proxy_ledger_dropped_total", cause="bug") == 1
        assert sum(series(one.metrics.render(), "llm_proxy_requests_total").values()) == 2
        assert len(one.payloads) == 2


STEPS = {
    "billed": (pipeline, "billed", 1),
    "record": (pipeline, "record_of", 0),
    "usage": (AdmittedCall, "note_usage", 1),
    "lengths": (AdmittedCall, "_learn", 1),
    "connection": (ConnectionPool, "release", 1),
    "lease": (ActiveLeases, "budgets_changed", 1),
    "memory": (MemoryUsage, "add", 1),
    "failures": (Ledger, "_report_provider_failures", 1),
    "payload": (CallObservers, "_keep_payload", 1),
}
"""A step of the end of a call: where it stands, and how many records there are without it."""


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_fails_keeps_no_other_from_running(
    replicas: Replicas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its failure is counted; the answer was there, and the next call has its slot."""
    owner, name, records = STEPS[step]
    before = sum(failure_counts().values())
    async with ending(replicas, tmp_path) as one:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fail)
            await one.trial.call(CALLER)
        await one.check(records=records)
        dropped = one.gauge("llm_proxy_ledger_dropped_total", cause="bug") if not records else 0
        assert sum(failure_counts().values()) + dropped > before
        await one.trial.call(CALLER)
        await one.check(records=records + 1)


async def test_an_answer_whose_head_cannot_be_read_frees_its_slot(
    replicas: Replicas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call fails; the next one has the slot."""
    async with ending(replicas, tmp_path) as one:
        with monkeypatch.context() as patched:
            patched.setattr(client, "parse_routing_headers", fail)
            with pytest.raises(RuntimeError):
                await one.trial.call(CALLER)
        await one.check(records=1)
        await one.trial.call(CALLER)
        await one.check(records=2)


async def test_a_replayed_call_that_cannot_begin_does_not_run(
    replicas: Replicas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no record, and is not counted as running."""
    async with ending(replicas, tmp_path) as one:
        context = await one.trial.call(CALLER)
        again = CallContext(uuid7(), caller=context.caller, call=context.call)
        guard = one.trial.calls.open(again, 1e9)
        monkeypatch.setattr(CallObservers, "on_start", fail)
        with pytest.raises(RuntimeError):
            async with ReplayedCall(one.trial.services, again, guard, context.request_id):
                pass
        one.trial.calls.close(guard)
        await one.check(records=1)
