"""Builds the routers of the management routes: a new route is one line here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from fastapi import APIRouter, Depends

from llm_proxy.admission import PolicyDefaults
from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.claims import AnswerStore
from llm_proxy.app.stages import Database, Stages
from llm_proxy.dialects.dialect import CountingDialect
from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.edge.inference import RequestReader
from llm_proxy.edge.model_probe import PROBE_UPLOAD_BYTES, ModelProbe
from llm_proxy.edge.responses import database_result
from llm_proxy.edge.routes import (
    audit,
    azure_models,
    budgets,
    calls,
    child_keys,
    configuration,
    gemini,
    health,
    keys,
    limits,
    litellm_clients,
    messages,
    models,
    notifications,
    policies,
    quarantine,
    requests,
    response_tokens,
    runs,
    simulation,
    stored_data,
    usage,
)
from llm_proxy.edge.routes.configuration import ReloadControl
from llm_proxy.edge.routes.health import HealthReport
from llm_proxy.edge.routes.limits import KeyStatus
from llm_proxy.edge.routes.stored_data import AuditedChange
from llm_proxy.errors import NotFound, StoreUnavailable
from llm_proxy.identity import (
    AdminKeyRepository,
    AuditLog,
    ChildKeyRepository,
    KeyRaiseRepository,
    KeyRepository,
    PolicyRepository,
    PostgresKeyStore,
    ServedNames,
    audited_external_change,
)
from llm_proxy.identity.key_search import list_tenants
from llm_proxy.json_access import Json
from llm_proxy.ledger import CallHistoryReader, Erasures, ErasureTargets, LangfuseClient, PostgresUsage
from llm_proxy.ledger.budget_forecast import BudgetForecasts
from llm_proxy.ledger.request_search import RequestSearcher
from llm_proxy.ledger.run_calls import RunReader
from llm_proxy.notify import Outbox
from llm_proxy.schema.database import DatabaseUnavailable
from llm_proxy.settings import Settings
from llm_proxy.uploads import UploadSpace
from llm_proxy.upstream import CachePurge, SidecarClient
from llm_proxy.upstream.client import purge_cache
from llm_proxy.upstream.sidecar_config import read_cooldowns, read_sidecar_config
from llm_proxy.upstream.token_counter import TokenCounter


@dataclass(frozen=True, slots=True)
class Repositories:
    """What operators change."""

    keys: KeyRepository
    raises: KeyRaiseRepository
    policies: PolicyRepository
    admin_keys: AdminKeyRepository


def build_erasures(stages: Stages) -> Erasures | None:
    """Returns what erases stored data; None without a database."""
    if stages.database is None:
        return None
    targets = ErasureTargets(
        purge_cache=partial(_purge, stages.client),
        langfuse=_langfuse(stages.settings),
        reports_to_callbacks=stages.catalog.has_langfuse,
        worker_directory=stages.settings.spool_dir if stages.worker_slot else None,
        erase_answers=partial(_erase_answers, stages.answers) if stages.answers else None,
    )
    return Erasures(stages.database.pool, targets)


def build_routers(
    stages: Stages,
    reader: RequestReader,
    report: HealthReport,
    erasures: Erasures | None,
    launcher: ReloadControl | None,
) -> list[APIRouter]:
    """Returns the router of every route that is no inference route and counts no tokens."""
    settings, catalog, admission = stages.settings, stages.catalog, stages.services.admission
    auth, require_actor = stages.auth, stages.auth.require_actor
    pool = stages.database.pool if stages.database else None
    found = _repositories(stages.database)
    key_repository, policy_repository = (found.keys, found.policies) if found else (None, None)
    record = partial(audited_external_change, pool) if pool else None
    publish, stored = admission.publish_epochs, stages.usage
    in_postgres = stored if isinstance(stored, PostgresUsage) else None
    status = KeyStatus(admission, key_repository, policy_repository)
    return [
        usage.router(stored, auth, admission),
        health.router(report, auth),
        health.metrics_router(stages.metrics, auth),
        *_model_routers(stages, launcher, in_postgres, record),
        litellm_clients.router(catalog, admission, auth, settings.default_models),
        limits.router(
            admission,
            caller=auth.require_caller,
            of_key=status.key_dependency(auth.require_admin),
            read=reader.read_explain_request,
            describe=reader.describe,
            shares=stages.shares,
        ),
        keys.router(
            key_repository,
            found.raises if found else None,
            publish=publish,
            require_actor=require_actor,
            status=status,
            last_use=partial(_last_use, in_postgres) if in_postgres else None,
        ),
        keys.tenants_router(partial(list_tenants, pool) if pool else None, require_actor=require_actor),
        keys.admin_keys_router(found.admin_keys if found else None, require_actor=require_actor),
        policies.router(policy_repository, publish=publish, require_actor=require_actor, catalog=catalog),
        simulation.router(_simulation_sources(stages, found), require_actor=require_actor),
        budgets.router(_budget_sources(stages, found), require_actor=require_actor),
        audit.router(AuditLog(pool) if pool else None, stages.auth_failures, require_actor=require_actor),
        stored_data.payloads_router(in_postgres, auth),
        stored_data.erasures_router(erasures, require_actor=Depends(require_actor)),
        stored_data.cache_router(partial(_purge, stages.client), record, Depends(require_actor)),
        *_routers_of_now(stages, in_postgres, record),
    ]


def _model_routers(
    stages: Stages,
    launcher: ReloadControl | None,
    usage: PostgresUsage | None,
    record: AuditedChange | None,
) -> list[APIRouter]:
    catalog, auth, models_by_default = stages.catalog, stages.auth, stages.settings.default_models
    by = auth.require_actor
    read_config = partial(_sidecar_config, stages.client)
    return [
        models.router(catalog, auth, models_by_default),
        azure_models.router(catalog, auth, models_by_default),
        gemini.models_router(catalog, auth, models_by_default),
        models.admin_router(
            catalog,
            usage,
            _model_probe(stages),
            record=record,
            require_actor=by,
            read_cooldowns=partial(_cooldowns, stages.client),
        ),
        configuration.router(read_config, launcher, stages.settings, record=record, require_actor=by),
    ]


async def _last_use(usage: PostgresUsage, key_ids: list[str]) -> dict[str, datetime]:
    return await database_result(usage.last_use(key_ids))


def _routers_of_now(
    stages: Stages, usage: PostgresUsage | None, record: AuditedChange | None
) -> list[APIRouter]:
    """Returns the routers of what runs now, of single requests, and of what operators were notified of."""
    require_actor = stages.auth.require_actor
    pool = stages.database.pool if stages.database else None
    return [
        requests.router(RequestSearcher(usage.pool) if usage else None, stages.auth),
        runs.router(RunReader(usage.pool) if usage else None, stages.auth),
        child_keys.router(
            ChildKeyRepository(pool) if pool else None,
            stages.auth,
            ServedNames(stages.catalog, stages.settings.default_models),
            publish=stages.services.admission.publish_epochs,
            enabled=stages.settings.child_keys,
        ),
        calls.callers_router(
            stages.call_board, partial(_key_names, usage), stages.auth.require_caller, record=record
        ),
        calls.router(
            stages.call_board, partial(_key_names, usage), record=record, require_actor=require_actor
        ),
        quarantine.router(
            stages.services.admission.guard,
            partial(_key_names, usage),
            record=record,
            require_actor=require_actor,
        ),
        notifications.router(Outbox(pool) if pool else None, require_actor=require_actor),
    ]


async def _key_names(usage: PostgresUsage | None, ids: Iterable[str]) -> Mapping[str, str]:
    """Returns the names of keys by id; none without a database or while it is unavailable."""
    try:
        return await usage.names_of_keys(ids) if usage is not None else {}
    except DatabaseUnavailable:
        return {}


def _model_probe(stages: Stages) -> ModelProbe:
    return ModelProbe(stages.services, UploadSpace(stages.settings.spool_dir / "uploads", PROBE_UPLOAD_BYTES))


def build_counting_routers(
    stages: Stages, reader: RequestReader, responses: CountingDialect
) -> list[APIRouter]:
    """Returns the routers of the routes that count a prompt's tokens."""
    counter = TokenCounter(stages.client)
    return [
        messages.router(MESSAGES, reader, counter),
        response_tokens.router(responses, reader, counter),
        gemini.counting_router(reader, counter),
    ]


def _repositories(database: Database | None) -> Repositories | None:
    if database is None:
        return None
    pool = database.pool
    return Repositories(
        KeyRepository(pool), KeyRaiseRepository(pool), PolicyRepository(pool), AdminKeyRepository(pool)
    )


def _budget_sources(stages: Stages, repositories: Repositories | None) -> budgets.BudgetSources | None:
    if stages.database is None or repositories is None:
        return None
    return budgets.BudgetSources(
        BudgetForecasts(stages.database.reports),
        PostgresKeyStore(stages.database.pool),
        repositories.keys,
        stages.catalog,
        PolicyDefaults.from_settings(stages.settings),
    )


def _simulation_sources(
    stages: Stages, repositories: Repositories | None
) -> simulation.SimulationSources | None:
    if stages.database is None or repositories is None:
        return None
    return simulation.SimulationSources(
        CallHistoryReader(stages.database.reports),
        PostgresKeyStore(stages.database.pool),
        repositories.keys,
        repositories.policies,
        stages.catalog,
        PolicyDefaults.from_settings(stages.settings),
        stages.settings.default_models,
    )


async def _cooldowns(client: SidecarClient | None) -> dict[str, Json]:
    return {} if client is None else await read_cooldowns(client)


async def _sidecar_config(client: SidecarClient | None) -> Json:
    if client is None:
        raise NotFound("There is no sidecar in mock mode.", code="no_config")
    return await read_sidecar_config(client)


async def _erase_answers(answers: AnswerStore, person: bytes) -> int:
    try:
        return await answers.erase(person.hex())
    except LimiterUnavailable:
        raise StoreUnavailable("The Redis of the kept answers does not answer.") from None


async def _purge(client: SidecarClient | None, tenant: str | None, model: str | None) -> CachePurge:
    if client is None:
        raise NotFound("There is no response cache that can be purged.", code="no_cache")
    return await purge_cache(client, tenant, model)


def _langfuse(settings: Settings) -> LangfuseClient | None:
    url, public, secret = settings.langfuse_url, settings.langfuse_public_key, settings.langfuse_secret_key
    return LangfuseClient(url, public, secret.get_secret_value()) if url and public and secret else None
