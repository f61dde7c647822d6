"""Where operators lay down rules and throw kill switches, and read what was put on record.

Invariants: as in `deeds`; a key may be named by its name or prefix, but is kept by its id, and one that is
not there is not passed over. Errors: `NotFound`, `BadRequest`, `StoreUnavailable`.
"""

import json
from dataclasses import replace
from typing import Any, TypeVar

import asyncpg

from llm_proxy.errors import NotFound
from llm_proxy.identity.credentials import INTERNAL
from llm_proxy.identity.deeds import Actor, Epochs, audit, deed, raise_epochs
from llm_proxy.identity.registry import key_id_of
from llm_proxy.identity.rules import ANY, Kill, Rule
from llm_proxy.identity.store import Connection, budgets_text, rule_of

Ruling = TypeVar("Ruling", Rule, Kill)

_SET = """
INSERT INTO limit_rules
    (scope, tenant, subject, model_group, rpm, tpm, parallel, budgets, mode, on_store_failure)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (scope, tenant, subject, model_group) DO UPDATE SET
    rpm = $5, tpm = $6, parallel = $7, budgets = $8, mode = $9, on_store_failure = $10, changed_at = now()
"""
_DROP = """
DELETE FROM limit_rules WHERE scope = $1 AND tenant = $2 AND subject = $3 AND model_group = $4 RETURNING scope
"""


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

    async def with_id(self, ruling: Ruling) -> Ruling:
        """A rule or switch of a key with the key's id for its subject; any other as it is."""
        async with deed(self._pool) as connection:
            return await _with_id(connection, ruling)

    async def set_rule(self, rule: Rule, actor: Actor) -> Epochs:
        """Lay down a rule in place of the one for the same scope and subject."""
        async with deed(self._pool) as connection:
            rule = await _with_id(connection, rule)
            limits = rule.limits
            await connection.execute(
                _SET, rule.scope, rule.tenant, rule.subject, rule.group, limits.rpm, limits.tpm,
                limits.parallel, budgets_text(rule.budgets), rule.mode, rule.on_store_failure,
            )  # fmt: skip
            await audit(connection, actor, "limits.set", _name_of(rule))
            return await raise_epochs(connection, rule.tenant)

    async def drop_rule(self, rule: Rule, actor: Actor) -> Epochs:
        """Take a rule away; raises `NotFound`."""
        async with deed(self._pool) as connection:
            rule = await _with_id(connection, rule)
            dropped = await connection.fetchval(
                _DROP, rule.scope, rule.tenant, rule.subject, rule.group,
            )  # fmt: skip
            if dropped is None:
                raise NotFound("No such rule.")
            await audit(connection, actor, "limits.drop", _name_of(rule))
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
            await connection.execute(
                "INSERT INTO kill_switches (kind, tenant, subject, reason) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (kind, tenant, subject) DO UPDATE SET reason = EXCLUDED.reason",
                kill.kind, kill.tenant, kill.subject, reason,
            )  # fmt: skip
            await audit(connection, actor, "kills.throw", f"{kill.kind} {kill.subject}", {"reason": reason})
            return await raise_epochs(connection, kill.tenant)

    async def lift(self, kill: Kill, actor: Actor) -> Epochs:
        """Put a kill switch back; raises `NotFound`."""
        async with deed(self._pool) as connection:
            kill = await _with_id(connection, kill)
            lifted = await connection.fetchval(
                "DELETE FROM kill_switches WHERE kind = $1 AND tenant = $2 AND subject = $3 RETURNING kind",
                kill.kind, kill.tenant, kill.subject,
            )  # fmt: skip
            if lifted is None:
                raise NotFound("No such kill switch.")
            await audit(connection, actor, "kills.lift", f"{kill.kind} {kill.subject}")
            return await raise_epochs(connection, kill.tenant)

    async def recorded(self, *, limit: int = 100, before: int | None = None) -> list[dict[str, Any]]:
        """The newest audit rows, or those before one."""
        async with deed(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT * FROM audit_log WHERE $1::bigint IS NULL OR id < $1 ORDER BY id DESC LIMIT $2",
                before, limit,
            )  # fmt: skip
        return [dict(row) | {"detail": json.loads(row["detail"])} for row in rows]


async def _with_id(connection: Connection, ruling: Ruling) -> Ruling:
    kind = ruling.scope if isinstance(ruling, Rule) else ruling.kind
    if kind != "key" or ruling.subject == ANY or ruling.subject.startswith(INTERNAL):
        return ruling
    return replace(ruling, subject=await key_id_of(connection, ruling.subject))


def _name_of(rule: Rule) -> str:
    return f"{rule.scope} {rule.tenant} {rule.subject} {rule.group}"
