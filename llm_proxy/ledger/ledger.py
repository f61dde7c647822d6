"""The ledger as a call's way sees it: a call starts, ends or is rejected.

Invariants: `call_started`, `call_finished` and `request_rejected` never wait and never raise; a finished
call's record survives the process (journal) and an outage of Postgres (spool); a call in flight in a worker
that dies is recorded with `outcome='lost'`. The worker slot's folder must outlive the process for both.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llm_proxy.background import BackgroundLoop
from llm_proxy.call_context import CallContext
from llm_proxy.errors import APIError
from llm_proxy.ledger.maintenance import TICK_S, Maintenance
from llm_proxy.ledger.observers import Payload
from llm_proxy.ledger.record import UsageRecord, encode, encode_started, row_of, shorten
from llm_proxy.ledger.rejected_requests import RejectionSampler, rejected_request
from llm_proxy.ledger.spool import RECORD_BYTES, STARTED_BYTES, Journal
from llm_proxy.ledger.store import LedgerStore
from llm_proxy.ledger.usage_store import MemoryUsage
from llm_proxy.ledger.worker_slot import WorkerSlot
from llm_proxy.ledger.writer import REPLAY_EVERY_S, Writer
from llm_proxy.telemetry import Metrics
from llm_proxy.upstream import NO_ROUTING, RoutingInfo

log = logging.getLogger(__name__)


def report_provider_troubles(
    record: UsageRecord,
    served: RoutingInfo,
    metrics: Metrics,
    refused_by_provider: Callable[[str, str], None] | None = None,
) -> None:
    """Counts and logs a finished call's fallback, and the deployments whose providers rejected credentials.

    They are reported whichever attempt answered in the end, without any text of a provider.
    """
    if served.fallback_from is not None:
        metrics.call_fell_back(served.fallback_from, record.group)
    refused = {hop.deployment for hop in served.hops or () if hop.auth_rejected}
    if record.refusal_code == "provider_auth" and not refused:
        refused = {record.deployment or "unknown"}
    for deployment in sorted(refused):
        metrics.increment("llm_proxy_provider_auth_failures_total", deployment)
        if refused_by_provider is not None:
            refused_by_provider(deployment, record.group_asked or record.group)
        log.error(
            "a provider refused the gateway's credentials",
            extra={
                "request_id": str(record.request_id),
                "deployment": deployment,
                "group_asked": record.group_asked,
                "group": record.group,
                "answered": record.outcome == "ok",
            },
        )


rejection_log = logging.getLogger("llm_proxy.refusals")
"""Logs one line for every rejected request of the sample; a level of WARNING turns it off."""

_DRAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The ledger's state; no state is a reason to reject a call.

    Attributes:
        postgres: `off` if none is configured, `refused` if it answers and rejects the records, `migrating`
            while its schema is migrated.
        since_s: When `postgres` changed last, in seconds since 1970.
        queued: Records in memory and in the journal.
        spool_records: Records in the spool.
        work: The progress of a migration's background work; empty for none.
    """

    postgres: Literal["up", "away", "refused", "migrating", "off"]
    since_s: float
    queued: int
    spool_records: int
    spool_bytes: int
    work: str = ""


class Ledger:
    """Where finished calls go.

    Attributes:
        refused_by_provider: Hears of deployments whose provider refused the credentials; None by default.
    """

    def __init__(
        self,
        store: LedgerStore | None,
        metrics: Metrics,
        *,
        seat: WorkerSlot | None = None,
        spool_max_bytes: int = 2**29,
        remembered: MemoryUsage | None = None,
    ) -> None:
        """Makes the ledger's parts; raises nothing.

        Args:
            store: The tables; None keeps records in the spool only.
            metrics: Counts every call and the ledger's own state.
            seat: Where records wait; None leaves them to memory, and a crash loses them.
            spool_max_bytes: The maximum size of this worker's spool.
            remembered: Keeps every record in memory as well.
        """
        self._metrics = metrics
        self._store, self._remembered = store, remembered
        self.on_provider_auth_failure: Callable[[str, str], None] | None = None
        self._maintenance = Maintenance(store, seat, metrics, spool_max_bytes)
        self._journal: Journal = self._maintenance.journal
        self._writer = Writer(store, self._maintenance.spool, self._journal, metrics)
        self._maintenance.writer = self._writer
        self._samples = (RejectionSampler(), RejectionSampler())  # of strangers, of known callers
        self._writing = BackgroundLoop("ledger-writer", self._writer.step)
        self._beside = (
            BackgroundLoop("ledger-replay", self._writer.replay_spool, every_s=REPLAY_EVERY_S),
            BackgroundLoop("ledger-upkeep", self._maintenance.step, every_s=TICK_S),
            BackgroundLoop("ledger-work", self._maintenance.run_backlog, every_s=TICK_S),
        )

    def call_started(self, context: CallContext) -> None:
        """A call was admitted: should this worker die, it is not forgotten."""
        caller, call = context.caller, context.call
        assert caller is not None and call is not None  # noqa: S101, PT018 -- it was admitted
        self._metrics.call_started()
        opened = (
            context.request_id, context.started_at, caller.key_id, caller.key_prefix, caller.tenant,
            caller.agent, caller.user, caller.session, caller.channel, context.client_request_id,
            call.endpoint, call.dialect, call.model, call.group, call.streaming, caller.run,
            ",".join(caller.tags) or None,
        )  # fmt: skip
        line = encode(opened)
        if len(line) > STARTED_BYTES:
            line = encode_started(opened, STARTED_BYTES)
        self._journal.begin(context.request_id, line)

    def call_finished(
        self, record: UsageRecord, overhead_ms: float | None = None, served: RoutingInfo = NO_ROUTING
    ) -> None:
        """A call ended, and so much of it was the gateway's own; takes its record and returns at once."""
        try:
            row = row_of(record)
            line = encode(row)
            kept = line if len(line) <= RECORD_BYTES else shorten(row, RECORD_BYTES)
            self._writer.add(self._journal.complete(record.request_id, kept), row, line)
            self._metrics.call_finished(record)
            if overhead_ms is not None:
                self._metrics.observe("llm_proxy_overhead_seconds", overhead_ms / 1000, record.door)
            report_provider_troubles(record, served, self._metrics, self.on_provider_auth_failure)
            if self._remembered is not None:
                self._remembered.add(record)
        except Exception:
            log.exception("a record could not be taken", extra={"request_id": str(record.request_id)})
            self._metrics.increment("llm_proxy_ledger_dropped_total", "bug")

    def request_rejected(self, context: CallContext | None, refused: APIError) -> None:
        """A request was answered with an error: counted; if never admitted, kept and logged in a sample."""
        self._metrics.request_rejected(refused.metric_code)
        if context is None or context.error is not None:
            return
        caller = context.caller
        self._maintenance.count_rejection(context.request_id, caller, refused)
        if self._samples[caller is not None].accepts(time.time()):
            kept = rejected_request(context.request_id, context.started_at, caller, context.call, refused)
            self._maintenance.rejected_sample.append(kept)
            rejection_log.info("refused", extra={"lines": [kept.as_log_fields()]})

    def keep_payload(self, payload: Payload) -> None:
        """Queues a call's payload; never waits; counts it as dropped if there is no room."""
        if not self._maintenance.payloads.add(payload):
            self._metrics.increment("llm_proxy_payloads_dropped_total", "queue_full")

    async def start(self) -> None:
        """Recovers dead workers' files, migrates the schema if Postgres answers, and starts the loops."""
        await self._maintenance.start()
        for loop in (self._writing, *self._beside):
            loop.start()

    async def stop(self) -> None:
        """Stops the loops and writes the queue to Postgres or the spool, within a few seconds."""
        self._writer.finish()
        for loop in self._beside:
            await loop.stop()
        await self._writing.wait_until_done(_DRAIN_S)
        await self._writing.stop()
        with contextlib.suppress(Exception):  # what is left stays in the journal
            await self._writer.flush()
        await self._maintenance.stop()

    async def wait_written(self, within_s: float) -> bool:
        """Waits until Postgres or the spool has every record so far; returns False on timeout."""
        return await self._writer.wait_written(within_s)

    def state(self) -> LedgerState:
        """Returns the present state."""
        spool = self._maintenance.spool
        work = self._store.migration.work if self._store is not None else None
        return LedgerState(
            postgres="off" if self._store is None else self._writer.state,
            since_s=self._writer.since_s,
            queued=self._writer.queued,
            spool_records=spool.records if spool else 0,
            spool_bytes=spool.size_bytes if spool else 0,
            work=str(work or ""),
        )
