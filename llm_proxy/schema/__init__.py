"""Numbered SQL migrations, database pools, and what Postgres's errors mean."""

from llm_proxy.schema.migrations import (
    Connection,
    SchemaBusy,
    SchemaChanged,
    Work,
    apply,
    let_sidecar_in,
    migrate,
    pending,
    steps,
    unfinished,
    work,
)

__all__ = [
    "Connection",
    "SchemaBusy",
    "SchemaChanged",
    "Work",
    "apply",
    "let_sidecar_in",
    "migrate",
    "pending",
    "steps",
    "unfinished",
    "work",
]
