"""The composition root: settings in, a running gateway out; the one place that names every concrete piece.

Invariants: started in the order of the imports, stopped in reverse; a store that is configured but away
does not stop the start; nothing here is on a request's way.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
from fastapi import APIRouter, Depends, FastAPI

from llm_proxy import __version__, background
from llm_proxy.admission import AdmissionController, LimitStatus, PolicyDefaults, current_limits
from llm_proxy.admission.redis.backend import require_noeviction
from llm_proxy.background import BackgroundLoop
from llm_proxy.edge import management_app
from llm_proxy.edge.auth import AuthDependencies, AuthFailureReporter
from llm_proxy.edge.dispatcher import Dispatcher, with_cors
from llm_proxy.edge.inference import InferenceEndpoint, RequestReader, request_limits
from llm_proxy.edge.request import ClientAddress, Scope
from llm_proxy.edge.routes import (
    audit,
    health,
    keys,
    limits,
    models,
    notifications,
    policies,
    simulation,
    stored_data,
    usage,
)
from llm_proxy.edge.routes.audit import RejectedActionLog
from llm_proxy.edge.routes.health import HealthChecks, HealthReport
from llm_proxy.edge.routes.limits import KeyStatus
from llm_proxy.edge.routes.models import ModelProbe
from llm_proxy.edge.routes.notifications import webhook_delivery
from llm_proxy.errors import APIError, NotFound
from llm_proxy.identity import (
    AccessPolicy,
    AdminKeyRepository,
    AuditLog,
    Authenticator,
    AuthFailureLog,
    Caller,
    InternalKeys,
    KeyCache,
    KeyRaiseRepository,
    KeyRepository,
    PolicyRepository,
    PolicyWatcher,
    PostgresKeyStore,
    agents_loop,
    audit_retention_loop,
    audited_external_change,
    keys_file_loop,
    raise_expiry_loop,
    record_rejected_action,
)
from llm_proxy.ledger import (
    CallHistoryReader,
    CallObservers,
    Erasures,
    ErasureTargets,
    LangfuseClient,
    Ledger,
    LedgerSpend,
    LedgerStore,
    MemoryUsage,
    PostgresUsage,
)
from llm_proxy.ledger.worker_slot import WorkerSlot, acquire_slot
from llm_proxy.notify import Notifier, NotifierSources, Outbox, webhooks_from_settings
from llm_proxy.pipeline import Services, Upstream
from llm_proxy.settings import Settings
from llm_proxy.telemetry import Metrics, WorkerMetricsFiles, setup_logging
from llm_proxy.telemetry.privacy import PayloadPolicy
from llm_proxy.telemetry.tracing import Tracer
from llm_proxy.upstream import CachePurge, CurrentCatalog, RunningCalls, SidecarClient, timeout_policy
from llm_proxy.upstream.client import purge_cache
from llm_proxy.upstream.litellm_protocol import LiteLLMControls
from llm_proxy.upstream.mock.upstream import MockUpstream
from llm_proxy.upstream.monitor import SidecarMonitor
from llm_proxy.upstream.pool import SidecarPool, SlotQueue

log = logging.getLogger(__name__)

POOL_SIZE = 8
REPORTS_SIZE = 2
"""Connections for questions about usage: however many ask and wait, nobody else waits with them."""
CONNECT_S = 5
COMMAND_S = 30
CLOSE_S = 1
ERASE_AGAIN_S = 600.0


class Gateway:
    """One gateway process: its ASGI application and the switches its server holds."""

    def __init__(self, settings: Settings, files: WorkerMetricsFiles | None = None) -> None:
        """Build every object. `files`: this worker's of several, for their metrics."""
        self.settings = settings
        self.draining = False
        self._failures: dict[str, int] = {}
        self._seat = _seat(settings)
        self.metrics = Metrics(settings.metrics_tags, files)
        kept = PayloadPolicy(settings.log_payloads)
        real = settings.llm_mode != "mock"
        self._pool, self._reports = _pool(settings), _pool(settings, REPORTS_SIZE)
        keys = KeyCache(PostgresKeyStore(self._pool)) if self._pool else None
        watcher = PolicyWatcher(keys)
        self._catalog = _catalog(settings, self.metrics)
        access = AccessPolicy(watcher, self._catalog, settings.default_models)
        self._client = _client(settings, self.metrics, self._catalog, access, kept) if real else None
        self.upstream: Upstream = self._client or MockUpstream(self._catalog, settings.default_model)
        usage_of = PostgresUsage(self._reports) if self._reports else None
        remembered = MemoryUsage() if settings.llm_mode == "mock" else None
        self.ledger = _ledger(settings, self._pool, self.metrics, self._seat, remembered)
        self.admission = AdmissionController(
            settings,
            watcher,
            access,
            prices=self._catalog,
            spend_source=LedgerSpend(self._pool, self.ledger) if self._pool else None,
            refresh_caller=keys.refresh if keys else None,
            observe=self._store_asked,
        )
        self.watches = RunningCalls()
        self._client_ip = ClientAddress(settings.trusted_proxies)
        self._refusals = _refused_credentials(self._pool, settings)
        self._suspects = AuthFailureReporter(self._refusals, self._client_ip)
        identity = Authenticator(InternalKeys(_internal(settings)), keys)
        self._notifier = self._notifications()
        self._tracer = Tracer(settings.otlp_endpoint, self.metrics) if settings.otlp_endpoint else None
        observers = _observers(self._tracer, kept, self.ledger)
        stages = identity, self.admission, self.upstream, self._catalog, self.ledger
        services = Services(*stages, self.watches, observers)
        reader = RequestReader(identity, request_limits(settings), self._catalog)
        keeper = _doorkeeper(settings, identity, self._pool, self._client_ip)
        answering = usage.router(usage_of or remembered, keeper, self._standings)
        routers = [answering, *self._routers(keeper, reader, usage_of or remembered, ModelProbe(services))]
        rest_of_it = self._management(routers, keeper)
        self.routes = tuple(rest_of_it.state.routes)
        front = Dispatcher(InferenceEndpoint(services, reader, self._suspects), rest_of_it, reader.limits)
        self.asgi = with_cors(front, settings.cors_origins)

    def _management(self, routers: list[APIRouter], keeper: AuthDependencies) -> FastAPI:
        """The application of every route that is no inference route."""
        return management_app.create_management_app(
            routers,
            version=self.settings.version or __version__,
            lifespan=self._lifespan,
            on_error=self._refused,
            openapi_access=keeper.caller_or_admin,
            record_rejection=RejectedActionLog(
                partial(record_rejected_action, self._pool) if self._pool else None, keeper
            ).record,
        )

    def _notifications(self) -> Notifier | None:
        """What notifies operators; None where no webhook is set."""
        pool, client, settings = self._pool, self._client, self.settings
        if pool is None or client is None or not settings.webhooks:
            return None
        watched = NotifierSources(
            self.admission.watch_spending(),
            lambda: {one.url: one.is_live and one.successes > 0 for one in client.pool.sidecars},
            settings.notify_budget_shares,
            settings.notify_sidecar_away_s,
        )
        webhooks = webhooks_from_settings(settings.webhooks)
        notifier = Notifier(Outbox(pool), webhooks, webhook_delivery(settings), watched, self.metrics)
        self.ledger.on_provider_auth_failure = notifier.provider_rejected_credentials
        return notifier

    def _routers(
        self,
        keeper: AuthDependencies,
        reader: RequestReader,
        usage_of: PostgresUsage | MemoryUsage | None,
        trial: ModelProbe,
    ) -> list[APIRouter]:
        """Every door that is not hot."""
        settings, pool = self.settings, self._pool
        parts = HealthChecks(
            self._client,
            self.admission,
            self.ledger,
            spools=self._seat is not None or self._client is None,
            draining=lambda: self.draining,
        )
        self._health = HealthReport(parts, settings.version or __version__, settings.llm_mode)
        registry, rulings = (KeyRepository(pool), PolicyRepository(pool)) if pool else (None, None)
        status = KeyStatus(self.admission, registry, rulings)
        of_key = status.key_dependency(keeper.require_admin)
        record = partial(audited_external_change, pool) if pool else None
        self._erasures = Erasures(pool, self._places()) if pool else None
        publish, require_actor = self.admission.publish_epochs, keeper.require_actor

        return [
            health.router(self._health, keeper),
            models.router(self._catalog, keeper, settings.default_models),
            limits.router(
                self.admission, caller=keeper.require_caller, of_key=of_key, read=reader.read_explain_request
            ),
            health.metrics_router(self.metrics, keeper),
            stored_data.payloads_router(usage_of if isinstance(usage_of, PostgresUsage) else None, keeper),
            models.admin_router(self._catalog, usage_of, trial, record=record, require_actor=require_actor),
            keys.router(
                registry,
                KeyRaiseRepository(pool) if pool else None,
                publish=publish,
                require_actor=require_actor,
                status=status,
            ),
            policies.router(rulings, publish=publish, require_actor=require_actor, catalog=self._catalog),
            simulation.router(self._present(registry, rulings), require_actor=require_actor),
            audit.router(AuditLog(pool) if pool else None, self._refusals, require_actor=require_actor),
            keys.admin_keys_router(AdminKeyRepository(pool) if pool else None, require_actor=require_actor),
            stored_data.erasures_router(self._erasures, require_actor=Depends(require_actor)),
            stored_data.cache_router(self._purge, record, Depends(require_actor)),
            notifications.router(Outbox(pool) if pool else None, require_actor=require_actor),
        ]

    def _present(
        self, registry: KeyRepository | None, rulings: PolicyRepository | None
    ) -> simulation.SimulationSources | None:
        """How things stand, for simulations; None without a database."""
        if self._reports is None or self._pool is None or registry is None or rulings is None:
            return None
        return simulation.SimulationSources(
            CallHistoryReader(self._reports),
            PostgresKeyStore(self._pool),
            registry,
            rulings,
            self._catalog,
            PolicyDefaults.from_settings(self.settings),
            self.settings.default_models,
        )

    async def _purge(self, tenant: str | None, model: str | None) -> CachePurge:
        if self._client is None:
            raise NotFound("There is no response cache that can be purged.", code="no_cache")
        return await purge_cache(self._client, tenant, model)

    def _places(self) -> ErasureTargets:
        return ErasureTargets(
            purge_cache=self._purge,
            langfuse=_langfuse(self.settings),
            reports_to_callbacks=self._catalog.has_langfuse,
            worker_directory=self.settings.spool_dir if self._seat else None,
        )

    def drain(self) -> None:
        """From now on not ready; calls are still served."""
        self.draining = True
        log.info("draining", extra={"in_flight": len(self.watches)})

    def interrupt_all(self) -> None:
        """End what still runs, each with an error event."""
        running = self.watches.interrupt_all("drain")
        if running:
            log.warning("running calls were ended by the drain's limit", extra={"calls": running})

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncGenerator[None]:
        async with AsyncExitStack() as started:
            self.metrics.add_sampler(self._sample)
            self.watches.start()
            started.callback(self.watches.stop)
            started.callback(self._leave)
            for pool in (self._pool, self._reports):
                if pool is not None:
                    await pool
                    started.push_async_callback(_close, pool)
            if self.settings.environment == "production" and self.settings.limits_redis_url is not None:
                limits = self.settings.limits_redis_url
                await require_noeviction(limits.get_secret_value(), tls=self.settings.tls_for(limits))
            await self.ledger.start()
            started.push_async_callback(self.ledger.stop)
            await self.admission.start()
            started.push_async_callback(self.admission.stop)
            if self._tracer is not None:
                started.push_async_callback(self._tracer.stop)
            if self._pool is not None:
                self._beside(started, self._pool)
            if self._refusals is not None:
                await self._refusals.start()
                started.push_async_callback(self._refusals.stop)
            if self._client is not None:
                started.callback(self._client.stop)
                keeper = SidecarMonitor(self._client, self.settings.litellm_proxy_url, self.metrics)
                await keeper.start()
                started.push_async_callback(keeper.stop)
            if self._notifier is not None:
                await self._notifier.start()
                started.push_async_callback(self._notifier.stop)
            log.info("the gateway is up", extra={"version": __version__, "mode": self.settings.llm_mode})
            yield

    def _beside(self, started: AsyncExitStack, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """What is kept up beside the calls while there is a database."""
        loops = [
            agents_loop(pool, self.metrics.set_agents),
            raise_expiry_loop(pool, self.admission.publish_epochs),
        ]
        if self._erasures is not None:
            loops.append(BackgroundLoop("erasures", self._erasures.step, every_s=ERASE_AGAIN_S, at_once=True))
        if self.settings.keys_file is not None:
            loops.append(keys_file_loop(self.settings.keys_file, pool))
        if self.settings.audit_retention_days is not None:
            loops.append(audit_retention_loop(pool, self.settings.audit_retention_days))
        for loop in loops:
            loop.start()
            started.push_async_callback(loop.stop)

    async def _standings(self, caller: Caller) -> Iterable[LimitStatus]:
        return (await current_limits(self.admission, caller)).limit_statuses

    def _leave(self) -> None:
        if self._seat is not None:
            self._seat.release()

    def _refused(self, scope: Scope, refused: APIError) -> None:
        self.metrics.request_rejected(refused.metric_code)
        self._suspects.report(scope, refused)

    def _store_asked(self, seconds: float, answered: bool) -> None:  # noqa: FBT001 -- admission's signature
        self.metrics.observe("llm_proxy_store_seconds", seconds, "limits")
        if not answered:
            self.metrics.increment("llm_proxy_store_failures_total", "limits")

    def _sample(self) -> None:
        """What nobody counts on a call's way, once a second."""
        for name, failed in background.failure_counts().items():
            self.metrics.increment(
                "llm_proxy_background_failures_total", name, by=failed - self._failures.get(name, 0)
            )
            self._failures[name] = failed
        self._health.observe()
        self.metrics.set_gauge("llm_proxy_draining", float(self.draining))
        self.metrics.set_gauge("llm_proxy_store_up", float(self.admission.state().store != "away"), "limits")


def create_app(settings: Settings, files: WorkerMetricsFiles | None = None) -> Gateway:
    """A gateway with these settings; its `asgi` is what a server runs."""
    keys = (
        settings.admin_key,
        settings.admin_read_key,
        settings.litellm_api_key,
        settings.langfuse_secret_key,
        settings.notify_secret,
    )
    secrets = [
        *_internal(settings),
        *(url for _, url in settings.webhooks),
        *(text for key in keys for text in _texts(key)),
    ]
    setup_logging(settings.log_level, secrets=secrets)
    return Gateway(settings, files)


def _catalog(settings: Settings, metrics: Metrics) -> CurrentCatalog:
    return CurrentCatalog(
        settings.default_model,
        default_chosen="default_model" in settings.model_fields_set,
        default_models=settings.default_models,
        metrics=metrics,
    )


def _client(
    settings: Settings,
    metrics: Metrics,
    catalog: CurrentCatalog,
    access: AccessPolicy,
    kept: PayloadPolicy,
) -> SidecarClient:
    pool = SidecarPool(settings.litellm_proxy_url, max_in_flight=settings.max_in_flight)
    key = settings.litellm_api_key.get_secret_value() if settings.litellm_api_key else None
    caching, groups = settings.cache_mode == "on", settings.default_models
    controls = LiteLLMControls(caching, settings.cache_streams, groups, access, kept)
    queue = SlotQueue(pool, queue_s=settings.queue_timeout_ms / 1000, max_waiting=settings.max_waiting)
    broke = partial(metrics.increment, "llm_proxy_upstream_failures_total")
    tls = settings.tls_for(settings.litellm_proxy_url[0])
    timeouts = timeout_policy(settings)
    return SidecarClient(queue, key, timeouts, controls, catalog, on_failure=broke, tls=tls)


def _ledger(
    settings: Settings,
    pool: "asyncpg.Pool[asyncpg.Record] | None",
    metrics: Metrics,
    slot: WorkerSlot | None,
    memory_usage: MemoryUsage | None,
) -> Ledger:
    store, most = _store(pool, settings), settings.spool_max_bytes
    return Ledger(store, metrics, slot=slot, spool_max_bytes=most, memory_usage=memory_usage)


def _observers(tracer: Tracer | None, policy: PayloadPolicy, ledger: Ledger) -> CallObservers | None:
    return CallObservers(tracer, policy, ledger.keep_payload) if tracer is not None or policy else None


def _langfuse(settings: Settings) -> LangfuseClient | None:
    url, public, secret = settings.langfuse_url, settings.langfuse_public_key, settings.langfuse_secret_key
    return LangfuseClient(url, public, secret.get_secret_value()) if url and public and secret else None


def _doorkeeper(
    settings: Settings,
    identity: Authenticator,
    pool: "asyncpg.Pool[asyncpg.Record] | None",
    client_ip: ClientAddress,
) -> AuthDependencies:
    return AuthDependencies(
        identity,
        write_keys=_texts(settings.admin_key),
        read_keys=_texts(settings.admin_read_key),
        max_header_bytes=settings.max_header_bytes,
        admin_keys=AdminKeyRepository(pool) if pool is not None else None,
        client_ip=client_ip,
    )


def _seat(settings: Settings) -> WorkerSlot | None:
    if settings.llm_mode == "mock":
        return None  # a mock's calls are nobody's to pay: they must not lie where a real gateway finds them
    try:
        return acquire_slot(settings.spool_dir)
    except OSError as denied:
        log.warning(
            "the spool's folder cannot be used: records wait in memory", extra={"cause": denied.strerror}
        )
        return None


def _pool(settings: Settings, size: int = POOL_SIZE) -> "asyncpg.Pool[asyncpg.Record] | None":
    if settings.database_url is None or settings.llm_mode == "mock":
        return None
    dsn, tls = settings.database_url.get_secret_value(), settings.tls_for(settings.database_url)
    return asyncpg.create_pool(
        dsn, min_size=0, max_size=size, timeout=CONNECT_S, command_timeout=COMMAND_S, ssl=tls
    )


async def _close(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Close connections that are given back; cut the rest after `CLOSE_S`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await pool.close()
    pool.terminate()


def _store(pool: "asyncpg.Pool[asyncpg.Record] | None", settings: Settings) -> LedgerStore | None:
    if pool is None:
        return None
    days, payload_days = settings.requests_retention_days, settings.payloads_retention_days
    return LedgerStore(pool, retention_days=days, payload_days=payload_days)


def _refused_credentials(
    pool: "asyncpg.Pool[asyncpg.Record] | None", settings: Settings
) -> AuthFailureLog | None:
    days = settings.refused_credentials_retention_days
    return AuthFailureLog(pool, retention_days=days) if pool is not None else None


def _internal(settings: Settings) -> tuple[str, ...]:
    own = _texts(settings.litellm_api_key) if settings.master_key_is_internal else ()
    return (*settings.internal_keys, *own)


def _texts(secret: Any) -> tuple[str, ...]:  # noqa: ANN401 -- a SecretStr or nothing
    return (secret.get_secret_value(),) if secret is not None else ()
