"""Compares a restored database with an export made before, and acknowledges the restore.

Invariants: what is acknowledged is done in one transaction, with an entry in the audit log. What was revoked,
ended, narrowed or thrown since the backup is so again, sessions end, erased people are on the list again,
budgets count what was used. An export that is older than the database changes nothing. Raises what
`admin_transaction` raises.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg

from llm_proxy.identity import Actor, admin_transaction
from llm_proxy.identity.audit import bump_epochs, write_audit
from llm_proxy.identity.caller import ANY
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.identity.revocation_export import (
    KEY_BINDING,
    RULE_SUBJECT,
    USED,
    RevocationExport,
    usage_since,
)
from llm_proxy.schema.database import jsonb_text
from llm_proxy.schema.database_marker import Marker, Sighting, read_marker, unlock_database

_LISTED = 20
_LONG_DEADLINE_S = 300.0
_KEY_LIMITS = ("expires_at", "models", "rpm", "tpm", "parallel", "budgets", "max_tokens_cap", "cache")
_RULE_LIMITS = (
    *("rpm", "tpm", "parallel", "budgets", "mode", "on_store_failure", "duration_s"),
    *("weight", "priority", "loop_guard", "changed_at"),
)
_RULE_OWNER = "scope, tenant, model_group, named"


def _columns(of: str, names: Sequence[str]) -> str:
    return ", ".join(f"{of}.{one}" for one in names)


_KEYS = f"""
exported AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb -> 'keys') AS x(
        key_id text, revoked_at timestamptz, changed_at timestamptz, expires_at timestamptz, ancestors text[],
        models text[], rpm bigint, tpm bigint, parallel bigint, budgets jsonb, max_tokens_cap integer,
        cache boolean, bound text, secrets jsonb)),
living AS (SELECT k.* FROM api_keys AS k WHERE k.revoked_at IS NULL),
revoked AS (SELECT k.key_id, k.name, exported.revoked_at FROM living AS k JOIN exported USING (key_id)
            WHERE exported.revoked_at IS NOT NULL),
changed AS (SELECT k.key_id, k.name FROM living AS k JOIN exported USING (key_id)
            WHERE exported.revoked_at IS NULL AND exported.changed_at > k.changed_at
              AND ({_columns("k", _KEY_LIMITS)}) IS DISTINCT FROM ({_columns("exported", _KEY_LIMITS)})),
rebound AS (SELECT k.key_id, k.name FROM living AS k JOIN exported USING (key_id)
            WHERE exported.revoked_at IS NULL AND exported.bound <> {KEY_BINDING}),
secrets AS (SELECT exported.key_id, x.* FROM exported, jsonb_to_recordset(exported.secrets)
            AS x(lookup text, digest text, expires_at timestamptz) WHERE exported.revoked_at IS NULL),
ended AS (SELECT k.key_id, k.name, s.lookup, coalesce(n.expires_at, now()) AS at
          FROM key_secrets AS s JOIN living AS k USING (key_id) JOIN exported USING (key_id)
          LEFT JOIN secrets AS n USING (lookup)
          WHERE exported.revoked_at IS NULL AND (s.expires_at IS NULL OR s.expires_at > now())
            AND (n.lookup IS NULL OR n.expires_at < coalesce(s.expires_at, 'infinity'))),
added AS (SELECT k.key_id, k.name, n.lookup, n.digest, n.expires_at
          FROM secrets AS n JOIN living AS k USING (key_id)
          WHERE NOT EXISTS (SELECT FROM key_secrets AS s WHERE s.lookup = n.lookup)),
lost AS (SELECT exported.key_id FROM exported WHERE exported.revoked_at IS NULL
           AND (exported.expires_at IS NULL OR exported.expires_at > now())
           AND NOT EXISTS (SELECT FROM api_keys AS k WHERE k.key_id = exported.key_id))
"""  # noqa: S608 -- our own text
_RULES = f"""
rules AS (
    SELECT r.*, r.subject AS named FROM jsonb_array_elements($1::jsonb -> 'rules') AS d (row),
           jsonb_populate_record(NULL::limit_rules, d.row) AS r),
here AS (SELECT r.*, {RULE_SUBJECT} AS named FROM limit_rules AS r),
changed_rules AS (
    SELECT scope, tenant, h.subject, model_group, named FROM here AS h JOIN rules AS n USING ({_RULE_OWNER})
    WHERE n.changed_at > h.changed_at
      AND to_jsonb(n) - 'changed_at' - 'subject' <> to_jsonb(h) - 'changed_at' - 'subject'),
new_rules AS (
    SELECT n.* FROM rules AS n LEFT JOIN here AS h USING ({_RULE_OWNER}) WHERE h.subject IS NULL),
dropped_rules AS (
    SELECT scope, tenant, named FROM here AS h LEFT JOIN rules AS n USING ({_RULE_OWNER})
    WHERE n.subject IS NULL),
switches AS (SELECT * FROM jsonb_to_recordset($1::jsonb -> 'switches')
             AS x(kind text, tenant text, subject text, thrown_at timestamptz)),
thrown AS (SELECT s.* FROM switches AS s WHERE NOT EXISTS (
    SELECT FROM kill_switches AS k WHERE (k.kind, k.tenant, k.subject) = (s.kind, s.tenant, s.subject))),
lifted AS (SELECT k.kind, k.subject FROM kill_switches AS k WHERE NOT EXISTS (
    SELECT FROM switches AS s WHERE (k.kind, k.tenant, k.subject) = (s.kind, s.tenant, s.subject)))
"""  # noqa: S608 -- our own text
_OTHERS = """
admins AS (SELECT * FROM jsonb_to_recordset($1::jsonb -> 'admin_keys')
           AS x(key_id text, revoked_at timestamptz, expires_at timestamptz)),
dead_admins AS (SELECT k.key_id FROM admin_keys AS k LEFT JOIN admins AS a USING (key_id)
                WHERE k.revoked_at IS NULL AND (a.key_id IS NULL OR a.revoked_at IS NOT NULL)),
erased AS (SELECT * FROM jsonb_to_recordset($1::jsonb -> 'erased')
           AS x(id uuid, tenant text, salt text, digest text, pseudonym text, asked_at timestamptz)),
forgotten AS (SELECT e.* FROM erased AS e WHERE NOT EXISTS (SELECT FROM erasures AS k WHERE k.id = e.id)),
raises AS (SELECT (d.row ->> 0) AS key_id, (d.row ->> 1)::timestamptz AS created_at
           FROM jsonb_array_elements($1::jsonb -> 'raises') AS d (row)),
ended_raises AS (SELECT r.raise_id, r.key_id FROM key_raises AS r WHERE r.ended_at IS NULL AND NOT EXISTS (
    SELECT FROM raises AS n WHERE (n.key_id, n.created_at) = (r.key_id, r.created_at)))
"""
_USED_COLUMNS = tuple(USED.split(", "))
_LOST = {one: f"greatest(0, used.{one} - coalesce(kept.{one}, 0))" for one in _USED_COLUMNS}
_USAGE = f"""
owners AS (  -- of a child key that is gone: the nearest key above it that is not
    SELECT x.key_id, (SELECT k.key_id FROM api_keys AS k WHERE k.key_id = ANY(x.ancestors)
                      ORDER BY cardinality(k.ancestors) DESC LIMIT 1) AS above
    FROM jsonb_to_recordset($1::jsonb -> 'keys') AS x(key_id text, ancestors text[])
    WHERE x.ancestors <> '{{}}' AND NOT EXISTS (SELECT FROM api_keys AS k WHERE k.key_id = x.key_id)),
used AS (SELECT u.* FROM jsonb_array_elements($1::jsonb -> 'used') AS d (row),
         jsonb_populate_record(NULL::usage_daily, d.row) AS u),
missing AS (
    SELECT day, coalesce(owners.above, used.key_id) AS key_id, tenant, agent, model_group, provider,
           {", ".join(f"sum({text}) AS {one}" for one, text in _LOST.items())}
    FROM used LEFT JOIN {usage_since("($1::jsonb ->> 'used_since')::date")} AS kept
        USING (day, key_id, tenant, agent, model_group, provider)
    LEFT JOIN owners ON owners.key_id = used.key_id
    GROUP BY 1, 2, 3, 4, 5, 6 HAVING {" OR ".join(f"sum({text}) > 0" for text in _LOST.values())})
"""  # noqa: S608 -- our own text
_AN_OWNER = "SELECT scope || ' ' || tenant || ' ' || named FROM "
_SPENT = (
    "SELECT coalesce(nullif(tenant, ''), '-') || ' ' || sum(cost_usd)::text FROM missing"
    " GROUP BY tenant HAVING sum(cost_usd) > 0 ORDER BY sum(cost_usd) DESC"
)
_NEW_OF_PEOPLE = f"{_AN_OWNER} new_rules WHERE named LIKE 'sha256:%'"
_OTHER_NEW = f"{_AN_OWNER} new_rules WHERE named NOT LIKE 'sha256:%'"
_WHAT = (
    ("keys", "revoked since the backup; revoked again", _KEYS, "SELECT name FROM revoked"),
    ("keys", "changed since; changed again", _KEYS, "SELECT name FROM changed"),
    ("keys", "bound to someone else since; switched off", _KEYS, "SELECT name FROM rebound"),
    ("keys", "secrets that ended since; ended again", _KEYS, "SELECT name FROM ended"),
    ("keys", "secrets made since; valid again", _KEYS, "SELECT name FROM added"),
    ("keys", "made since; lost, their holders need new ones", _KEYS, "SELECT key_id FROM lost"),
    ("keys", "raises that ended since; ended again", _OTHERS, "SELECT key_id FROM ended_raises"),
    ("limits", "changed since; changed again", _RULES, f"{_AN_OWNER} changed_rules"),
    ("limits", "made since; made again", _RULES, _OTHER_NEW),
    ("limits", "of a person, made since; lost, make them again", _RULES, _NEW_OF_PEOPLE),
    ("limits", "dropped since; they hold again", _RULES, f"{_AN_OWNER} dropped_rules"),
    ("switches", "thrown since; thrown again", _RULES, "SELECT kind || ' ' || subject FROM thrown"),
    ("switches", "lifted since; they hold again", _RULES, "SELECT kind || ' ' || subject FROM lifted"),
    ("admin keys", "revoked or ended since; revoked again", _OTHERS, "SELECT key_id FROM dead_admins"),
    ("people", "erased since; to be erased again", _OTHERS, "SELECT pseudonym FROM forgotten"),
    ("usage", "USD of calls whose records are lost; budgets count it", _USAGE, _SPENT),
)
"""Area, what differs and what is done about it, and the statement that finds it in two parts."""
_SESSIONS = "SELECT session_id FROM console_sessions WHERE ended_at IS NULL AND expires_at > now()"
_CHANGE_RULES = f"""
UPDATE limit_rules AS r SET ({", ".join(_RULE_LIMITS)}) = ({_columns("n", _RULE_LIMITS)})
FROM changed_rules AS c JOIN rules AS n USING ({_RULE_OWNER})
WHERE (r.scope, r.tenant, r.subject, r.model_group) = (c.scope, c.tenant, c.subject, c.model_group)"""  # noqa: S608 -- our own text
_MAKE_RULES = f"""
INSERT INTO limit_rules (scope, tenant, subject, model_group, {", ".join(_RULE_LIMITS)})
SELECT scope, tenant, subject, model_group, {", ".join(_RULE_LIMITS)}
FROM new_rules WHERE named NOT LIKE 'sha256:%'"""  # noqa: S608 -- our own text
_CHANGE_KEYS = f"""
UPDATE api_keys AS k SET ({", ".join(_KEY_LIMITS)}, changed_at) =
    ({_columns("exported", _KEY_LIMITS)}, exported.changed_at)
FROM changed JOIN exported USING (key_id) WHERE k.key_id = changed.key_id"""  # noqa: S608 -- our own text
_COUNT_LOST = """
INSERT INTO lost_usage AS l (day, key_id, tenant, agent, model_group, provider, {columns})
SELECT * FROM missing ON CONFLICT (day, key_id, tenant, agent, model_group, provider)
DO UPDATE SET {sums}""".format(
    columns=USED, sums=", ".join(f"{one} = l.{one} + EXCLUDED.{one}" for one in _USED_COLUMNS)
)
_AGAIN = (
    (_KEYS, "UPDATE api_keys AS k SET revoked_at = r.revoked_at FROM revoked AS r WHERE k.key_id = r.key_id"),
    (_KEYS, _CHANGE_KEYS),
    (
        _KEYS,
        (
            "INSERT INTO kill_switches (kind, tenant, subject, reason) SELECT 'key', '*', key_id,"
            " 'restored: it was bound to someone else after the backup' FROM rebound ON CONFLICT DO NOTHING"
        ),
    ),
    (_KEYS, "UPDATE key_secrets AS s SET expires_at = e.at FROM ended AS e WHERE s.lookup = e.lookup"),
    (
        _KEYS,
        (
            "INSERT INTO key_secrets (lookup, key_id, digest, expires_at)"
            " SELECT lookup, key_id, decode(digest, 'hex'), expires_at FROM added ON CONFLICT DO NOTHING"
        ),
    ),
    (
        _OTHERS,
        "UPDATE key_raises AS r SET ended_at = now() FROM ended_raises AS e WHERE r.raise_id = e.raise_id",
    ),
    (_RULES, _CHANGE_RULES),
    (_RULES, _MAKE_RULES),
    (
        _RULES,
        (
            "INSERT INTO kill_switches (kind, tenant, subject, reason)"
            " SELECT kind, tenant, subject, 'restored: it was thrown after the backup' FROM thrown"
        ),
    ),
    (
        _OTHERS,
        "UPDATE admin_keys AS k SET revoked_at = now() FROM dead_admins AS d WHERE k.key_id = d.key_id",
    ),
    (
        _OTHERS,
        (
            "INSERT INTO erasures (id, tenant, salt, digest, pseudonym, asked_at, finished_at)"
            " SELECT id, tenant, decode(salt, 'hex'), decode(digest, 'hex'), pseudonym, asked_at, now()"
            " FROM forgotten ON CONFLICT DO NOTHING"
        ),
    ),
    (_USAGE, _COUNT_LOST),
)
"""What is done when a restore is acknowledged, in this order, each statement in two parts."""
_ALWAYS = (
    "UPDATE console_sessions SET ended_at = now() WHERE ended_at IS NULL",
    "DELETE FROM console_links",
    "UPDATE admin_keys SET revoked_at = now() WHERE session_id IS NOT NULL AND revoked_at IS NULL",
)
_END_RAISES = "UPDATE key_raises SET ended_at = now() WHERE ended_at IS NULL"
_RAISES = "SELECT key_id FROM key_raises WHERE ended_at IS NULL"


@dataclass(frozen=True, slots=True)
class RestoreFinding:
    """What differs between the restored database and what was known before.

    Attributes:
        area: `keys`, `limits`, `sessions` ...
        what: What differs, and what acknowledging does about it.
        names: Of what; not more than a few.
    """

    area: str
    what: str
    count: int
    names: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a check found.

    Attributes:
        locked: Why nothing is admitted; None where the database is not locked.
        backup_at: About when the backup was made: when a gateway used this state last.
        export_at: When the export was made; None without one.
        export_is_older: It has nothing that the database lacks.
    """

    locked: str | None
    backup_at: datetime | None
    export_at: datetime | None
    export_is_older: bool
    findings: list[RestoreFinding]


async def compare(pool: Pool, marker: Marker, export: RevocationExport | None) -> RestoreReport:
    """Returns what is to be acknowledged."""
    findings: list[RestoreFinding] = []
    is_older = export is not None and _is_older(export, marker)
    async with admin_transaction(pool) as connection:
        if export is not None and not is_older:
            text = _as_argument(export)
            for area, what, tables, statement in _WHAT:
                found = await connection.fetch(_joined(tables, statement), text, timeout=_LONG_DEADLINE_S)
                findings += _finding(area, what, found)
        elif export is None:
            findings += _finding("keys", "raises that run; ended", await connection.fetch(_RAISES))
        open_sessions = await connection.fetch(_SESSIONS)
    findings += _finding("sessions", "of the console, open in the backup; ended", open_sessions)
    return RestoreReport(
        marker.lock_reason,
        datetime.fromtimestamp(marker.seen.beat_ms / 1000, UTC) if marker.seen else None,
        export.made_at if export is not None else None,
        is_older,
        findings,
    )


async def acknowledge(
    pool: Pool,
    actor: Actor,
    report: RestoreReport,
    export: RevocationExport | None,
    sightings: Sequence[Sighting],
) -> None:
    """Applies again what the restore undid, and unlocks the database.

    Nothing outside it is written: the gateways that use it do that, and a rehearsal on a copy disturbs none.

    Args:
        pool: Of the database.
        actor: Who acknowledges.
        report: What was shown.
        export: As it was compared; None where none is left.
        sightings: What the limits store and this host's disk saw of it.
    """
    async with admin_transaction(pool) as connection:
        if export is not None and not report.export_is_older:
            text = _as_argument(export)
            for tables, statement in _AGAIN:
                await connection.execute(_joined(tables, statement), text, timeout=_LONG_DEADLINE_S)
        elif export is None:
            await connection.execute(_END_RAISES)
        for statement in _ALWAYS:
            await connection.execute(statement)
        await bump_epochs(connection, ANY)
        known = [*sightings, *([export.seen] if export is not None else [])]
        await unlock_database(connection, known)
        marker = await read_marker(connection)
        assert marker is not None  # noqa: S101 -- it was unlocked
        found = {
            f"{one.area}: {one.what}": {"count": one.count, "names": one.names} for one in report.findings
        }
        times = {"backup_at": report.backup_at, "export_at": report.export_at, "reason": report.locked}
        await write_audit(connection, actor, "restore.acknowledge", marker.name, times | {"found": found})


def _joined(tables: str, statement: str) -> str:
    return f"WITH {tables} {statement}"  # our own text


def _as_argument(export: RevocationExport) -> str:
    """Returns an export as a statement's argument."""
    return jsonb_text(export.document)


def _is_older(export: RevocationExport, marker: Marker) -> bool:
    """Whether the database was used after the export was made."""
    return marker.seen is not None and export.seen[1:3] < marker.seen[1:3]


def _finding(area: str, what: str, rows: Sequence[asyncpg.Record]) -> list[RestoreFinding]:
    names = [str(row[0]) for row in rows[:_LISTED]]
    return [RestoreFinding(area, what, len(rows), names)] if rows else []
