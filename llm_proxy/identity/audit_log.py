"""Reads the audit log page by page, and verifies its chain.

Invariants: read only. Verification uses one snapshot and computes every digest here. It finds changed,
reordered, added and removed entries; a chain that was rewritten as a whole is found only by a head that was
kept elsewhere.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from llm_proxy.errors import NotFound
from llm_proxy.identity.audit import (
    DIGEST_COLUMNS,
    GENESIS,
    RETIRE_ACTION,
    SEAL_ACTION,
    Person,
    admin_transaction,
    entry_digest,
    pseudonym_of,
)
from llm_proxy.identity.postgres_store import Connection, Pool, database_errors
from llm_proxy.json_access import Json

_PSEUDONYM = re.compile(r"person:[0-9a-f]{32}")
_WHERE = """
    ($1::bigint IS NULL OR id < $1)
    AND ($2::text IS NULL OR action LIKE $2)
    AND ($3::text[] IS NULL OR actor = ANY ($3))
    AND ($4::text[] IS NULL OR target = ANY ($4) OR string_to_array(target, ' ') && $4 OR name = ANY ($4))
    AND ($5::timestamptz IS NULL OR at >= $5) AND ($6::timestamptz IS NULL OR at < $6)
    ORDER BY id DESC LIMIT $7
"""
_CHAINED = """
SELECT * FROM (SELECT seq AS id, true AS chained, at, actor, role, client_ip, action, target, status, reason,
                      before::text, after::text, detail::text, detail ->> 'name' AS name,
                      encode(digest, 'hex') AS digest
               FROM audit_entries) AS entries WHERE
"""
_UNCHAINED = """
SELECT * FROM (SELECT id, false AS chained, at, actor, NULL AS role, client_ip, action, target,
                      NULL::integer AS status, NULL AS reason, NULL AS before, NULL AS after, detail::text,
                      detail ->> 'name' AS name, NULL AS digest
               FROM audit_log WHERE action <> 'credential.refused') AS entries WHERE
"""
_KEY_IDS = """
SELECT key_id FROM api_keys WHERE name = $1
    OR key_id = (SELECT key_id FROM key_secrets WHERE lookup = right($1, 12) AND left($1, 8) = 'sk-llmp-')
"""
_ABOUT = """
target = ANY ($1::text[]) OR string_to_array(target, ' ') && $1::text[]
OR detail ->> 'name' = ANY ($1::text[])
"""
_KNOWN = """
SELECT EXISTS (SELECT FROM audit_entries WHERE {0}) OR EXISTS (SELECT FROM audit_log WHERE {0})
"""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Selects entries; None means any.

    Attributes:
        action: `keys.change`, or `keys.*` for all actions with that beginning.
        actor: An admin key's name, a pseudonym, or a part of the gateway.
        subject: A key's id, name or prefix; a tenant, agent, user or model; or a complete target.
        since: Inclusive.
        until: Exclusive.
    """

    action: str | None = None
    actor: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class AuditLog:
    """Lists entries, with names instead of pseudonyms.

    Entries of the chain come first, the newest first, then the rows written before the chain existed
    (`chained` false) without their rejected credentials, which are no admin actions.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list_entries(
        self, selected: AuditFilter | None = None, *, limit: int = 100, before: int | None = None
    ) -> list[Json]:
        """Returns the newest entries, or the newest of those whose id is below `before`.

        Raises:
            NotFound: No entry of the log has this action, actor or subject.
            StoreUnavailable: Postgres does not answer.
        """
        selected = selected or AuditFilter()
        async with admin_transaction(self._pool) as connection:
            arguments = await _arguments(connection, selected, before)
            rows = await connection.fetch(_CHAINED + _WHERE, *arguments, limit)
            if len(rows) < limit:
                rows += await connection.fetch(_UNCHAINED + _WHERE, *arguments, limit - len(rows))
            if not rows and before is None:
                await _require_known_filter(connection, selected, arguments)
            names = await _fetch_names(connection, rows)
        return [_entry(row, names) for row in rows]


async def _arguments(connection: Connection, selected: AuditFilter, before: int | None) -> list[Any]:
    action, actor, subject = selected.action, selected.actor, selected.subject
    actors = [actor, *await _pseudonyms(connection, actor)] if actor else None
    subjects: list[str] | None = None
    if subject:
        keys = [row["key_id"] for row in await connection.fetch(_KEY_IDS, subject)]
        subjects = [subject, *keys, *await _pseudonyms(connection, subject)]
    pattern = _action_pattern(action) if action else None
    return [before, pattern, actors, subjects, selected.since, selected.until]


def _action_pattern(action: str) -> str:
    escaped = action.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


async def _pseudonyms(connection: Connection, name: str) -> list[str]:
    rows = await connection.fetch("SELECT pseudonym FROM audit_people WHERE name = $1", name)
    return [row["pseudonym"] for row in rows]


async def _require_known_filter(connection: Connection, selected: AuditFilter, arguments: list[Any]) -> None:
    _, action, actors, subjects, *_ = arguments
    for param, condition, argument in (
        ("action", "action LIKE $1", action),
        ("actor", "actor = ANY ($1::text[])", actors),
        ("subject", _ABOUT, subjects),
    ):
        if argument is not None and not await connection.fetchval(_KNOWN.format(condition), argument):
            raise NotFound(f"No audit entry has the {param} {getattr(selected, param)!r}.", param=param)


async def _fetch_names(connection: Connection, rows: Iterable[asyncpg.Record]) -> dict[str, str]:
    """Returns the names of the pseudonyms in these rows, without erased ones."""
    texts = (str(row[name]) for row in rows for name in ("actor", "target", "before", "after", "detail"))
    pseudonyms = {pseudonym for text in texts for pseudonym in _PSEUDONYM.findall(text)}
    if not pseudonyms:
        return {}
    people = await connection.fetch(
        "SELECT pseudonym, name FROM audit_people WHERE pseudonym = ANY ($1)", sorted(pseudonyms)
    )
    return {row["pseudonym"]: row["name"] for row in people}


def _entry(row: asyncpg.Record, names: dict[str, str]) -> Json:
    entry = dict(row)
    del entry["name"]
    entry["outcome"] = "refused" if entry["status"] is not None else "done"
    for name in ("before", "after", "detail"):
        entry[name] = _with_names(json.loads(entry[name]), names) if entry[name] is not None else None
    return entry | {name: _with_names(entry[name], names) for name in ("actor", "target")}


def _with_names(value: Any, names: dict[str, str]) -> Any:  # noqa: ANN401 -- JSON
    if isinstance(value, str):
        return _PSEUDONYM.sub(lambda match: names.get(match[0], match[0]), value)
    if isinstance(value, dict):
        return {key: _with_names(item, names) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return [_with_names(item, names) for item in value] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]


_MAX_FAULTS = 100
_ENTRIES = f"SELECT {', '.join(DIGEST_COLUMNS)}, digest FROM audit_entries ORDER BY seq, at, digest"  # noqa: S608 -- our own column names
_NEXT_ENTRIES = "FETCH 1000 FROM entries"


@dataclass(slots=True)
class AuditVerification:
    """The result of a verification; its fields are those of `llm-proxy audit verify --json`.

    Attributes:
        entries: The number of entries in the chain.
        head: The last entry's digest, in hex; empty when there is no entry.
        last: The last entry's number.
        unchained: The number of rows written before the chain existed, which nothing protects.
        retired: The months that retention dropped, as the chain records them.
        nameless: The number of pseudonyms whose names were erased.
        faults: One sentence for each fault, at most `_MAX_FAULTS`.
    """

    entries: int = 0
    head: str = ""
    last: int = 0
    unchained: int = 0
    retired: list[str] = field(default_factory=list[str])
    nameless: int = 0
    faults: list[str] = field(default_factory=list[str])

    def add_fault(self, fault: str) -> None:
        """Adds a fault, up to `_MAX_FAULTS`."""
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append(fault)


async def verify_audit_log(pool: Pool, known_head: str | None = None) -> AuditVerification:
    """Verifies the complete log.

    Args:
        pool: Connections to the database.
        known_head: The head of an earlier verification, kept outside the database.

    Raises:
        StoreUnavailable: Postgres does not answer, or has no audit log.
    """
    async with (
        database_errors(),
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        walk = _ChainWalk(known_head.lower() if known_head else None)
        await connection.execute(f"DECLARE entries NO SCROLL CURSOR FOR {_ENTRIES}")
        while rows := await connection.fetch(_NEXT_ENTRIES):
            for row in rows:
                walk.check_entry(row)
        walk.check_ends(await connection.fetchrow("SELECT seq, digest FROM audit_head"))
        await _check_people(connection, walk)
        walk.report.unchained = await connection.fetchval("SELECT count(*) FROM audit_log")
    return walk.report


class _ChainWalk:
    """Checks the entries in the order of their numbers."""

    def __init__(self, known_head: str | None) -> None:
        self.report = AuditVerification()
        self.pseudonyms: set[str] = set()
        self._known_head = known_head
        self._found_head = False
        self._first: Mapping[str, Any] | asyncpg.Record | None = None
        self._last: Mapping[str, Any] | asyncpg.Record | None = None
        self._retired: dict[tuple[int, str], list[str]] = {}
        self._by_month: Counter[str] = Counter()

    def check_entry(self, row: asyncpg.Record) -> None:
        """Checks the next entry."""
        report, seq = self.report, row["seq"]
        report.entries += 1
        if entry_digest(row) != row["digest"]:
            report.add_fault(f"entry {seq} was changed: its content does not fit its digest")
        if self._last is None:
            self._first = row
        else:
            self._compare(self._last, row)
        self._found_head = self._found_head or row["digest"].hex() == self._known_head
        self._note_people_and_months(row)
        self._last = row
        self._by_month[f"{row['at'].astimezone(UTC):%Y-%m}"] += 1

    def check_ends(self, head: asyncpg.Record | None) -> None:
        """Checks the first and the last entry of the chain."""
        report, first, last = self.report, self._first, self._last
        if first is not None and last is not None:
            report.head, report.last = last["digest"].hex(), last["seq"]
            report.retired = sorted(month for months in self._retired.values() for month in months)
            if (
                first["previous"] != GENESIS
                and (first["seq"] - 1, first["previous"].hex()) not in self._retired
            ):
                report.add_fault(
                    f"the entries before {first['seq']} are missing, and no retirement is on record"
                )
        if head is None:
            report.add_fault("the record of the chain's end is missing")
        elif last is None and head["digest"] != GENESIS:
            report.add_fault(f"every entry is missing: the chain had come to entry {head['seq']}")
        elif last is not None and (head["seq"], head["digest"]) != (last["seq"], last["digest"]):
            report.add_fault(
                f"the chain ends at entry {last['seq']}, and its end was recorded as entry {head['seq']}: "
                "entries at the end are missing, or were added or changed"
            )
        if self._known_head is not None and not self._found_head:
            report.add_fault(
                f"the head {self._known_head} is not in the chain: the log was rewritten, "
                "its end was cut off, or the head's month was retired"
            )

    def _compare(self, last: Mapping[str, Any] | asyncpg.Record, row: asyncpg.Record) -> None:
        report, seq, expected = self.report, row["seq"], last["seq"] + 1
        if seq == last["seq"]:
            report.add_fault(f"there are two entries {seq}")
        elif seq != expected:
            gap = f"entry {expected} is" if seq == expected + 1 else f"entries {expected} to {seq - 1} are"
            report.add_fault(f"{gap} missing")
        elif row["previous"] != last["digest"]:
            report.add_fault(f"entry {seq} does not follow entry {last['seq']}: one of them was replaced")
        if row["at"] < last["at"]:
            report.add_fault(f"entry {seq} is older than entry {last['seq']}")

    def _note_people_and_months(self, row: asyncpg.Record) -> None:
        """Collects the entry's pseudonyms and dropped months, and checks the seal of a month."""
        self.pseudonyms.update(name for name in (row["actor"], row["target"]) if name.startswith("person:"))
        if row["action"] not in {SEAL_ACTION, RETIRE_ACTION}:
            return
        try:
            detail = json.loads(row["detail"])
            if row["action"] == RETIRE_ACTION:
                months = [str(month) for month in detail["months"]]
                self._retired[int(detail["last"]), str(detail["digest"])] = months
            elif not self._seal_fits(detail, row):
                self.report.add_fault(f"month {row['target']} does not fit its seal, entry {row['seq']}")
        except (ValueError, KeyError, TypeError):
            self.report.add_fault(f"entry {row['seq']} is no {row['action']} of ours")

    def _seal_fits(self, seal: dict[str, Any], row: asyncpg.Record) -> bool:
        if self._last is None:  # the sealed month was dropped; `check_ends` checks that
            return bool(seal["digest"] == row["previous"].hex())
        sealed = (seal["digest"], seal["last"], seal["entries"])
        return bool(sealed == (self._last["digest"].hex(), self._last["seq"], self._by_month[row["target"]]))


async def _check_people(connection: Connection, walk: _ChainWalk) -> None:
    """Checks that every name fits its pseudonym: a swapped name would blame another person."""
    known: set[str] = set()
    for row in await connection.fetch("SELECT * FROM audit_people ORDER BY pseudonym"):
        known.add(row["pseudonym"])
        person = Person(row["name"], row["tenant"], row["kind"])
        if pseudonym_of(person, row["salt"]) != row["pseudonym"]:
            walk.report.add_fault(f"the name of {row['pseudonym']} was changed")
    walk.report.nameless = len(walk.pseudonyms - known)
