"""One gateway process: its ASGI application, what runs beside the calls, and the switches its server holds.

Invariants: started in the order of the imports, stopped in reverse; a store that is configured and
unreachable does not stop the start; nothing here is on a call's way.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from llm_proxy import __version__, background
from llm_proxy.admission.redis.backend import EvictionEnabled, require_noeviction
from llm_proxy.admission.redis.sightings import StoredSightings
from llm_proxy.app.routes import build_counting_routers, build_erasures, build_routers
from llm_proxy.app.stages import Stages, build_stages, secret_text
from llm_proxy.app.store_readings import store_readings_loop
from llm_proxy.background import BackgroundLoop
from llm_proxy.dialects.dialect import CountingDialect
from llm_proxy.dialects.messages.dialect import MessagesDialect
from llm_proxy.dialects.responses import responses_dialect
from llm_proxy.dialects.routes import RouteTable, inference_routes
from llm_proxy.edge.dispatcher import Dispatcher, with_cors
from llm_proxy.edge.inference import InferenceEndpoint, RequestReader, request_limits
from llm_proxy.edge.management_app import create_management_app
from llm_proxy.edge.request import Scope
from llm_proxy.edge.routes.audit import RejectedActionLog
from llm_proxy.edge.routes.configuration import ReloadControl
from llm_proxy.edge.routes.health import HealthChecks, HealthReport
from llm_proxy.edge.routes.notifications import webhook_delivery
from llm_proxy.edge.stored_calls import StoredCalls
from llm_proxy.errors import APIError
from llm_proxy.identity import (
    agents_loop,
    audit_retention_loop,
    keys_file_loop,
    raise_expiry_loop,
    record_rejected_action,
)
from llm_proxy.notify import Notifier, NotifierSources, Outbox, webhooks_from_settings
from llm_proxy.schema.connections import close_pool
from llm_proxy.settings import Settings, several
from llm_proxy.telemetry import Metrics, WorkerMetricsFiles, setup_logging
from llm_proxy.uploads import UploadSpace
from llm_proxy.upstream.monitor import SidecarMonitor

log = logging.getLogger(__name__)

ERASURES_RETRY_S = 600.0


def _upload_space(settings: Settings) -> UploadSpace:
    space = UploadSpace(settings.spool_dir / "uploads", settings.uploads_max_bytes)
    space.remove_leftovers()
    return space


class Gateway:
    """One gateway process.

    Attributes:
        asgi: The application a server runs.
        routes: The management routes.
        start_fault: Why it could not start; None while it can.
    """

    def __init__(
        self,
        settings: Settings,
        files: WorkerMetricsFiles | None = None,
        launcher: ReloadControl | None = None,
    ) -> None:
        """Builds every object.

        Args:
            settings: Of the gateway.
            files: This worker's of several, for their metrics.
            launcher: Of the stack it belongs to; None for a gateway that was started alone.
        """
        self.settings = settings
        self.start_fault: str | None = None
        self.metrics = Metrics(settings.metrics_tags, files)
        self._failures: dict[str, int] = {}
        self._old_uses: dict[str, int] = {}
        self._launcher = launcher
        self._stages = stages = build_stages(settings, self.metrics)
        self._calls = stages.services.running_calls
        self._notifier = _notifier(stages)
        self._erasures = build_erasures(stages)
        self._report = _health_report(stages)
        messages = MessagesDialect(betas=frozenset(settings.anthropic_betas))
        responses = responses_dialect(stages.sealer)
        routes = inference_routes(responses, messages)
        limits = request_limits(settings, stages.catalog.stated_timeouts)
        reader = RequestReader(routes, stages.authenticator, limits, stages.catalog)
        management = self._management_app(routes, reader, responses)
        self.routes = tuple(management.state.routes)
        inference = InferenceEndpoint(
            stages.services,
            reader,
            stages.failure_reporter,
            StoredCalls(stages.stored, responses.ids),
            _upload_space(settings),
            stages.idempotent,
        )
        self.asgi = with_cors(Dispatcher(routes, inference, management, reader.limits), settings.cors_origins)

    def drain(self) -> None:
        """Reports not ready from now on; calls are still served."""
        self._calls.draining = True
        log.info("draining", extra={"in_flight": len(self._calls)})

    def interrupt_all(self) -> None:
        """Ends every running call with an error event."""
        running = self._calls.interrupt_all("drain")
        if running:
            log.warning("running calls were ended by the drain's limit", extra={"calls": running})

    def _management_app(
        self, routes: RouteTable, reader: RequestReader, responses: CountingDialect
    ) -> FastAPI:
        stages = self._stages
        record = partial(record_rejected_action, stages.database.pool) if stages.database else None
        return create_management_app(
            [
                *build_routers(stages, reader, self._report, self._erasures, self._launcher),
                *build_counting_routers(stages, reader, responses),
            ],
            inference=routes,
            version=self.settings.version or __version__,
            lifespan=self._lifespan,
            on_error=self._count_error,
            openapi_access=stages.auth.caller_or_admin,
            record_rejection=RejectedActionLog(record, stages.auth).record,
        )

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as started:
            try:
                await self._start(started)
            except Exception as fault:
                self.start_fault = str(fault) or type(fault).__name__
                raise
            log.info("the gateway is up", extra={"version": __version__, "mode": self.settings.llm_mode})
            yield

    async def _start(self, started: AsyncExitStack) -> None:
        """Starts what runs beside the calls; `started` stops it in reverse."""
        stages, services = self._stages, self._stages.services
        self.metrics.add_sampler(self._sample)
        services.running_calls.start()
        started.callback(services.running_calls.stop)
        if stages.worker_slot is not None:
            started.callback(stages.worker_slot.release)
        if stages.database is not None:
            for pool in {stages.database.pool, stages.database.reports}:
                await pool
                started.push_async_callback(close_pool, pool)
        await self._check_eviction()
        await services.ledger.start()
        started.push_async_callback(services.ledger.stop)
        await services.admission.start()
        started.push_async_callback(services.admission.stop)
        await self._watch_database(started)
        await stages.call_board.start()
        started.push_async_callback(stages.call_board.stop)
        if stages.idempotent is not None:
            await stages.idempotent.start()
            started.push_async_callback(stages.idempotent.stop)
        if stages.tracer is not None:
            started.push_async_callback(stages.tracer.stop)
        for loop in self._loops():
            loop.start()
            started.push_async_callback(loop.stop)
        if stages.auth_failures is not None:
            await stages.auth_failures.start()
            started.push_async_callback(stages.auth_failures.stop)
        if stages.client is not None:
            started.callback(stages.client.stop)
            monitor = SidecarMonitor(stages.client, self.settings.litellm_proxy_url, self.metrics)
            await monitor.start()
            started.push_async_callback(monitor.stop)
        if self._notifier is not None:
            await self._notifier.start()
            started.push_async_callback(self._notifier.stop)

    async def _watch_database(self, started: AsyncExitStack) -> None:
        """Looks whether the database was restored, before the first call and then beside the calls."""
        database = self._stages.database
        if database is None:
            return
        shared = self._stages.services.admission.shared_store
        on_change = self._erasures.step if self._erasures is not None else None
        await database.watch.start(
            database.pool,
            StoredSightings(shared) if shared else None,
            on_change,
            before_admitting=self._stages.policies.read_again,
            on_epoch=self._stages.policies.confirm,
        )
        started.push_async_callback(database.watch.stop)

    async def _check_eviction(self) -> None:
        """Refuses a limits store that evicts, in development with a warning only."""
        limits = self.settings.limits_redis_url
        if limits is None:
            return
        try:
            await require_noeviction(limits.get_secret_value(), tls=self.settings.tls_for(limits))
        except EvictionEnabled as fault:
            if self.settings.environment == "production":
                raise
            log.warning("the limits store may evict limits and budgets", extra={"cause": str(fault)})

    def _loops(self) -> list[BackgroundLoop]:
        """What runs beside the calls, most of it while there is a database."""
        readings = store_readings_loop(self._stages)
        loops = [] if readings is None else [readings]
        if self._stages.database is None:
            return loops
        settings, pool = self.settings, self._stages.database.pool
        loops += [
            agents_loop(pool, self.metrics.set_agents),
            raise_expiry_loop(
                pool,
                self._stages.services.admission.publish_epochs,
                lambda: self._stages.policies.snapshot.newest_epoch,
            ),
        ]
        if self._erasures is not None:
            step = self._erasures.step
            loops.append(BackgroundLoop("erasures", step, every_s=ERASURES_RETRY_S, at_once=True))
        if settings.keys_file is not None:
            loops.append(keys_file_loop(settings.keys_file, pool))
        if settings.audit_retention_days is not None:
            loops.append(audit_retention_loop(pool, settings.audit_retention_days))
        return loops

    def _count_error(self, scope: Scope, error: APIError) -> None:
        self.metrics.request_rejected(error.metric_code)
        self._stages.failure_reporter.report(scope, error)

    def _sample(self) -> None:
        """Updates the gauges and counters that no call updates, once a second."""
        for name, failed in background.failure_counts().items():
            self.metrics.increment(
                "llm_proxy_background_failures_total", name, by=failed - self._failures.get(name, 0)
            )
            self._failures[name] = failed
        for setting, uses in self._stages.old_secrets.counts.items():
            self.metrics.increment(
                "llm_proxy_old_secret_uses_total", setting, by=uses - self._old_uses.get(setting, 0)
            )
            self._old_uses[setting] = uses
        self._report.observe()
        self.metrics.set_gauge("llm_proxy_draining", float(self._calls.draining))
        up = self._stages.services.admission.state().store != "away"
        self.metrics.set_gauge("llm_proxy_store_up", float(up), "limits")
        if (answers := self._stages.answers) is not None:
            self.metrics.set_gauge("llm_proxy_store_up", float(answers.store.is_available), "answers")


def create_app(
    settings: Settings, files: WorkerMetricsFiles | None = None, launcher: ReloadControl | None = None
) -> Gateway:
    """Returns a gateway with these settings; its `asgi` is what a server runs."""
    secrets = (settings.langfuse_secret_key, settings.otlp_headers)
    hidden = [
        *settings.internal_keys,
        *settings.admin_keys,
        *settings.admin_read_keys,
        *settings.sidecar_keys,
        *several(settings.notify_secret),
        *(one.partition("=")[2] for one in several(settings.sealing_keys)),
        *(url for _, url in settings.webhooks),
        *(text for secret in secrets for text in secret_text(secret)),
    ]
    setup_logging(settings.log_level, secrets=hidden)
    return Gateway(settings, files, launcher)


def _health_report(stages: Stages) -> HealthReport:
    checks = HealthChecks(
        stages.client,
        stages.services.admission,
        stages.services.ledger,
        stages.services.running_calls,
        spools=stages.worker_slot is not None or stages.client is None,
        gate=stages.database.watch.gate if stages.database else None,
    )
    return HealthReport(checks, stages.settings.version or __version__, stages.settings.llm_mode)


def _notifier(stages: Stages) -> Notifier | None:
    """Returns what notifies operators; None where no webhook is set."""
    settings = stages.settings
    if stages.database is None or stages.client is None or not settings.webhooks:
        return None
    sources = NotifierSources(
        stages.services.admission.watch_spending(),
        stages.client.pool.liveness,
        settings.notify_budget_shares,
        settings.notify_sidecar_away_s,
    )
    outbox, webhooks = Outbox(stages.database.pool), webhooks_from_settings(settings.webhooks)
    notifier = Notifier(outbox, webhooks, webhook_delivery(settings), sources, stages.metrics)
    stages.services.ledger.on_provider_auth_failure = notifier.provider_rejected_credentials
    return notifier
