"""The composition root: settings in, a running gateway out; the one place that names every concrete piece.

Invariants: started in the order of the imports, stopped in reverse; a store that is configured but away
does not stop the start; nothing here is on a request's way.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
from fastapi import APIRouter, Depends, FastAPI

from llm_proxy import __version__, background
from llm_proxy.admission import Admission, Defaults, Standing, refuse_evicting, standing_of
from llm_proxy.background import Loop
from llm_proxy.edge import management_app
from llm_proxy.edge.auth import Doorkeeper, Suspects
from llm_proxy.edge.current_catalog import KnownModels
from llm_proxy.edge.dispatcher import Front, with_cors
from llm_proxy.edge.inference import Intake, Serve, limits_of
from llm_proxy.edge.request import ClientIp, Scope
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
from llm_proxy.edge.routes.audit import RefusedActions
from llm_proxy.edge.routes.health import Health, Parts
from llm_proxy.edge.routes.limits import KeyStanding
from llm_proxy.edge.routes.models import Trial
from llm_proxy.edge.routes.notifications import delivery_of
from llm_proxy.errors import NotFound, Refused
from llm_proxy.identity import (
    AdminKeys,
    AuditLog,
    Caller,
    Identity,
    InternalSecrets,
    PostgresKeys,
    Raises,
    RefusedCredentials,
    Registry,
    Rulings,
    VirtualKeys,
    applying,
    ending_raises,
    knowing_agents,
    note_refusal,
    on_record,
    retiring_audit_months,
)
from llm_proxy.ledger import (
    Erasures,
    Histories,
    Langfuse,
    Ledger,
    Places,
    Remembered,
    Spent,
    Store,
    Usage,
    Witnesses,
)
from llm_proxy.ledger.worker_slot import Seat, take
from llm_proxy.notify import Notifier, Outbox, Watched, webhooks_of
from llm_proxy.pipeline import Stages, Upstream
from llm_proxy.settings import Settings
from llm_proxy.telemetry import Metrics, WorkerFiles, setup_logging
from llm_proxy.telemetry.privacy import KeptText
from llm_proxy.telemetry.tracing import Tracer
from llm_proxy.upstream import (
    Catalog,
    Client,
    Controls,
    Keeper,
    MockUpstream,
    Pool,
    Purged,
    Room,
    Watches,
    deadlines,
    purge,
)

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

    def __init__(self, settings: Settings, files: WorkerFiles | None = None) -> None:
        """Build every object. `files`: this worker's of several, for their metrics."""
        self.settings = settings
        self.draining = False
        self._failures: dict[str, int] = {}
        self._seat = _seat(settings)
        self.metrics = Metrics(settings.metrics_tags, files)
        kept = KeptText(settings.log_payloads)
        real = settings.llm_mode != "mock"
        self._client = _client(settings, self.metrics, self._stopped, kept) if real else None
        self.upstream: Upstream = self._client or MockUpstream(settings.default_model)
        self._known = KnownModels(self.upstream, settings, self.metrics)
        self._pool, self._reports = _pool(settings), _pool(settings, REPORTS_SIZE)
        usage_of = Usage(self._reports) if self._reports else None
        remembered = Remembered() if settings.llm_mode == "mock" else None
        keys = VirtualKeys(PostgresKeys(self._pool)) if self._pool else None
        store, most = _store(self._pool, settings), settings.spool_max_bytes
        self.ledger = Ledger(
            store, self.metrics, seat=self._seat, spool_max_bytes=most, remembered=remembered
        )
        self.admission = Admission(
            settings,
            prices=self._known,
            spent=Spent(self._pool, self.ledger) if self._pool else None,
            rules=keys,
            renew=keys.renew if keys else None,
            observed=self._store_asked,
        )
        self.watches = Watches()
        self._client_ip = ClientIp(settings.trusted_proxies)
        self._refusals = _refused_credentials(self._pool, settings)
        self._suspects = Suspects(self._refusals, self._client_ip)
        identity = Identity(InternalSecrets(_internal(settings)), keys)
        self._notifier = self._notifications()
        self._tracer = Tracer(settings.otlp_endpoint, self.metrics) if settings.otlp_endpoint else None
        told = self._tracer is not None or kept
        witnesses = Witnesses(self._tracer, kept, self.ledger.payload) if told else None
        stages = Stages(identity, self.admission, self.upstream, self.ledger, self.watches, witnesses)
        intake = Intake(identity, limits_of(settings), self._known)
        keeper = _doorkeeper(settings, identity, self._pool, self._client_ip)
        answering = usage.router(usage_of or remembered, keeper, self._standings)
        routers = [answering, *self._routers(keeper, intake, usage_of, Trial(stages))]
        routers.append(notifications.router(Outbox(self._pool) if self._pool else None, by=keeper.actor))
        rest_of_it = self._management(routers, keeper)
        self.routes = tuple(rest_of_it.state.routes)
        front = Front(Serve(stages, intake, self._suspects), rest_of_it, intake.limits)
        self.asgi = with_cors(front, settings.cors_origins)

    def _management(self, routers: list[APIRouter], keeper: Doorkeeper) -> FastAPI:
        """The application of every route that is no inference route."""
        return management_app.build(
            routers,
            version=self.settings.version or __version__,
            lifespan=self._lifespan,
            refused=self._refused,
            reader=keeper.anybody,
            record=RefusedActions(partial(note_refusal, self._pool) if self._pool else None, keeper).note,
        )

    def _notifications(self) -> Notifier | None:
        """What notifies operators; None where no webhook is set."""
        pool, client, settings = self._pool, self._client, self.settings
        if pool is None or client is None or not settings.webhooks:
            return None
        watched = Watched(
            self.admission.watch_spending(),
            lambda: {one.url: one.live and one.served > 0 for one in client.pool.sidecars},
            settings.notify_budget_shares,
            settings.notify_sidecar_away_s,
        )
        webhooks = webhooks_of(settings.webhooks)
        notifier = Notifier(Outbox(pool), webhooks, delivery_of(settings), watched, self.metrics)
        self.ledger.refused_by_provider = notifier.refused_by_provider
        return notifier

    def _routers(
        self, keeper: Doorkeeper, intake: Intake, usage_of: Usage | None, trial: Trial
    ) -> list[APIRouter]:
        """Every door that is not hot."""
        settings, pool = self.settings, self._pool
        parts = Parts(
            self._client,
            self.admission,
            self.ledger,
            spools=self._seat is not None or self._client is None,
            draining=lambda: self.draining,
        )
        self._health = Health(parts, settings.version or __version__, settings.llm_mode)
        registry, rulings = (Registry(pool), Rulings(pool)) if pool else (None, None)
        standing = KeyStanding(self.admission, registry, rulings)
        of_key = standing.asked_by(keeper.admin)
        record = partial(on_record, pool) if pool else None
        self._erasures = Erasures(pool, self._places()) if pool else None
        announce, by = self.admission.announce, keeper.actor

        def catalog() -> Catalog | None:
            return self.upstream.catalog

        return [
            health.router(self._health, keeper),
            models.router(catalog, keeper, settings.default_models),
            limits.router(self.admission, caller=keeper.caller, of_key=of_key, read=intake.explained),
            health.metrics_router(self.metrics, keeper),
            stored_data.payloads_router(usage_of, keeper),
            models.admin_router(catalog, self.ledger.vitals, trial, record=record, by=by),
            keys.router(
                registry, Raises(pool) if pool else None, announce=announce, by=by, standing=standing
            ),
            policies.router(rulings, announce=announce, by=by, catalog=catalog),
            simulation.router(self._present(registry, rulings), by=by),
            audit.router(AuditLog(pool) if pool else None, self._refusals, by=by),
            keys.admin_keys_router(AdminKeys(pool) if pool else None, by=by),
            stored_data.erasures_router(self._erasures, by=Depends(by)),
            stored_data.cache_router(self._purge, record, Depends(by)),
        ]

    def _present(self, registry: Registry | None, rulings: Rulings | None) -> simulation.Present | None:
        """How things stand, for simulations; None without a database."""
        if self._reports is None or self._pool is None or registry is None or rulings is None:
            return None
        return simulation.Present(
            Histories(self._reports),
            PostgresKeys(self._pool),
            registry,
            rulings,
            self._known,
            Defaults.of(self.settings),
            self.settings.default_models,
        )

    async def _purge(self, tenant: str | None, model: str | None) -> Purged:
        if self._client is None:
            raise NotFound("There is no response cache that can be purged.", code="no_cache")
        return await purge(self._client, tenant, model)

    def _places(self) -> Places:
        return Places(
            purge=self._purge,
            langfuse=_langfuse(self.settings),
            watched=lambda: (found := self.upstream.catalog) is not None and found.watched,
            directory=self.settings.spool_dir if self._seat else None,
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
            self.metrics.sample(self._sample)
            self.watches.start()
            started.callback(self.watches.stop)
            started.callback(self._leave)
            for pool in (self._pool, self._reports):
                if pool is not None:
                    await pool
                    started.push_async_callback(_close, pool)
            if self.settings.environment == "production" and self.settings.limits_redis_url is not None:
                limits = self.settings.limits_redis_url
                await refuse_evicting(limits.get_secret_value(), tls=self.settings.tls_for(limits))
            await self.ledger.start()
            started.push_async_callback(self.ledger.stop)
            await self.admission.start()
            started.push_async_callback(self.admission.stop)
            if self._tracer is not None:
                await self._tracer.start()
                started.push_async_callback(self._tracer.stop)
            if self._pool is not None:
                self._beside(started, self._pool)
            if self._refusals is not None:
                await self._refusals.start()
                started.push_async_callback(self._refusals.stop)
            if self._client is not None:
                started.callback(self._client.stop)
                keeper = Keeper(self._client, self.settings.litellm_proxy_url, self.metrics)
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
            knowing_agents(pool, self.metrics.know_agents),
            ending_raises(pool, self.admission.announce),
        ]
        if self._erasures is not None:
            loops.append(Loop("erasures", self._erasures.step, every_s=ERASE_AGAIN_S, at_once=True))
        if self.settings.keys_file is not None:
            loops.append(applying(self.settings.keys_file, pool))
        if self.settings.audit_retention_days is not None:
            loops.append(retiring_audit_months(pool, self.settings.audit_retention_days))
        for loop in loops:
            loop.start()
            started.push_async_callback(loop.stop)

    async def _standings(self, caller: Caller) -> Iterable[Standing]:
        return (await standing_of(self.admission, caller)).standings

    def _leave(self) -> None:
        if self._seat is not None:
            self._seat.release()

    def _refused(self, scope: Scope, refused: Refused) -> None:
        self.metrics.refused(refused.counted_code)
        self._suspects.note(scope, refused)

    def _stopped(self, caller: Caller, group: str) -> bool:
        return self.admission.permit.stopped(caller, group)

    def _store_asked(self, seconds: float, answered: bool) -> None:  # noqa: FBT001 -- admission's signature
        self.metrics.observe("llm_proxy_store_seconds", seconds, "limits")
        if not answered:
            self.metrics.count("llm_proxy_store_failures_total", "limits")

    def _sample(self) -> None:
        """What nobody counts on a call's way, once a second."""
        for name, failed in background.failures().items():
            self.metrics.count(
                "llm_proxy_background_failures_total", name, by=failed - self._failures.get(name, 0)
            )
            self._failures[name] = failed
        self._health.observe()
        self.metrics.gauge("llm_proxy_draining", float(self.draining))
        self.metrics.gauge("llm_proxy_store_up", float(self.admission.state().store != "away"), "limits")


def create_app(settings: Settings, files: WorkerFiles | None = None) -> Gateway:
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


def _client(
    settings: Settings, metrics: Metrics, stopped: Callable[[Caller, str], bool], kept: KeptText
) -> Client:
    pool = Pool(settings.litellm_proxy_url, max_in_flight=settings.max_in_flight)
    key = settings.litellm_api_key.get_secret_value() if settings.litellm_api_key else None
    caching, groups = settings.cache_mode == "on", settings.default_models
    controls = Controls(caching, settings.cache_streams, groups, stopped, kept)
    room = Room(pool, queue_s=settings.queue_timeout_ms / 1000, most_waiting=settings.max_waiting)
    broke = partial(metrics.count, "llm_proxy_upstream_failures_total")
    tls = settings.tls_for(settings.litellm_proxy_url[0])
    return Client(pool, key, deadlines(settings), controls, room=room, broke=broke, tls=tls)


def _langfuse(settings: Settings) -> Langfuse | None:
    url, public, secret = settings.langfuse_url, settings.langfuse_public_key, settings.langfuse_secret_key
    return Langfuse(url, public, secret.get_secret_value()) if url and public and secret else None


def _doorkeeper(
    settings: Settings,
    identity: Identity,
    pool: "asyncpg.Pool[asyncpg.Record] | None",
    client_ip: ClientIp,
) -> Doorkeeper:
    return Doorkeeper(
        identity,
        write_keys=_texts(settings.admin_key),
        read_keys=_texts(settings.admin_read_key),
        max_header_bytes=settings.max_header_bytes,
        admin_keys=AdminKeys(pool) if pool is not None else None,
        client_ip=client_ip,
    )


def _seat(settings: Settings) -> Seat | None:
    if settings.llm_mode == "mock":
        return None  # a mock's calls are nobody's to pay: they must not lie where a real gateway finds them
    try:
        return take(settings.spool_dir)
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


def _store(pool: "asyncpg.Pool[asyncpg.Record] | None", settings: Settings) -> Store | None:
    if pool is None:
        return None
    days, payload_days = settings.requests_retention_days, settings.payloads_retention_days
    return Store(pool, retention_days=days, payload_days=payload_days)


def _refused_credentials(
    pool: "asyncpg.Pool[asyncpg.Record] | None", settings: Settings
) -> RefusedCredentials | None:
    days = settings.refused_credentials_retention_days
    return RefusedCredentials(pool, retention_days=days) if pool is not None else None


def _internal(settings: Settings) -> tuple[str, ...]:
    own = _texts(settings.litellm_api_key) if settings.master_key_is_internal else ()
    return (*settings.internal_keys, *own)


def _texts(secret: Any) -> tuple[str, ...]:  # noqa: ANN401 -- a SecretStr or nothing
    return (secret.get_secret_value(),) if secret is not None else ()
