"""What a restored database may lack: an export of keys, rules, epochs, erased people and use.

Made often, kept apart from the backups. Invariants: it holds digests, no secret and no person's name; one
that was changed, or sealed with another key, is not read; it is written as a whole or not at all.
"""

import errno
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from llm_proxy.identity.postgres_store import Connection
from llm_proxy.json_access import Json
from llm_proxy.schema.database_marker import Sighting
from llm_proxy.sealing import SealingKey

FORMAT = 1
_PURPOSE = b"llm-proxy revocations"
_MOST_BYTES = 2**30
RULE_SUBJECT = """CASE WHEN r.scope = 'user_model' AND r.subject <> '*'
    THEN 'sha256:' || encode(sha256(convert_to(r.tenant || E'\\n' || r.subject, 'UTF8')), 'hex')
    ELSE r.subject END"""
"""The subject of a row of `limit_rules r`; a person's is a digest."""
KEY_BINDING = """encode(sha256(convert_to(concat_ws(E'\\n', k.key_id, coalesce(k.tenant, E'\\t'),
    coalesce(k.agent, E'\\t'), coalesce(k.user_id, E'\\t')), 'UTF8')), 'hex')"""
"""A digest of what a row of `api_keys k` is bound to."""
USED = "requests, prompt_tokens, completion_tokens, cost_usd, images, audio_ms, characters, search_units"
"""What budgets count of the roll-ups."""
_USED_TABLES = ("usage_daily", "lost_usage")
_OWNERS = "day, key_id, tenant, agent, model_group, provider"


def usage_since(day: str) -> str:
    """Returns the subquery of what was used since a day, with what a former restore had lost."""
    sums = ", ".join(f"sum({one}) AS {one}" for one in USED.split(", "))
    tables = [f"SELECT {_OWNERS}, {USED} FROM {one} WHERE day >= {day}" for one in _USED_TABLES]  # noqa: S608 -- our own names
    return f"(SELECT {_OWNERS}, {sums} FROM ({' UNION ALL '.join(tables)}) AS p GROUP BY {_OWNERS})"  # noqa: S608 -- the same


_ENDED_CHILD = "k.ancestors <> '{}' AND k.created_at < now() - interval '8 days'"
"""A child key lives a week at most: of those no backup revives one."""
_LIVING_KEY = f"""json_build_object(
    'key_id', k.key_id, 'changed_at', k.changed_at, 'expires_at', k.expires_at, 'ancestors', k.ancestors,
    'models', k.models, 'rpm', k.rpm, 'tpm', k.tpm, 'parallel', k.parallel, 'budgets', k.budgets,
    'max_tokens_cap', k.max_tokens_cap, 'cache', k.cache, 'bound', {KEY_BINDING}, 'secrets', (
        SELECT json_agg(json_build_object(
            'lookup', s.lookup, 'digest', encode(s.digest, 'hex'), 'expires_at', s.expires_at))
        FROM key_secrets AS s WHERE s.key_id = k.key_id))"""  # noqa: S608 -- our own text
_REVOKED_KEY = "json_build_object('key_id', k.key_id, 'revoked_at', k.revoked_at, 'ancestors', k.ancestors)"
_SEEN = """
    json_build_array(lineage, generation, beat_ms, (SELECT coalesce(max(epoch), 0) FROM tenant_epochs))"""
_READ = f"""
SELECT json_build_object(
    'format', {FORMAT},
    'made_at', clock_timestamp(),
    'seen', (SELECT {_SEEN} FROM database_marker),
    'epochs', (SELECT coalesce(json_object_agg(tenant, epoch), '{{}}') FROM tenant_epochs),
    'keys', (
        SELECT coalesce(json_agg(json_strip_nulls(
            CASE WHEN k.revoked_at IS NULL THEN {_LIVING_KEY} ELSE {_REVOKED_KEY} END)), '[]')
        FROM api_keys AS k WHERE NOT ({_ENDED_CHILD})),
    'raises', (
        SELECT coalesce(json_agg(json_build_array(key_id, created_at)), '[]')
        FROM key_raises WHERE ended_at IS NULL),
    'rules', (
        SELECT coalesce(json_agg(to_jsonb(r) || jsonb_build_object('subject', {RULE_SUBJECT})), '[]')
        FROM limit_rules AS r),
    'switches', (
        SELECT coalesce(json_agg(json_build_object(
            'kind', kind, 'tenant', tenant, 'subject', subject, 'thrown_at', thrown_at)), '[]')
        FROM kill_switches),
    'admin_keys', (
        SELECT coalesce(json_agg(json_strip_nulls(json_build_object(
            'key_id', key_id, 'revoked_at', revoked_at, 'expires_at', expires_at))), '[]')
        FROM admin_keys),
    'erased', (
        SELECT coalesce(json_agg(json_build_object(
            'id', id, 'tenant', tenant, 'salt', encode(salt, 'hex'), 'digest', encode(digest, 'hex'),
            'pseudonym', pseudonym, 'asked_at', asked_at)), '[]')
        FROM erasures),
    'used_since', $1::date,
    'used', (SELECT coalesce(json_agg(u), '[]') FROM {usage_since("$1")} AS u)
)::text"""  # noqa: S608 -- our own text
_USED_SINCE = """
SELECT greatest((SELECT max(started_at) FROM backups WHERE ok)::date - 1, current_date - 35)
FROM (SELECT) AS one"""


class ExportRejected(Exception):  # noqa: N818 -- errors are named for the state they report
    """An export cannot be read: it is none, was changed, or was made with a key that is not ours."""


class RevocationExport(NamedTuple):
    """An export, as it was read.

    Attributes:
        seen: How far the database was then.
        document: Its content.
    """

    made_at: datetime
    seen: Sighting
    document: Json


async def read_export(connection: Connection) -> str:
    """Returns an export of the database as it is, as one line of JSON."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        since = await connection.fetchval(_USED_SINCE)
        text: str = await connection.fetchval(_READ, since)
    return text.replace("\n", " ")


def mac_keys(sealing: Sequence[SealingKey], admin: Sequence[str]) -> tuple[SealingKey, ...]:
    """Returns the keys of exports: the sealing keys, then the settings' admin keys, the newest first."""
    others = [SealingKey(f"admin-{hashlib.sha256(one.encode()).hexdigest()[:8]}", one) for one in admin]
    return (*sealing, *others)


def seal_export(text: str, keys: Sequence[SealingKey]) -> bytes:
    """Returns the file of an export: its seal by the first key, then its text."""
    key = keys[0]
    seal = json.dumps({"llm-proxy revocations": FORMAT, "key": key.key_id, "mac": _mac(key, text.encode())})
    return f"{seal}\n{text}\n".encode()


def open_export(file: bytes, keys: Sequence[SealingKey]) -> RevocationExport:
    """Returns the export in a file; raises `ExportRejected`."""
    head, _, rest = file.partition(b"\n")
    text = rest.removesuffix(b"\n")
    try:
        seal: Any = json.loads(head)
        key_id, mac = str(seal["key"]), str(seal["mac"])
    except (ValueError, TypeError, KeyError):
        raise ExportRejected("it is no export of revocations") from None
    key = next((one for one in keys if one.key_id == key_id), None)
    if key is None:
        raise ExportRejected(f"it was sealed with the key {key_id[:40]!r}, which the settings do not have")
    if not hmac.compare_digest(_mac(key, text), mac):
        raise ExportRejected("it was changed after it was made, or is not whole")
    document: Json = json.loads(text)
    if document["format"] != FORMAT:
        raise ExportRejected("it was made by another version, in a format that this one does not know")
    if document["seen"] is None:
        raise ExportRejected("it was made before a gateway had used the database")
    return RevocationExport(
        datetime.fromisoformat(document["made_at"]), Sighting(*document["seen"]), document
    )


def load_export(path: Path, keys: Sequence[SealingKey]) -> RevocationExport:
    """Returns the export in the file at a path; raises `ExportRejected`, `OSError`."""
    if path.stat().st_size > _MOST_BYTES:
        raise ExportRejected("it is too large for one")
    return open_export(path.read_bytes(), keys)


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file, for its owner alone, once all of it is on the disk; raises `OSError`."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _mac(key: SealingKey, text: bytes) -> str:
    derived = hmac.digest(key.secret.encode(), _PURPOSE, "sha256")
    return hmac.digest(derived, text, "sha256").hex()
