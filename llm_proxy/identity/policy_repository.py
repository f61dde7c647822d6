"""Sets and deletes limit policies, enables and disables kill switches.

Invariants: every change is an admin transaction (see `audit`). A key may be named by name, prefix or id and
is stored by its id.
Raises: `NotFound`, `BadRequest`, `StoreUnavailable`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from llm_proxy.errors import NotFound
from llm_proxy.identity.admin_documents import policy_document
from llm_proxy.identity.audit import (
    Actor,
    Epochs,
    Person,
    admin_transaction,
    bump_epochs,
    with_counting_start,
    write_audit,
)
from llm_proxy.identity.authenticator import INTERNAL_KEY_ID_PREFIX
from llm_proxy.identity.caller import ANY
from llm_proxy.identity.key_repository import find_key_id
from llm_proxy.identity.policies import KillSwitch, LimitPolicy
from llm_proxy.identity.postgres_store import Connection, budgets_to_json, policy_from_row
from llm_proxy.json_access import Json
from llm_proxy.telemetry.privacy import redact

if TYPE_CHECKING:
    import asyncpg

Ruling = TypeVar("Ruling", LimitPolicy, KillSwitch)

_SET = """
INSERT INTO limit_rules
    (scope, tenant, subject, model_group, rpm, tpm, parallel, budgets, mode, on_store_failure)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (scope, tenant, subject, model_group) DO UPDATE SET
    rpm = $5, tpm = $6, parallel = $7, budgets = $8, mode = $9, on_store_failure = $10, changed_at = now()
"""
_DROP = """
DELETE FROM limit_rules WHERE scope = $1 AND tenant = $2 AND subject = $3 AND model_group = $4 RETURNING *
"""
_RULE = """
SELECT * FROM limit_rules WHERE scope = $1 AND tenant = $2 AND subject = $3 AND model_group = $4 FOR UPDATE
"""
_KILL = "SELECT reason FROM kill_switches WHERE kind = $1 AND tenant = $2 AND subject = $3 FOR UPDATE"


class PolicyRepository:
    """Writes rules and kill switches."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def list_policies(self) -> list[LimitPolicy]:
        """All rules."""
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT * FROM limit_rules ORDER BY scope, tenant, subject, model_group"
            )
        return [policy_from_row(row) for row in rows]

    async def tenants_of_keys(self, rules: list[LimitPolicy]) -> dict[str, str | None]:
        """The tenants of the keys that these rules are about, by id; without those that were revoked."""
        ids = [rule.subject for rule in rules if rule.scope == "key"]
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT key_id, tenant FROM api_keys WHERE key_id = ANY($1) AND revoked_at IS NULL", ids
            )
        return {row["key_id"]: row["tenant"] for row in rows}

    async def resolve_key(self, ruling: Ruling) -> Ruling:
        """A rule or switch of a key with the key's id for its subject; any other as it is."""
        async with admin_transaction(self._pool) as connection:
            return await _resolve_key(connection, ruling)

    async def upsert(self, rule: LimitPolicy, actor: Actor) -> Epochs:
        """Lay down a rule in place of the one for the same scope and subject."""
        async with admin_transaction(self._pool) as connection:
            rule = await _resolve_key(connection, rule)
            limits = rule.limits
            old = await connection.fetchrow(_RULE, rule.scope, rule.tenant, rule.subject, rule.group)
            same = policy_from_row(old).budgets if old is not None and old["mode"] == rule.mode else ()
            rule = replace(rule, budgets=await with_counting_start(connection, rule.budgets, same))
            await connection.execute(
                _SET, rule.scope, rule.tenant, rule.subject, rule.group, limits.rpm, limits.tpm,
                limits.parallel, budgets_to_json(rule.budgets), rule.mode, rule.on_store_failure,
            )  # fmt: skip
            before = _audit_document(policy_from_row(old)) if old is not None else None
            target = _audit_target(rule)
            await write_audit(
                connection, actor, "limits.set", target, before=before, after=_audit_document(rule)
            )
            return await bump_epochs(connection, rule.tenant)

    async def delete(self, rule: LimitPolicy, actor: Actor) -> Epochs:
        """Take a rule away; raises `NotFound`."""
        async with admin_transaction(self._pool) as connection:
            rule = await _resolve_key(connection, rule)
            dropped = await connection.fetchrow(
                _DROP, rule.scope, rule.tenant, rule.subject, rule.group,
            )  # fmt: skip
            if dropped is None:
                raise NotFound("No such rule.")
            before = _audit_document(policy_from_row(dropped))
            await write_audit(connection, actor, "limits.drop", _audit_target(rule), before=before)
            return await bump_epochs(connection, rule.tenant)

    async def list_kill_switches(self) -> list[dict[str, Any]]:
        """The kill switches that are thrown."""
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch("SELECT * FROM kill_switches ORDER BY thrown_at")
        return [dict(row) for row in rows]

    async def enable_switch(self, kill: KillSwitch, actor: Actor, *, reason: str = "") -> Epochs:
        """Throw a kill switch."""
        async with admin_transaction(self._pool) as connection:
            kill = await _resolve_key(connection, kill)
            old = await connection.fetchrow(_KILL, kill.kind, kill.tenant, kill.subject)
            await connection.execute(
                "INSERT INTO kill_switches (kind, tenant, subject, reason) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (kind, tenant, subject) DO UPDATE SET reason = EXCLUDED.reason",
                kill.kind, kill.tenant, kill.subject, reason,
            )  # fmt: skip
            before = _switch_document(kill, old["reason"]) if old is not None else None
            after = _switch_document(kill, reason)
            target = f"{kill.kind} {kill.subject}"
            await write_audit(connection, actor, "kills.throw", target, before=before, after=after)
            return await bump_epochs(connection, kill.tenant)

    async def disable_switch(self, kill: KillSwitch, actor: Actor) -> Epochs:
        """Put a kill switch back; raises `NotFound`."""
        async with admin_transaction(self._pool) as connection:
            kill = await _resolve_key(connection, kill)
            lifted = await connection.fetchrow(
                "DELETE FROM kill_switches WHERE kind = $1 AND tenant = $2 AND subject = $3 RETURNING reason",
                kill.kind, kill.tenant, kill.subject,
            )  # fmt: skip
            if lifted is None:
                raise NotFound("No such kill switch.")
            before = _switch_document(kill, lifted["reason"])
            await write_audit(connection, actor, "kills.lift", f"{kill.kind} {kill.subject}", before=before)
            return await bump_epochs(connection, kill.tenant)


async def _resolve_key(connection: Connection, ruling: Ruling) -> Ruling:
    kind = ruling.scope if isinstance(ruling, LimitPolicy) else ruling.kind
    if kind != "key" or ruling.subject == ANY or ruling.subject.startswith(INTERNAL_KEY_ID_PREFIX):
        return ruling
    return replace(ruling, subject=await find_key_id(connection, ruling.subject))


def _audit_target(rule: LimitPolicy) -> str | Person:
    """What the audit log says a rule is for; a user's rule is about a person."""
    if _is_about_person(rule):
        return Person(rule.subject, _tenant_or_none(rule))
    return f"{rule.scope} {rule.tenant} {rule.subject} {rule.group}"


def _audit_document(rule: LimitPolicy) -> Json:
    person = {"subject": Person(rule.subject, _tenant_or_none(rule))} if _is_about_person(rule) else {}
    return policy_document(rule) | person


def _is_about_person(rule: LimitPolicy) -> bool:
    return rule.scope == "user_model" and rule.subject not in {ANY, ""}


def _tenant_or_none(rule: LimitPolicy) -> str | None:
    return None if rule.tenant == ANY else rule.tenant


def _switch_document(kill: KillSwitch, reason: str) -> Json:
    return {"kind": kill.kind, "subject": kill.subject, "tenant": kill.tenant, "reason": redact(reason)}
