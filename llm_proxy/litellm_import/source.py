"""Reads the database of a LiteLLM proxy.

Invariants: one read-only snapshot; only the columns that are listed here are read, and of those the ones that
this generation of LiteLLM's schema has. No password, no prompt and no log is read.
Source: LiteLLM's `schema.prisma` and the migrations of `litellm-proxy-extras`.
"""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from llm_proxy.json_access import Json
from llm_proxy.schema.database import connecting, db_deadline

DEADLINE_S = 300.0
_MAX_COUNTED = 1_000_000
KEYS = "LiteLLM_VerificationToken"
_COLUMNS: Mapping[str, str] = {
    KEYS: "token key_name key_alias spend expires models aliases user_id team_id project_id organization_id"
    " permissions max_parallel_requests metadata blocked tpm_limit rpm_limit tpd_limit max_budget soft_budget"
    " budget_duration budget_reset_at allowed_routes key_type access_group_ids model_max_budget budget_limits"
    " budget_id object_permission_id router_settings config policies auto_rotate allowed_cache_controls",
    "LiteLLM_DeprecatedVerificationToken": "token active_token_id revoke_at",
    "LiteLLM_TeamTable": "team_id team_alias organization_id metadata max_budget soft_budget spend models"
    " max_parallel_requests tpm_limit rpm_limit tpd_limit budget_duration budget_reset_at blocked"
    " model_max_budget access_group_ids budget_limits model_id router_settings policies object_permission_id",
    "LiteLLM_ModelTable": "id aliases",
    "LiteLLM_UserTable": "user_id user_role max_budget spend models max_parallel_requests tpm_limit rpm_limit"
    " budget_duration budget_reset_at model_max_budget metadata",
    "LiteLLM_TeamMembership": "user_id team_id spend budget_id",
    "LiteLLM_OrganizationTable": "organization_id organization_alias budget_id models spend metadata",
    "LiteLLM_OrganizationMembership": "user_id organization_id budget_id",
    "LiteLLM_ProjectTable": "project_id project_alias team_id budget_id models blocked model_rpm_limit"
    " model_tpm_limit metadata",
    "LiteLLM_BudgetTable": "budget_id max_budget soft_budget max_parallel_requests tpm_limit rpm_limit"
    " tpd_limit model_max_budget budget_duration budget_reset_at allowed_models",
    "LiteLLM_EndUserTable": "user_id alias spend allowed_model_region default_model models budget_id blocked",
    "LiteLLM_TagTable": "tag_name models budget_id",
    "LiteLLM_ModelAccessGroupBudgetTable": "access_group budget_id",
    "LiteLLM_AccessGroupTable": "access_group_id access_group_name access_model_names",
    "LiteLLM_ProxyModelTable": "model_id model_name litellm_params model_info blocked",
    "LiteLLM_CredentialsTable": "credential_name credential_values credential_info",
    "LiteLLM_Config": "param_name param_value",
    "LiteLLM_GuardrailsTable": "guardrail_name litellm_params guardrail_info team_id status",
}
UNREAD: Mapping[str, str] = {
    "LiteLLM_MCPServerTable": "MCP servers",
    "LiteLLM_AgentsTable": "A2A agents",
    "LiteLLM_PromptTable": "prompts",
    "LiteLLM_ManagedVectorStoresTable": "vector stores",
    "LiteLLM_SearchToolsTable": "search tools",
    "LiteLLM_PolicyTable": "guardrail policies",
    "LiteLLM_JWTKeyMapping": "JWT mappings",
    "LiteLLM_SSOConfig": "SSO configurations",
    "LiteLLM_CacheConfig": "cache configurations",
    "LiteLLM_ConfigOverrides": "configuration overrides",
    "LiteLLM_SkillsTable": "skills",
    "LiteLLM_ManagedFileTable": "managed files",
    "LiteLLM_SpendLogs": "spend logs",
}
"""Tables without a counterpart, and what they hold."""
_EXISTING = """
SELECT c.relname AS relation, array_agg(a.attname::text) AS names
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relname = ANY($1) AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) GROUP BY 1
"""


class NoLiteLLMDatabase(Exception):  # noqa: N818 -- errors are named for the state they report
    """The database has no tables of a LiteLLM proxy."""


@dataclass(frozen=True, slots=True)
class SourceRows:
    """What was read.

    Attributes:
        tables: The rows of each table by its name; a column that this generation does not have is missing.
        counts: How many rows the tables of `UNREAD` have, about; only those that have any.
        read_at: The source's time.
    """

    tables: Mapping[str, list[Json]]
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    read_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def of(self, table: str) -> list[Json]:
        """Returns the rows of a table; empty where this generation has no such table."""
        return self.tables.get(table, [])

    def by(self, table: str, column: str) -> dict[Any, Json]:
        """Returns the rows of a table by a column's value."""
        return {row.get(column): row for row in self.of(table)}


async def read_source(url: str, tls: ssl.SSLContext | None) -> SourceRows:
    """Reads a LiteLLM proxy's database, whose address is normalized.

    Raises:
        NoLiteLLMDatabase: It holds none of LiteLLM's tables.
        DatabaseUnavailable: It cannot be read.
    """
    async with db_deadline(DEADLINE_S):
        async with connecting():
            connection = await asyncpg.connect(url, ssl=tls, statement_cache_size=0)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await _read(connection)
        finally:
            await connection.close()


async def _read(connection: "asyncpg.Connection[asyncpg.Record]") -> SourceRows:
    found = await connection.fetch(_EXISTING, [*_COLUMNS, *UNREAD])
    existing = {row["relation"]: set(row["names"]) for row in found}
    if KEYS not in existing:
        raise NoLiteLLMDatabase(f"it has no table {KEYS}: it is not the database of a LiteLLM proxy")
    tables: dict[str, list[Json]] = {}
    for table, columns in _COLUMNS.items():
        names = [name for name in columns.split() if name in existing.get(table, ())]
        if names:
            listed = ", ".join(f'"{name}"' for name in names)
            rows = await connection.fetch(f'SELECT {listed} FROM "{table}" ORDER BY 1')  # noqa: S608 -- our own names
            tables[table] = [{name: _plain(row[name]) for name in names} for row in rows]
    counts: dict[str, int] = {}
    for table in (one for one in UNREAD if one in existing):
        statement = f'SELECT count(*) FROM (SELECT 1 FROM "{table}" LIMIT {_MAX_COUNTED}) AS counted'  # noqa: S608 -- the same
        counts[table] = await connection.fetchval(statement)
    read_at: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return SourceRows(tables, {table: count for table, count in counts.items() if count}, read_at)


def _plain(value: object) -> object:
    """Returns a column's value; a time in UTC, as Prisma stores it."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def json_column(value: object) -> Any:  # noqa: ANN401 -- any JSON
    """Returns the value of a JSON column; LiteLLM has encoded some twice; None for what is no JSON."""
    for _ in range(3):
        if not isinstance(value, str):
            return value
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value
