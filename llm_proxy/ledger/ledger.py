"""The ledger's part in a request: a call starts, ends or is rejected.

Invariants: `call_started`, `call_finished` and `request_rejected` never wait and never raise; a finished
call's record survives the process (journal) and an outage of Postgres (spool); a call in flight in a worker
that dies is recorded with `outcome='lost'`. The worker slot's folder must outlive the process for both.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal
from uuid import UUID

from llm_proxy.background import BackgroundLoop, attempt
from llm_proxy.call_context import CallContext
from llm_proxy.errors import APIError
from llm_proxy.ledger.maintenance import TICK_S, Maintenance
from llm_proxy.ledger.observers import Payload
from llm_proxy.ledger.record import UsageRecord, encode, encode_started, row_of, shorten
from llm_proxy.ledger.rejected_requests import RejectionSampler, rejected_request
from llm_proxy.ledger.spool import RECORD_BYTES, STARTED_BYTES, open_worker_files
from llm_proxy.ledger.store import LedgerStore
from llm_proxy.ledger.usage_store import MemoryUsage
from llm_proxy.ledger.worker_slot import WorkerSlot
from llm_proxy.ledger.writer import REPLAY_EVERY_S, Writer
from llm_proxy.telemetry import Metrics
from llm_proxy.upstream import NO_ROUTING, RoutingInfo

log = logging.getLogger(__name__)
rejection_log = logging.getLogger("llm_proxy.refusals")
"""Logs one line for every rejected request of the sample; a level of WARNING turns it off."""

_DRAIN_S = 5.0
_OWN_FAULTS = frozenset({"internal_error", "upstream_unreachable"})
"""Codes of a truncated answer that are the gateway's or a sidecar's fault."""


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The ledger's state; no state but `outdated` is a reason to reject a call.

    Attributes:
        postgres: `off` if none is configured, `refused` if it answers and rejects the records, `migrating`
            while its schema is migrated, `outdated` if it belongs to newer releases.
        since_s: When `postgres` changed last, in seconds since 1970.
        queued: Records in memory and in the journal.
        spool_records: Records in the spool.
        work: The progress of a migration's background work; empty for none.
        why: Why Postgres is away or refuses, without addresses and passwords; may be empty.
    """

    postgres: Literal["up", "away", "refused", "migrating", "outdated", "off"]
    since_s: float
    queued: int
    spool_records: int
    spool_bytes: int
    work: str = ""
    why: str = ""


class Ledger:
    """Takes the records of calls and rejected requests; its loops write them.

    Attributes:
        on_provider_auth_failure: Called with the deployment whose provider rejected the gateway's credentials
            and the requested model group; None by default.
    """

    def __init__(
        self,
        store: LedgerStore | None,
        metrics: Metrics,
        *,
        slot: WorkerSlot | None = None,
        spool_max_bytes: int = 2**29,
        memory_usage: MemoryUsage | None = None,
    ) -> None:
        """Makes the ledger's parts; raises nothing.

        Args:
            store: The tables; None keeps records in the spool only.
            metrics: Counts every call and the ledger's own state.
            slot: The folder of waiting records; without one they wait in memory, and a crash loses them.
            spool_max_bytes: The maximum size of this worker's spool.
            memory_usage: Gets every record too, in mock mode.
        """
        self.on_provider_auth_failure: Callable[[str, str], None] | None = None
        self._store, self._metrics, self._memory_usage = store, metrics, memory_usage
        self._spool, self._journal, recovered = open_worker_files(slot, spool_max_bytes)
        self._writer = Writer(store, self._spool, self._journal, metrics)
        self._maintenance = Maintenance(store, slot, self._spool, self._writer, metrics)
        self._maintenance.count_recovered(recovered)
        self._samplers = (RejectionSampler(), RejectionSampler())  # of unknown callers, of known ones
        self._writing = BackgroundLoop("ledger-writer", self._writer.step)
        self._other_loops = (
            BackgroundLoop("ledger-replay", self._writer.replay_spool, every_s=REPLAY_EVERY_S),
            BackgroundLoop("ledger-upkeep", self._maintenance.step, every_s=TICK_S),
            BackgroundLoop("ledger-work", self._maintenance.run_backlog, every_s=TICK_S),
            BackgroundLoop("ledger-indexes", self._maintenance.make_indexes, every_s=TICK_S),
        )

    def started_line(self, context: CallContext) -> bytes:
        """Returns what the journal gets of a call that was read, once it is admitted."""
        caller, call = context.caller, context.call
        assert caller is not None and call is not None  # noqa: S101, PT018 -- it was read
        started = (
            context.request_id, context.started_at, caller.key_id, caller.key_prefix, caller.tenant,
            caller.agent, caller.user, caller.session, caller.channel, context.client_request_id,
            call.endpoint, call.dialect, call.model, call.group, call.streaming, caller.run,
            ",".join(caller.tags) or None, caller.run_id,
        )  # fmt: skip
        line = encode(started)
        return line if len(line) <= STARTED_BYTES else encode_started(started, STARTED_BYTES)

    def call_started(self, context: CallContext, line: bytes) -> None:
        """Writes an admitted call to the journal, so that it is recorded as lost if this worker dies."""
        self._metrics.call_started()
        self._journal.begin(context.request_id, line)

    def call_finished(
        self, record: UsageRecord, overhead_ms: float | None = None, routing: RoutingInfo = NO_ROUTING
    ) -> None:
        """Queues the record of a finished call.

        Args:
            record: The record.
            overhead_ms: The gateway's own part of the time to the first byte; None if there was none.
            routing: The attempts at providers.
        """
        try:
            row = row_of(record)
            line = encode(row)
            journal_line = line if len(line) <= RECORD_BYTES else shorten(row, RECORD_BYTES)
        except Exception as error:  # noqa: BLE001 -- the call is counted without its record
            self._drop(record.request_id, error)
        else:
            self._writer.add(self._journal.complete(record.request_id, journal_line), row, line)
        attempt("finished-calls", self._count_call, record, overhead_ms)
        attempt("finished-calls", self._report_provider_failures, record, routing)
        if self._memory_usage is not None:
            attempt("finished-calls", self._memory_usage.add, record)

    def call_lost(self, request_id: UUID, error: Exception) -> None:
        """Counts a call that has ended and of which no record could be made."""
        self._metrics.call_ended()
        self._drop(request_id, error)

    def _drop(self, request_id: UUID, error: Exception) -> None:
        log.error("a record could not be taken", exc_info=error, extra={"request_id": str(request_id)})
        self._journal.abandon(request_id)
        self._metrics.increment("llm_proxy_ledger_dropped_total", "bug")

    def _count_call(self, record: UsageRecord, overhead_ms: float | None) -> None:
        self._metrics.call_finished(record)
        if overhead_ms is not None:
            self._metrics.observe("llm_proxy_overhead_seconds", overhead_ms / 1000, record.door)
        if record.queue_ms:
            self._metrics.observe("llm_proxy_queue_seconds", record.queue_ms / 1000)
        if record.outcome == "cut" and record.refusal_code in _OWN_FAULTS:
            self._metrics.increment("llm_proxy_failures_total", record.refusal_code, "yes")

    def request_rejected(self, context: CallContext | None, error: APIError) -> None:
        """Counts a request that was answered with an error; samples and logs it if it was never admitted."""
        self._metrics.request_rejected(error.metric_code)
        if error.origin == "gateway" and error.status >= 500 and error.status != HTTPStatus.NOT_IMPLEMENTED:
            admitted = context is not None and context.error is not None
            self._metrics.increment(
                "llm_proxy_failures_total", error.metric_code or "", "yes" if admitted else "no"
            )
        if context is None or context.error is not None:
            return
        caller = context.caller
        self._maintenance.count_rejection(context.request_id, caller, error)
        if self._samplers[caller is not None].accepts(time.time()):
            rejected = rejected_request(context, error)
            self._maintenance.rejected_sample.append(rejected)
            rejection_log.info("refused", extra={"lines": [rejected.as_log_fields()]})

    def keep_payload(self, payload: Payload) -> None:
        """Queues a call's payload; never waits; counts it as dropped if the queue is full."""
        if not self._maintenance.payloads.add(payload):
            self._metrics.increment("llm_proxy_payloads_dropped_total", "queue_full")

    async def start(self) -> None:
        """Recovers dead workers' files, migrates the schema if Postgres answers, and starts the loops."""
        await self._maintenance.start()
        for loop in (self._writing, *self._other_loops):
            loop.start()

    async def stop(self) -> None:
        """Stops the loops and writes the queue to Postgres or the spool, within a few seconds."""
        self._writer.finish()
        for loop in self._other_loops:
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
        spool = self._spool
        work = self._store.migration.work if self._store is not None else None
        return LedgerState(
            postgres="off" if self._store is None else self._writer.state,
            since_s=self._writer.since_s,
            queued=self._writer.queued,
            spool_records=spool.records if spool else 0,
            spool_bytes=spool.size_bytes if spool else 0,
            work=str(work or ""),
            why="" if self._store is None else self._writer.why,
        )

    def _report_provider_failures(self, record: UsageRecord, routing: RoutingInfo) -> None:
        """Counts and logs a fallback, and deployments whose providers rejected the gateway's credentials.

        They are reported whichever attempt answered in the end, without any text of a provider.
        """
        if routing.fallback_from is not None:
            self._metrics.call_fell_back(routing.fallback_from, record.group)
        rejecting = {hop.deployment for hop in routing.hops or () if hop.auth_rejected}
        if record.refusal_code == "provider_auth" and not rejecting:
            rejecting = {record.deployment or "unknown"}
        for deployment in sorted(rejecting):
            self._metrics.increment("llm_proxy_provider_auth_failures_total", deployment)
            if self.on_provider_auth_failure is not None:
                self.on_provider_auth_failure(deployment, record.group_asked or record.group)
            log.error(
                "a provider rejected the credentials of this installation",
                extra={
                    "request_id": str(record.request_id),
                    "deployment": deployment,
                    "group_asked": record.group_asked,
                    "group": record.group,
                    "answered": record.outcome == "ok",
                },
            )
