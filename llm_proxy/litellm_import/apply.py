"""Writes an import's plan to the gateway's database, in one transaction.

Invariants: a second run with the same rows changes nothing; what changed there since the last run is changed
here, what is gone there is taken away, and what operators changed here meanwhile stays as long as its row
there is the same. A key or policy that no import made is never changed. A dry run does the same and rolls
back.
"""

import hashlib
import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, cast

from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.identity import (
    ANY,
    Actor,
    Budget,
    KeyRepository,
    KeySpec,
    KillSwitch,
    LimitPolicy,
    PolicyRepository,
    admin_transaction,
)
from llm_proxy.identity.admin_documents import key_fields, policy_document
from llm_proxy.identity.audit import Epochs, bump_epochs, with_counting_start
from llm_proxy.identity.postgres_store import Connection, Pool, budgets_to_json
from llm_proxy.identity.virtual_keys import GeneratedKey, lookup_from_digest
from llm_proxy.json_access import Json
from llm_proxy.litellm_import.plan import ImportPlan, OpeningSpend, PlannedKey, PlannedPolicy, PlannedSwitch
from llm_proxy.money import NANO_PER_USD

Change = Literal["new", "changed", "removed", "unchanged", "kept"]
"""`kept`: a key or policy of the same name is the gateway's own, and stays."""


_REMEMBER = """
INSERT INTO litellm_imports (source, kind, source_id, target, fingerprint) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (source, kind, source_id) DO UPDATE SET
    target = EXCLUDED.target, fingerprint = EXCLUDED.fingerprint, imported_at = now()
"""
_DROP_OPENING = """
DELETE FROM opening_spend WHERE scope = $1 AND tenant = $2 AND subject = $3 AND model_group = $4
"""


@dataclass(frozen=True, slots=True)
class ImportChange:
    """What was done with one key, policy or kill switch; `detail` is for a person."""

    kind: Literal["key", "policy", "switch"]
    change: Change
    name: str
    tenant: str | None
    detail: str = ""


@dataclass(slots=True)
class ImportResult:
    """What was done, and the epochs to publish."""

    changes: list[ImportChange] = field(default_factory=list[ImportChange])
    epochs: dict[str, int] = field(default_factory=dict[str, int])


class _RolledBack(Exception):  # noqa: N818 -- the end of a dry run, no error
    pass


async def apply_import(
    pool: Pool, plan: ImportPlan, source: str, actor: Actor, *, dry_run: bool, revokes_most: bool = False
) -> ImportResult:
    """Applies a plan and returns what was done, or in a dry run what would be; `source` names the proxy.

    Raises:
        BadRequest: More than half of the keys of earlier runs would be revoked, and not `revokes_most`.
    """
    result = ImportResult()
    try:
        async with admin_transaction(pool) as connection:
            await _Application(connection, source, actor, result).run(plan)
            _roll_back(if_=dry_run)
            _require_most_keys(result, revokes_most=revokes_most)
    except _RolledBack:
        result.epochs.clear()
    return result


def _roll_back(*, if_: bool) -> None:
    if if_:
        raise _RolledBack


def _require_most_keys(result: ImportResult, *, revokes_most: bool) -> None:
    """Raises `BadRequest` where another database than last time seems to be read."""
    known = [one.change for one in result.changes if one.kind == "key" and one.change != "new"]
    revoked = known.count("removed")
    if revoked * 2 > len(known) and not revokes_most:
        raise BadRequest(
            f"Nothing was imported: {revoked} of {len(known)} keys of the last import are gone from LiteLLM's"
            " database and would be revoked for good. Is it the same database? --accept revokes them."
        )


class _OneConnection:
    """Stands in for a pool: the repositories' transactions become parts of one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncGenerator[Connection]:  # noqa: ARG002, ASYNC109 -- asyncpg's signature
        yield self._connection


class _Application:
    """One import into one transaction."""

    def __init__(self, connection: Connection, source: str, actor: Actor, result: ImportResult) -> None:
        self._connection, self._source, self._actor, self._result = connection, source, actor, result
        pool = cast("Pool", _OneConnection(connection))
        self._keys, self._policies = KeyRepository(pool), PolicyRepository(pool)
        self._tenants: set[str | None] = set()

    async def run(self, plan: ImportPlan) -> None:
        known = await self._known()
        seen: set[tuple[str, str]] = set()
        for key in plan.keys:
            seen.add(("key", key.source_id))
            await self._apply_key(key, known.get(("key", key.source_id)))
        stored = {_target(one): one for one in await self._policies.list_policies()}
        for policy in plan.policies:
            seen.add(("policy", policy.source_id))
            await self._apply_policy(policy, known.get(("policy", policy.source_id)), stored)
        for switch in plan.switches:
            seen.add(("switch", switch.source_id))
            await self._apply_switch(switch, known.get(("switch", switch.source_id)))
        for (kind, source_id), (target, _) in known.items():
            if (kind, source_id) not in seen:
                await self._remove(kind, source_id, target)
        if self._tenants:
            self._publish(await bump_epochs(self._connection, *self._tenants))

    async def _known(self) -> dict[tuple[str, str], tuple[Json, bytes]]:
        rows = await self._connection.fetch(
            "SELECT kind, source_id, target, fingerprint FROM litellm_imports WHERE source = $1", self._source
        )
        return {
            (row["kind"], row["source_id"]): (json.loads(row["target"]), row["fingerprint"]) for row in rows
        }

    async def _apply_key(self, key: PlannedKey, known: tuple[Json, bytes] | None) -> None:
        print_ = _fingerprint(
            [
                key_fields(key.spec),
                key.blocked,
                [[one, until.isoformat()] for one, until in key.former],
                key.spend_mark,
            ]
        )
        if known is not None and known[1] == print_:
            self._report("key", "unchanged", key.spec.name, key.spec.tenant)
            return
        if known is None:
            key_id = await self._create_key(key)
            if key_id is None:
                return
            change: Change = "new"
        else:
            key_id, change = str(known[0]["key_id"]), "changed"
            if not await self._update_key(key_id, key):
                self._report(
                    "key", "kept", key.spec.name, key.spec.tenant, "it was revoked here and stays so"
                )
                await self._remember("key", key.source_id, {"key_id": key_id}, print_)
                return
        await self._set_former_secrets(key_id, key)
        await self._set_key_opening(key_id, key)
        was_blocked = known is not None and bool(known[0].get("blocked"))
        if key.blocked != was_blocked:
            await self._switch(KillSwitch("key", key_id), is_on=key.blocked, reason="blocked in LiteLLM")
        await self._remember("key", key.source_id, {"key_id": key_id, "blocked": key.blocked}, print_)
        self._tenants.add(key.spec.tenant)
        self._report("key", change, key.spec.name, key.spec.tenant, "blocked" if key.blocked else "")

    async def _create_key(self, key: PlannedKey) -> str | None:
        """Creates a key and returns its id; None if a key with this secret exists."""
        digest = bytes.fromhex(key.source_id)
        lookup = lookup_from_digest(digest)
        taken = await self._connection.fetchval("SELECT key_id FROM key_secrets WHERE lookup = $1", lookup)
        if taken is not None:
            detail = "its secret is that of a key which was revoked, or imported from another source"
            self._report("key", "kept", key.spec.name, key.spec.tenant, detail)
            return None
        spec = await self._with_free_name(key, "")
        mutation = await self._keys.create(spec, self._actor, GeneratedKey("", lookup, digest))
        return mutation.record.key_id

    async def _with_free_name(self, key: PlannedKey, key_id: str) -> KeySpec:
        """Returns the specification with a name that no other key than `key_id` has."""
        name = key.spec.name
        statement = "SELECT true FROM api_keys WHERE name = $1 AND key_id <> $2"
        if await self._connection.fetchval(statement, name, key_id):
            name = f"{name[:200]} (litellm {key.source_id[:8]})"
        return replace(key.spec, name=name)

    async def _update_key(self, key_id: str, key: PlannedKey) -> bool:
        """Changes a key; returns False for one that was revoked or deleted here."""
        try:
            record = await self._keys.get(key_id)
        except NotFound:
            return False
        if record.revoked_at is not None:
            return False
        mutation = await self._keys.update(key_id, await self._with_free_name(key, key_id), self._actor)
        self._publish(mutation.epochs)
        return True

    async def _set_former_secrets(self, key_id: str, key: PlannedKey) -> None:
        for hexadecimal, until in key.former:
            digest = bytes.fromhex(hexadecimal)
            await self._connection.execute(
                "INSERT INTO key_secrets (lookup, key_id, digest, expires_at) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (lookup) DO UPDATE SET expires_at = EXCLUDED.expires_at"
                " WHERE key_secrets.key_id = EXCLUDED.key_id",
                lookup_from_digest(digest), key_id, digest, until,
            )  # fmt: skip

    async def _apply_policy(
        self,
        planned: PlannedPolicy,
        known: tuple[Json, bytes] | None,
        stored: Mapping[tuple[str, ...], LimitPolicy],
    ) -> None:
        policy, at = planned.policy, _target(planned.policy)
        print_ = _fingerprint([policy_document(policy), planned.spend_mark])
        name, tenant = _policy_name(policy), None if policy.tenant == ANY else policy.tenant
        if known is not None and known[1] == print_:
            self._report("policy", "unchanged", name, tenant)
            return
        before = tuple(known[0]["at"]) if known is not None else None
        if before is not None and before != at:
            await self._drop_policy(before)
        if before != at and at in stored:
            self._report("policy", "kept", name, tenant, "a limit policy of the gateway's own is there")
            return
        self._publish(await self._policies.upsert(policy, self._actor))
        await self._set_policy_opening(planned)
        await self._remember("policy", planned.source_id, {"at": list(at)}, print_)
        self._report("policy", "changed" if known else "new", name, tenant)

    async def _apply_switch(self, planned: PlannedSwitch, known: tuple[Json, bytes] | None) -> None:
        switch = planned.switch
        print_ = _fingerprint([switch.kind, switch.subject, switch.tenant])
        if known is not None and known[1] == print_:
            self._report("switch", "unchanged", switch.subject, None)
            return
        if known is not None:
            await self._remove("switch", planned.source_id, known[0])
        await self._switch(switch, is_on=True, reason=planned.reason)
        target = {"kind": switch.kind, "subject": switch.subject}
        await self._remember("switch", planned.source_id, target, print_)
        self._report("switch", "new", f"{switch.kind} {switch.subject}", None, planned.reason)

    async def _remove(self, kind: str, source_id: str, target: Json) -> None:
        """Takes away what an earlier run made of a row that is gone."""
        if kind == "key":
            if target.get("blocked"):
                await self._switch(KillSwitch("key", str(target["key_id"])), is_on=False)
            try:
                mutation = await self._keys.revoke(str(target["key_id"]), self._actor)
            except NotFound:
                pass
            else:
                self._publish(mutation.epochs)
                spec = mutation.record.spec
                self._report("key", "removed", spec.name, spec.tenant, "revoked: LiteLLM has it no more")
        elif kind == "policy":
            at = tuple(target["at"])
            await self._drop_policy(at)
            self._report("policy", "removed", " ".join(at), at[1])
        else:
            await self._switch(KillSwitch(target["kind"], target["subject"]), is_on=False)
            self._report("switch", "removed", f"{target['kind']} {target['subject']}", None)
        await self._connection.execute(
            "DELETE FROM litellm_imports WHERE source = $1 AND kind = $2 AND source_id = $3",
            self._source, kind, source_id,
        )  # fmt: skip

    async def _drop_policy(self, at: tuple[str, ...]) -> None:
        policy = LimitPolicy(at[0], *at[1:])  # type: ignore[arg-type]  # a scope, as it was stored
        await self._connection.execute(
            _DROP_OPENING,
            policy.scope, policy.tenant, policy.subject, policy.group,
        )  # fmt: skip
        try:
            self._publish(await self._policies.delete(policy, self._actor))
        except NotFound:
            return

    async def _switch(self, switch: KillSwitch, *, is_on: bool, reason: str = "") -> None:
        if is_on:
            self._publish(await self._policies.enable_switch(switch, self._actor, reason=reason))
            return
        try:
            self._publish(await self._policies.disable_switch(switch, self._actor))
        except NotFound:
            return

    async def _set_opening(
        self, at: tuple[str, str, str, str], opening: OpeningSpend | None, budgets: tuple[Budget, ...]
    ) -> str | None:
        """Sets what a budget begins with.

        Returns the column `budgets` with which its counter is a new one, and is rebuilt with the new
        beginning; None where nothing changed.
        """
        dropped = await self._connection.execute(_DROP_OPENING, *at)
        if opening is not None:
            await self._connection.execute(
                "INSERT INTO opening_spend (scope, tenant, subject, model_group, period_start, cost_usd)"
                " VALUES ($1, $2, $3, $4, $5, $6)",
                *at, opening.period_start, Decimal(opening.cost_nano_usd) / NANO_PER_USD,
            )  # fmt: skip
        elif dropped == "DELETE 0":
            return None
        return budgets_to_json(await with_counting_start(self._connection, budgets, ()))

    async def _set_key_opening(self, key_id: str, key: PlannedKey) -> None:
        budgets = await self._set_opening(("key", "", key_id, ANY), key.opening, key.spec.budgets)
        if budgets is not None:
            await self._connection.execute(
                "UPDATE api_keys SET budgets = $2 WHERE key_id = $1", key_id, budgets
            )

    async def _set_policy_opening(self, planned: PlannedPolicy) -> None:
        policy = planned.policy
        at = policy.scope, policy.tenant, policy.subject, policy.group
        budgets = await self._set_opening(at, planned.opening, policy.budgets)
        if budgets is not None:
            await self._connection.execute(
                "UPDATE limit_rules SET budgets = $5 WHERE scope = $1 AND tenant = $2 AND subject = $3"
                " AND model_group = $4",
                *at, budgets,
            )  # fmt: skip

    async def _remember(self, kind: str, source_id: str, target: Json, print_: bytes) -> None:
        await self._connection.execute(
            _REMEMBER,
            self._source, kind, source_id, json.dumps(target), print_,
        )  # fmt: skip

    def _publish(self, epochs: Epochs) -> None:
        self._result.epochs |= epochs

    def _report(
        self,
        kind: Literal["key", "policy", "switch"],
        change: Change,
        name: str,
        tenant: str | None,
        detail: str = "",
    ) -> None:
        self._result.changes.append(ImportChange(kind, change, name, tenant, detail))


def planned_changes(plan: ImportPlan) -> Iterable[ImportChange]:
    """Yields what a first import would do, for a run without a database of the gateway's."""
    yield from (ImportChange("key", "new", one.spec.name, one.spec.tenant) for one in plan.keys)
    for one in plan.policies:
        tenant = None if one.policy.tenant == ANY else one.policy.tenant
        yield ImportChange("policy", "new", _policy_name(one.policy), tenant)
    yield from (
        ImportChange("switch", "new", f"{one.switch.kind} {one.switch.subject}", None, one.reason)
        for one in plan.switches
    )


def _policy_name(policy: LimitPolicy) -> str:
    names = {"user_model": "user", "tenant_group": "tenant"}
    at = "" if policy.group == ANY else f" at {policy.group}"
    return f"{names.get(policy.scope, policy.scope)} {policy.subject}{at}"


def _target(policy: LimitPolicy) -> tuple[str, ...]:
    return policy.scope, policy.tenant, policy.subject, policy.group


def _fingerprint(value: object) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).digest()
