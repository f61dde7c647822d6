"""Numbered SQL migrations, and the classification of Postgres's errors."""

from llm_proxy.schema.migrations import (
    PgConnection,
    SchemaBusy,
    SchemaChanged,
    SchemaWork,
    all_migrations,
    apply,
    grant_sidecar_login,
    migrate,
    pending_migrations,
    run_work_batch,
    unfinished_work,
)

__all__ = [
    "PgConnection",
    "SchemaBusy",
    "SchemaChanged",
    "SchemaWork",
    "all_migrations",
    "apply",
    "grant_sidecar_login",
    "migrate",
    "pending_migrations",
    "run_work_batch",
    "unfinished_work",
]
