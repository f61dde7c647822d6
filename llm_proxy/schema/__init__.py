"""Numbered SQL migrations, and the classification of Postgres's errors."""

from llm_proxy.schema.indexes import apply_outside
from llm_proxy.schema.migrations import (
    SchemaWork,
    apply,
    grant_sidecar_login,
    migrate,
    run_work_batch,
    unfinished_work,
)
from llm_proxy.schema.steps import (
    GatewayTooOld,
    Migration,
    PgConnection,
    SchemaBusy,
    SchemaChanged,
    all_migrations,
    pending_migrations,
)

__all__ = [
    "GatewayTooOld",
    "Migration",
    "PgConnection",
    "SchemaBusy",
    "SchemaChanged",
    "SchemaWork",
    "all_migrations",
    "apply",
    "apply_outside",
    "grant_sidecar_login",
    "migrate",
    "pending_migrations",
    "run_work_batch",
    "unfinished_work",
]
