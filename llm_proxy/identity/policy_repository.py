"""Sets and deletes limit policies, enables and disables kill switches.

Invariants: every change is an admin transaction (see `audit`). A key may be named by name, prefix or id and
is stored by its id.
Raises: `NotFound`, `BadRequest`, `StoreUnavailable`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from llm_proxy.errors import NotFound
from llm_proxy.identity.admin_documents import rule_document
from llm_proxy.identity.audit import Actor, Epochs, Person, audit, deed, laid, raise_epochs
from llm_proxy.identity.authenticator import INTERNAL
from llm_proxy.identity.caller import ANY
from llm_proxy.identity.key_repository import key_id_of
from llm_proxy.identity.policies import Kill, Rule
from llm_proxy.identity.postgres_store import Connection, budgets_text, rule_of
from llm_proxy.json_access import Json
from llm_proxy.telemetry.privacy import redact

if TYPE_CHECKING:
    import asyncpg

Ruling = TypeVar("Ruling", Rule, Kill)

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


class Rulings:
    """Writes rules and kill switches."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def rules(self) -> list[Rule]:
        """All rules."""
        async with deed(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT * FROM limit_rules ORDER BY scope, tenant, subject, model_group"
            )
        return [rule_of(row) for row in rows]

    async def tenants(self, rules: list[Rule]) -> dict[str, str | None]:
        """The tenants of the keys that these rules are about, by id; without those that were revoked."""
        ids = [rule.subject for rule in rules if rule.scope == "key"]
        async with deed(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT key_id, tenant FROM api_keys WHERE key_id = ANY($1) AND revoked_at IS NULL", ids
            )
        return {row["key_id"]: row["tenant"] for row in rows}

    async def with_id(self, ruling: Ruling) -> Ruling:
        """A rule or switch of a key with the key's id for its subject; any other as it is."""
        async with deed(self._pool) as connection:
            return await _with_id(connection, ruling)

    async def set_rule(self, rule: Rule, actor: Actor) -> Epochs:
        """Lay down a rule in place of the one for the same scope and subject."""
        async with deed(self._pool) as connection:
            rule = await _with_id(connection, rule)
            limits = rule.limits
            old = await connection.fetchrow(_RULE, rule.scope, rule.tenant, rule.subject, rule.group)
            same = rule_of(old).budgets if old is not None and old["mode"] == rule.mode else ()
            rule = replace(rule, budgets=await laid(connection, rule.budgets, same))
            await connection.execute(
                _SET, rule.scope, rule.tenant, rule.subject, rule.group, limits.rpm, limits.tpm,
                limits.parallel, budgets_text(rule.budgets), rule.mode, rule.on_store_failure,
            )  # fmt: skip
            before = _audited(rule_of(old)) if old is not None else None
            target = _target(rule)
            await audit(connection, actor, "limits.set", target, before=before, after=_audited(rule))
            return await raise_epochs(connection, rule.tenant)

    async def drop_rule(self, rule: Rule, actor: Actor) -> Epochs:
        """Take a rule away; raises `NotFound`."""
        async with deed(self._pool) as connection:
            rule = await _with_id(connection, rule)
            dropped = await connection.fetchrow(
                _DROP, rule.scope, rule.tenant, rule.subject, rule.group,
            )  # fmt: skip
            if dropped is None:
                raise NotFound("No such rule.")
            before = _audited(rule_of(dropped))
            await audit(connection, actor, "limits.drop", _target(rule), before=before)
            return await raise_epochs(connection, rule.tenant)

    async def kills(self) -> list[dict[str, Any]]:
        """The kill switches that are thrown."""
        async with deed(self._pool) as connection:
            rows = await connection.fetch("SELECT * FROM kill_switches ORDER BY thrown_at")
        return [dict(row) for row in rows]

    async def throw(self, kill: Kill, actor: Actor, *, reason: str = "") -> Epochs:
        """Throw a kill switch."""
        async with deed(self._pool) as connection:
            kill = await _with_id(connection, kill)
            old = await connection.fetchrow(_KILL, kill.kind, kill.tenant, kill.subject)
            await connection.execute(
                "INSERT INTO kill_switches (kind, tenant, subject, reason) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (kind, tenant, subject) DO UPDATE SET reason = EXCLUDED.reason",
                kill.kind, kill.tenant, kill.subject, reason,
            )  # fmt: skip
            before = _switch(kill, old["reason"]) if old is not None else None
            after = _switch(kill, reason)
            target = f"{kill.kind} {kill.subject}"
            await audit(connection, actor, "kills.throw", target, before=before, after=after)
            return await raise_epochs(connection, kill.tenant)

    async def lift(self, kill: Kill, actor: Actor) -> Epochs:
        """Put a kill switch back; raises `NotFound`."""
        async with deed(self._pool) as connection:
            kill = await _with_id(connection, kill)
            lifted = await connection.fetchrow(
                "DELETE FROM kill_switches WHERE kind = $1 AND tenant = $2 AND subject = $3 RETURNING reason",
                kill.kind, kill.tenant, kill.subject,
            )  # fmt: skip
            if lifted is None:
                raise NotFound("No such kill switch.")
            before = _switch(kill, lifted["reason"])
            await audit(connection, actor, "kills.lift", f"{kill.kind} {kill.subject}", before=before)
            return await raise_epochs(connection, kill.tenant)


async def _with_id(connection: Connection, ruling: Ruling) -> Ruling:
    kind = ruling.scope if isinstance(ruling, Rule) else ruling.kind
    if kind != "key" or ruling.subject == ANY or ruling.subject.startswith(INTERNAL):
        return ruling
    return replace(ruling, subject=await key_id_of(connection, ruling.subject))


def _target(rule: Rule) -> str | Person:
    """What the audit log says a rule is for; a user's rule is about a person."""
    if _is_of_a_person(rule):
        return Person(rule.subject, _tenant(rule))
    return f"{rule.scope} {rule.tenant} {rule.subject} {rule.group}"


def _audited(rule: Rule) -> Json:
    person = {"subject": Person(rule.subject, _tenant(rule))} if _is_of_a_person(rule) else {}
    return rule_document(rule) | person


def _is_of_a_person(rule: Rule) -> bool:
    return rule.scope == "user_model" and rule.subject not in {ANY, ""}


def _tenant(rule: Rule) -> str | None:
    return None if rule.tenant == ANY else rule.tenant


def _switch(kill: Kill, reason: str) -> Json:
    return {"kind": kill.kind, "subject": kill.subject, "tenant": kill.tenant, "reason": redact(reason)}
