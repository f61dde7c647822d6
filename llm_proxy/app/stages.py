"""Builds the stages of a call from the settings, each object once, in the order of the imports.

Invariants: what a stage needs of another is an object handed to it by name; nothing is started here, and no
store is contacted.
"""

import hashlib
import logging
import secrets
from dataclasses import dataclass
from functools import partial
from typing import Any

from llm_proxy.admission import AdmissionController
from llm_proxy.admission.redis.call_exchange import CallExchange
from llm_proxy.admission.redis.claims import AnswerStore, ClaimStore
from llm_proxy.admission.run_guard import ReportQuarantine
from llm_proxy.call_board import CallBoard
from llm_proxy.dialects.response_ids import ResponseIds
from llm_proxy.edge.auth import AuthDependencies, AuthFailureReporter, SettingsAdmins
from llm_proxy.edge.idempotency import IdempotentCalls
from llm_proxy.edge.request import ClientAddress
from llm_proxy.endpoints import Endpoint
from llm_proxy.identity import (
    AccessPolicy,
    AdminKeyRepository,
    Authenticator,
    AuthFailureLog,
    InternalKeys,
    KeyCache,
    PolicyWatcher,
    PostgresKeyStore,
    QueueShares,
    RunSources,
)
from llm_proxy.identity.quarantine_audit import QuarantineAudit
from llm_proxy.identity.restore_gate import RestoreGate
from llm_proxy.ledger import (
    CallObservers,
    Ledger,
    LedgerSpend,
    LedgerStore,
    MemoryUsage,
    PostgresUsage,
    StoredFirst,
    StoredResponses,
)
from llm_proxy.ledger.restore_watch import RestoreWatch
from llm_proxy.ledger.retention import days_kept
from llm_proxy.ledger.worker_slot import WorkerSlot, acquire_slot
from llm_proxy.pipeline import Services
from llm_proxy.postgres_urls import unused_parameters
from llm_proxy.rotation import OldSecretUses
from llm_proxy.running_calls import RunningCalls
from llm_proxy.schema.connections import Pool, gateway_pools
from llm_proxy.sealing import MIN_SECRET_CHARS, Sealer, SealingKey, parse_sealing_keys
from llm_proxy.setting_sources import PREFIX
from llm_proxy.settings import Settings, name_value_pairs, several
from llm_proxy.telemetry import Metrics
from llm_proxy.telemetry.privacy import PayloadPolicy
from llm_proxy.telemetry.tracing import Tracer, TraceTarget
from llm_proxy.upstream import CurrentCatalog, SidecarClient, timeout_policy
from llm_proxy.upstream.litellm_protocol import LiteLLMControls
from llm_proxy.upstream.mock.upstream import MockUpstream
from llm_proxy.upstream.pool import SidecarPool
from llm_proxy.upstream.sidecar_keys import SidecarKeys
from llm_proxy.upstream.slot_queue import QueueTimes, SlotQueue

log = logging.getLogger(__name__)

SIDECAR_KEY_SETTING, SEALING_SETTING = f"{PREFIX}LITELLM_API_KEY", f"{PREFIX}SEALING_KEYS"
VIRTUAL_KEYS = "virtual keys"
"""What stands for a setting where a virtual key was rotated and its old secret still has time."""


@dataclass(frozen=True, slots=True)
class Database:
    """The connections to Postgres, by how long queries may take; one pool where few are allowed."""

    pool: Pool
    reports: Pool
    watch: RestoreWatch


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one gateway and what their routes need.

    Attributes:
        database: None without a database, and in mock mode.
        worker_slot: The worker's directory on disk; None in mock mode and when it cannot be used.
        client: None in mock mode.
        shares: How callers count in the queue, by rule.
        usage: Reads usage; None without a database.
        auth_failures: None without a database.
        tracer: None when tracing is off.
        sealer: Seals what callers keep; None without a key.
        stored: The stored responses of translated calls; None where no tenant may store any.
        answers: The kept answers of calls with an idempotency key; None without stores, or by the settings.
        idempotent: Reads idempotency keys; None as `answers`.
        old_secrets: Who still uses a secret that is being replaced.
    """

    settings: Settings
    metrics: Metrics
    database: Database | None
    worker_slot: WorkerSlot | None
    catalog: CurrentCatalog
    client: SidecarClient | None
    shares: QueueShares
    usage: PostgresUsage | MemoryUsage | None
    authenticator: Authenticator
    auth_failures: AuthFailureLog | None
    auth: AuthDependencies
    failure_reporter: AuthFailureReporter
    tracer: Tracer | None
    sealer: Sealer | None
    stored: StoredResponses | None
    answers: AnswerStore | None
    idempotent: IdempotentCalls | None
    services: Services
    policies: PolicyWatcher
    call_board: CallBoard
    old_secrets: OldSecretUses


def build_stages(settings: Settings, metrics: Metrics) -> Stages:
    """Returns the stages; nothing is started."""
    database, catalog, old_secrets = _database(settings), _catalog(settings, metrics), _old_secrets(settings)
    keys = _key_cache(database, old_secrets)
    access = AccessPolicy(watcher := PolicyWatcher(keys), catalog, settings.default_models)
    payloads, shares = PayloadPolicy(settings.log_payloads), QueueShares(watcher)
    mock, sealer = settings.llm_mode == "mock", build_sealer(settings, old_secrets)
    controls = _controls(settings, access, payloads, sealer)
    client = None if mock else _client(settings, metrics, catalog, controls, shares, old_secrets)
    memory_usage, slot = (MemoryUsage(), None) if mock else (None, _worker_slot(settings))
    ledger = _ledger(settings, metrics, database, slot, memory_usage)
    admission = AdmissionController(
        settings,
        watcher,
        access,
        prices=catalog,
        spend_source=LedgerSpend(database.pool, ledger) if database else None,
        refresh_caller=keys.refresh if keys else None,
        observe=partial(_observe_store, metrics),
    )
    admission.guard.report = _report_quarantine(database)
    authenticator = Authenticator(_internal_keys(settings, old_secrets), keys, _gate(database))
    address, failures = ClientAddress(settings.trusted_proxies), _auth_failures(settings, database)
    tracer = Tracer(target, metrics) if (target := trace_target(settings)) else None
    observers = CallObservers(tracer, payloads, ledger.keep_payload) if tracer or payloads else None
    stored, running, answers = _stored(settings, database), RunningCalls(), _answers(settings)
    upstream = StoredFirst(client or MockUpstream(catalog, settings.default_model), stored)
    return Stages(
        settings=settings,
        metrics=metrics,
        database=database,
        worker_slot=slot,
        catalog=catalog,
        client=client,
        shares=shares,
        usage=PostgresUsage(database.reports) if database else memory_usage,
        authenticator=authenticator,
        auth_failures=failures,
        auth=_auth(settings, authenticator, database, address, old_secrets),
        failure_reporter=AuthFailureReporter(failures, address),
        tracer=tracer,
        sealer=sealer,
        stored=stored,
        answers=answers,
        idempotent=_idempotent(settings, answers, metrics),
        services=Services(admission, upstream, catalog, ledger, running, observers),
        policies=watcher,
        call_board=CallBoard(running, _exchange(admission)),
        old_secrets=old_secrets,
    )


def _gate(database: Database | None) -> RestoreGate | None:
    return database.watch.gate if database is not None else None


def _exchange(admission: AdmissionController) -> CallExchange | None:
    store = admission.shared_store
    return CallExchange(store) if store is not None else None


def trace_target(settings: Settings) -> TraceTarget | None:
    """Returns where spans are sent; None if nowhere."""
    endpoint = settings.otlp_traces_endpoint or settings.otlp_endpoint
    if endpoint is None or settings.otel_sdk_disabled:
        return None
    named = {"service.name": settings.otel_service_name} if settings.otel_service_name else {}
    return TraceTarget(
        endpoint,
        settings.otlp_traces_endpoint is not None,
        name_value_pairs(settings.otlp_headers.get_secret_value()) if settings.otlp_headers else {},
        {**name_value_pairs(settings.otel_resource_attributes), **named},
    )


def secret_text(secret: Any) -> tuple[str, ...]:  # noqa: ANN401 -- a SecretStr or None
    """Returns a secret's text; nothing for none."""
    return (secret.get_secret_value(),) if secret is not None else ()


def _database(settings: Settings) -> Database | None:
    if settings.database_url is None or settings.llm_mode == "mock":
        return None
    url = settings.database_url.get_secret_value()
    for line in unused_parameters(url):
        log.warning(line)
    watch = RestoreWatch(RestoreGate(), settings.spool_dir)
    pools = gateway_pools(url, settings.tls_for(url), settings.database_pooler, watch.verify)
    return Database(*pools, watch)


def _catalog(settings: Settings, metrics: Metrics) -> CurrentCatalog:
    chosen: dict[Endpoint, str | None] = {
        "moderations": settings.default_moderation_model,
        "images.generations": settings.default_image_model,
        "images.edits": settings.default_image_model,
    }
    return CurrentCatalog(
        settings.default_model,
        default_chosen="default_model" in settings.model_fields_set,
        endpoint_models={endpoint: model for endpoint, model in chosen.items() if model},
        default_models=settings.default_models,
        metrics=metrics,
    )


def _key_cache(database: Database | None, old_secrets: OldSecretUses) -> KeyCache | None:
    if database is None:
        return None
    return KeyCache(PostgresKeyStore(database.pool), on_old_secret=partial(old_secrets.note, VIRTUAL_KEYS))


def _internal_keys(settings: Settings, old_secrets: OldSecretUses) -> InternalKeys:
    return InternalKeys(settings.internal_keys, settings.old_secrets, old_secrets.note)


def _old_secrets(settings: Settings) -> OldSecretUses:
    uses = OldSecretUses(_report_old_secret)
    uses.expect(settings.old_secrets.values())
    uses.expect([SIDECAR_KEY_SETTING] if settings.sidecar_keys[1:] else [])
    uses.expect([SEALING_SETTING] if several(settings.sealing_keys)[1:] else [])
    return uses


def _report_old_secret(setting: str, uses: int) -> None:
    log.warning("an old secret is still used", extra={"setting": setting, "uses": uses})


def _controls(
    settings: Settings, access: AccessPolicy, payloads: PayloadPolicy, sealer: Sealer | None
) -> LiteLLMControls:
    return LiteLLMControls(
        settings.cache_mode == "on",
        settings.cache_streams,
        settings.default_models,
        access,
        payloads,
        ResponseIds(sealer),
        affinity=settings.affinity,
    )


def _client(
    settings: Settings,
    metrics: Metrics,
    catalog: CurrentCatalog,
    controls: LiteLLMControls,
    shares: QueueShares,
    old_secrets: OldSecretUses,
) -> SidecarClient:
    pool = SidecarPool(settings.litellm_proxy_url, max_in_flight=settings.max_in_flight)
    times = QueueTimes(settings.queue_timeout_ms / 1000, settings.batch_queue_timeout_ms / 1000)
    queue = SlotQueue(pool, times, max_waiting=settings.max_waiting, shares=shares)
    return SidecarClient(
        queue,
        SidecarKeys(settings.sidecar_keys, partial(old_secrets.note, SIDECAR_KEY_SETTING)),
        timeout_policy(settings, catalog.stated_timeouts),
        controls,
        catalog,
        on_failure=partial(metrics.increment, "llm_proxy_upstream_failures_total"),
        tls=settings.tls_for(settings.litellm_proxy_url[0]),
    )


def _ledger(
    settings: Settings,
    metrics: Metrics,
    database: Database | None,
    slot: WorkerSlot | None,
    memory_usage: MemoryUsage | None,
) -> Ledger:
    return Ledger(
        _ledger_store(settings, database),
        metrics,
        slot=slot,
        spool_max_bytes=settings.spool_max_bytes,
        memory_usage=memory_usage,
    )


def _report_quarantine(database: Database | None) -> ReportQuarantine:
    return QuarantineAudit(database.pool).report if database else lambda _evidence: None


def _auth_failures(settings: Settings, database: Database | None) -> AuthFailureLog | None:
    days = settings.refused_credentials_retention_days
    return AuthFailureLog(database.pool, retention_days=days) if database else None


def _stored(settings: Settings, database: Database | None) -> StoredResponses | None:
    policy = PayloadPolicy("full" if one == "all" else one for one in settings.store_responses)
    if database is None or not policy:
        return None
    return StoredResponses(database.pool, policy, settings.stored_responses_retention_days)


def _answers(settings: Settings) -> AnswerStore | None:
    url = settings.cache_redis_url
    if settings.llm_mode == "mock" or settings.idempotency == "off" or url is None:
        return None
    if settings.limits_redis_url is None:
        log.warning("without a limits store no `Idempotency-Key` is read")
        return None
    return AnswerStore(
        url.get_secret_value(), max_total_bytes=settings.idempotency_total_bytes, tls=settings.tls_for(url)
    )


def _idempotent(settings: Settings, answers: AnswerStore | None, metrics: Metrics) -> IdempotentCalls | None:
    url = settings.limits_redis_url
    if answers is None or url is None:
        return None
    claims = ClaimStore(url.get_secret_value(), tls=settings.tls_for(url))
    return IdempotentCalls(claims, answers, settings, metrics)


def build_sealer(settings: Settings, old_secrets: OldSecretUses) -> Sealer | None:
    """Returns what seals; in development with a key of its own, the same in every worker; None without."""
    on_old_key = partial(old_secrets.note, SEALING_SETTING)
    keys = parse_sealing_keys("".join(secret_text(settings.sealing_keys)))
    if keys:
        return Sealer(keys, on_old_key)
    if settings.environment == "development":
        shared = settings.sidecar_keys or (secrets.token_urlsafe(MIN_SECRET_CHARS),)
        return Sealer([_development_key(one) for one in shared], on_old_key)
    log.warning("without LLM_PROXY__SEALING_KEYS no response is stored, and no reasoning comes back")
    return None


def _development_key(shared: str) -> SealingKey:
    digest = hashlib.sha256(f"llm-proxy development id {shared}".encode()).hexdigest()
    return SealingKey(f"dev{digest[:8]}", f"llm-proxy development {shared}")


def _worker_slot(settings: Settings) -> WorkerSlot | None:
    try:
        return acquire_slot(settings.spool_dir)
    except OSError as denied:
        log.warning(
            "the spool's folder cannot be used: records wait in memory", extra={"cause": denied.strerror}
        )
        return None


def _ledger_store(settings: Settings, database: Database | None) -> LedgerStore | None:
    if database is None:
        return None
    return LedgerStore(database.pool, days_kept(settings))


def _auth(
    settings: Settings,
    authenticator: Authenticator,
    database: Database | None,
    address: ClientAddress,
    old_secrets: OldSecretUses,
) -> AuthDependencies:
    return AuthDependencies(
        authenticator,
        settings_admins=SettingsAdmins(
            settings.admin_keys, settings.admin_read_keys, settings.old_secrets, old_secrets.note
        ),
        max_header_bytes=settings.max_header_bytes,
        run_sources=RunSources.from_names(settings.run_sources),
        admin_keys=AdminKeyRepository(database.pool) if database else None,
        client_ip=address,
    )


def _observe_store(metrics: Metrics, seconds: float, answered: bool) -> None:  # noqa: FBT001 -- admission's signature
    metrics.observe("llm_proxy_store_seconds", seconds, "limits")
    if not answered:
        metrics.increment("llm_proxy_store_failures_total", "limits")
