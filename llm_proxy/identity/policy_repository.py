"""Sets and deletes limit policies, enables and disables kill switches.

Invariants: every change is an admin transaction (see `audit`). A key may be named by name, prefix or id and
is stored by its id.
Raises: `NotFound`, `BadRequest`, `StoreUnavailable`.
"""

from dataclasses import replace
from typing import Any, TypeVar

from llm_proxy.errors import BadRequest, NotFound
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
from llm_proxy.identity.policies import OF_KEY, KillSwitch, LimitPolicy
from llm_proxy.identity.postgres_store import (
    Connection,
    Pool,
    budgets_to_json,
    guard_to_json,
    policy_from_row,
)
from llm_proxy.json_access import Json
from llm_proxy.telemetry.privacy import redact

Policy = TypeVar("Policy", LimitPolicy, KillSwitch)

_UPSERT = """
INSERT INTO limit_rules
    (scope, tenant, subject, model_group, rpm, tpm, parallel, budgets, mode, on_store_failure, duration_s,
     weight, priority, loop_guard)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (scope, tenant, subject, model_group) DO UPDATE SET
    rpm = $5, tpm = $6, parallel = $7, budgets = $8, mode = $9, on_store_failure = $10, duration_s = $11,
    weight = $12, priority = $13, loop_guard = $14, changed_at = now()
"""
_DELETE = """
DELETE FROM limit_rules WHERE scope = $1 AND tenant = $2 AND subject = $3 AND model_group = $4 RETURNING *
"""
_POLICY = """
SELECT * FROM limit_rules WHERE scope = $1 AND tenant = $2 AND subject = $3 AND model_group = $4 FOR UPDATE
"""
_ROOT_ABOVE = "SELECT r.name FROM api_keys c JOIN api_keys r ON r.key_id = c.ancestors[1] WHERE c.key_id = $1"
_SWITCH = "SELECT reason FROM kill_switches WHERE kind = $1 AND tenant = $2 AND subject = $3 FOR UPDATE"


class PolicyRepository:
    """Reads and writes limit policies and kill switches; a change returns the epochs to publish."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list_policies(self) -> list[LimitPolicy]:
        """Returns all limit policies, ordered by scope, tenant, subject and model group."""
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT * FROM limit_rules ORDER BY scope, tenant, subject, model_group"
            )
        return [policy_from_row(row) for row in rows]

    async def tenants_of_keys(self, policies: list[LimitPolicy]) -> dict[str, str | None]:
        """Returns the tenant of each key that these policies name, by key id, without revoked keys."""
        ids = [policy.key_id for policy in policies if policy.key_id is not None]
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT key_id, tenant FROM api_keys WHERE key_id = ANY($1) AND revoked_at IS NULL", ids
            )
        return {row["key_id"]: row["tenant"] for row in rows}

    async def resolve_key(self, target: Policy) -> Policy:
        """Returns a policy or switch of a key with the key's id as its subject, any other one unchanged.

        Raises:
            NotFound: The key does not exist.
            BadRequest: The policy would have no effect: it limits what a child key shares with its root.
        """
        async with admin_transaction(self._pool) as connection:
            return await _require_effect(connection, await _resolve_key(connection, target))

    async def upsert(self, policy: LimitPolicy, actor: Actor) -> Epochs:
        """Sets a policy; it replaces the policy of the same scope, tenant, subject and model group."""
        async with admin_transaction(self._pool) as connection:
            policy = await _require_effect(connection, await _resolve_key(connection, policy))
            limits = policy.limits
            existing = await connection.fetchrow(
                _POLICY, policy.scope, policy.tenant, policy.subject, policy.group
            )
            same = (
                policy_from_row(existing).budgets
                if existing is not None and existing["mode"] == policy.mode
                else ()
            )
            policy = replace(policy, budgets=await with_counting_start(connection, policy.budgets, same))
            await connection.execute(
                _UPSERT, policy.scope, policy.tenant, policy.subject, policy.group, limits.rpm, limits.tpm,
                limits.parallel, budgets_to_json(policy.budgets), policy.mode, policy.on_store_failure,
                policy.duration_s, policy.weight, policy.priority, guard_to_json(policy.loop_guard),
            )  # fmt: skip
            before = _audit_document(policy_from_row(existing)) if existing is not None else None
            target = _audit_target(policy)
            await write_audit(
                connection, actor, "limits.set", target, before=before, after=_audit_document(policy)
            )
            return await bump_epochs(connection, policy.tenant)

    async def delete(self, policy: LimitPolicy, actor: Actor) -> Epochs:
        """Deletes a policy; raises `NotFound`."""
        async with admin_transaction(self._pool) as connection:
            policy = await _resolve_key(connection, policy)
            deleted = await connection.fetchrow(
                _DELETE, policy.scope, policy.tenant, policy.subject, policy.group,
            )  # fmt: skip
            if deleted is None:
                raise NotFound("No such limit policy.", param=_narrowest(policy))
            before = _audit_document(policy_from_row(deleted))
            await write_audit(connection, actor, "limits.drop", _audit_target(policy), before=before)
            return await bump_epochs(connection, policy.tenant)

    async def list_kill_switches(self) -> list[dict[str, Any]]:
        """Returns the rows of the enabled kill switches, the oldest first."""
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch("SELECT * FROM kill_switches ORDER BY thrown_at")
        return [dict(row) for row in rows]

    async def enable_switch(self, switch: KillSwitch, actor: Actor, *, reason: str = "") -> Epochs:
        """Enables a kill switch; for an enabled one it replaces the reason."""
        async with admin_transaction(self._pool) as connection:
            switch = await _resolve_key(connection, switch)
            existing = await connection.fetchrow(_SWITCH, switch.kind, switch.tenant, switch.subject)
            await connection.execute(
                "INSERT INTO kill_switches (kind, tenant, subject, reason) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (kind, tenant, subject) DO UPDATE SET reason = EXCLUDED.reason",
                switch.kind, switch.tenant, switch.subject, reason,
            )  # fmt: skip
            before = _switch_document(switch, existing["reason"]) if existing is not None else None
            after = _switch_document(switch, reason)
            target = f"{switch.kind} {switch.subject}"
            await write_audit(connection, actor, "kills.throw", target, before=before, after=after)
            return await bump_epochs(connection, switch.tenant)

    async def disable_switch(self, switch: KillSwitch, actor: Actor) -> Epochs:
        """Disables a kill switch; raises `NotFound`."""
        async with admin_transaction(self._pool) as connection:
            switch = await _resolve_key(connection, switch)
            deleted = await connection.fetchrow(
                "DELETE FROM kill_switches WHERE kind = $1 AND tenant = $2 AND subject = $3 RETURNING reason",
                switch.kind, switch.tenant, switch.subject,
            )  # fmt: skip
            if deleted is None:
                raise NotFound("No such kill switch.", param="subject")
            before = _switch_document(switch, deleted["reason"])
            await write_audit(
                connection, actor, "kills.lift", f"{switch.kind} {switch.subject}", before=before
            )
            return await bump_epochs(connection, switch.tenant)


def _narrowest(policy: LimitPolicy) -> str:
    """Returns the field that narrows most what a policy holds for."""
    if policy.subject not in {"", ANY}:
        return "subject"
    if policy.group not in {"", ANY}:
        return "model"
    return "scope" if policy.tenant in {"", ANY} else "tenant"


async def _resolve_key(connection: Connection, target: Policy) -> Policy:
    if isinstance(target, LimitPolicy) and target.scope == "run" and target.key_id is not None:
        named = await _resolve_key(connection, LimitPolicy("key", subject=target.key_id))
        return replace(target, subject=f"{OF_KEY}{named.subject}")
    kind = target.scope if isinstance(target, LimitPolicy) else target.kind
    if kind != "key" or target.subject == ANY or target.subject.startswith(INTERNAL_KEY_ID_PREFIX):
        return target
    try:
        return replace(target, subject=await find_key_id(connection, target.subject))
    except NotFound as missing:
        missing.param = "subject"
        raise


async def _require_effect(connection: Connection, target: Policy) -> Policy:
    """Returns a target; raises `BadRequest` for a policy of a child key that holds for whole families."""
    if not isinstance(target, LimitPolicy) or target.key_id is None or not target.family_fields:
        return target
    root = await connection.fetchval(_ROOT_ABOVE, target.key_id)
    if root is None:
        return target
    shared = " and ".join(target.family_fields)
    message = (
        f"This is a child key, which shares its {shared} with the keys above it: set this for the root key"
        f" '{redact(root)}'."
    )
    if not target.weight:
        message += " For one sub-agent alone, bind its key to an agent and set it for that agent."
    raise BadRequest(message, param="subject", code="child_key_subject")


def _audit_target(policy: LimitPolicy) -> str | Person:
    """Returns the target of an audit entry: of a user's policy the person."""
    if _is_about_person(policy):
        return Person(policy.subject, _tenant_or_none(policy))
    return f"{policy.scope} {policy.tenant} {policy.subject} {policy.group}"


def _audit_document(policy: LimitPolicy) -> Json:
    person = {"subject": Person(policy.subject, _tenant_or_none(policy))} if _is_about_person(policy) else {}
    return policy_document(policy) | person


def _is_about_person(policy: LimitPolicy) -> bool:
    return policy.scope == "user_model" and policy.subject not in {ANY, ""}


def _tenant_or_none(policy: LimitPolicy) -> str | None:
    return None if policy.tenant == ANY else policy.tenant


def _switch_document(switch: KillSwitch, reason: str) -> Json:
    return {"kind": switch.kind, "subject": switch.subject, "tenant": switch.tenant, "reason": redact(reason)}
