"""Stores outside the ledger's tables that an erasure reaches, its certificate and the list of erased people.

Stores: spools, journals and rejected records on this host's disk, Postgres's planner statistics, Langfuse.
Invariants: the certificate is complete only when no store is incomplete, and holds no name; the list of
erased people is append-only; a trace that Langfuse still lists does not count as deleted.
Source: https://api.reference.langfuse.com (GET and DELETE /api/public/traces).
"""

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import orjson

from llm_proxy.json_access import Json
from llm_proxy.ledger.record import FIELDS
from llm_proxy.ledger.spool import JOURNAL_FILE, REJECTED_FILE, list_segments, read_journal, read_lines
from llm_proxy.ledger.worker_slot import slot_folders
from llm_proxy.telemetry import uuid7

log = logging.getLogger(__name__)

TOMBSTONES_FILE = "erased-people.jsonl"
PLANNER_STATISTICS = "planner statistics"
_STARTED, _TENANT, _USER = (FIELDS.index(name) for name in ("started_at", "tenant", "user"))
_CLEARED = tuple(FIELDS.index(name) for name in ("session", "client_request_id", "provider_message"))
_TABLES_WITH_NAME = """
    SELECT DISTINCT format('%I.%I', s.schemaname, s.tablename) AS place
    FROM pg_stats AS s
    WHERE s.schemaname = current_schema() AND EXISTS (
        SELECT FROM unnest(s.most_common_vals::text::text[] || s.histogram_bounds::text::text[]) AS v (one)
        WHERE position($1 IN v.one) > 0)
    ORDER BY 1"""
_STATISTICS_LEFT = "{} tables: rows that stay have the name too, or this role may not ANALYZE them"
_LANGFUSE_TIMEOUT_S = 20.0
_TRACES_PAGE = 100
_TRACES_PATH = "/api/public/traces"
FindingState = Literal["erased", "nothing", "incomplete", "kept"]


@dataclass(frozen=True, slots=True)
class ErasureFinding:
    """The result of an erasure in one store.

    Attributes:
        state: `erased`, `nothing` (was found), `kept` (the note says why) or `incomplete` (the note says what
            is left).
        found: Rows, records or traces, of all attempts together.
    """

    store: str
    state: FindingState
    found: int = 0
    note: str = ""


def merge_findings(before: Mapping[str, Any], findings: list[ErasureFinding]) -> Json:
    """Returns the field `stores` of a certificate after one more attempt; `before` is the field until now."""
    stores: Json = {}
    for finding in findings:
        found = finding.found + int(before.get(finding.store, {}).get("found", 0))
        state = "erased" if finding.state == "nothing" and found else finding.state
        stores[finding.store] = {"state": state, "found": found, "note": finding.note}
    return stores


def is_complete(stores: Mapping[str, Any]) -> bool:
    """Whether no store is incomplete."""
    return bool(stores) and all(store["state"] != "incomplete" for store in stores.values())


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One erased person: a line of `TOMBSTONES_FILE`, whose JSON fields are these.

    Attributes:
        tenant: Empty for calls without a tenant.
        salt: In hex.
        digest: SHA-256 of the salt and the name, in hex: it recognizes the name without revealing it.
        pseudonym: The text that replaces the name.
        asked_at: The erasure covers calls that began before this time; ISO 8601.
    """

    id: str
    tenant: str
    salt: str
    digest: str
    pseudonym: str
    asked_at: str

    @property
    def values(self) -> tuple[UUID, str, bytes, bytes, str, datetime]:
        """The values for the columns of `erasures`."""
        salt, digest = bytes.fromhex(self.salt), bytes.fromhex(self.digest)
        asked_at = datetime.fromisoformat(self.asked_at)
        return UUID(self.id), self.tenant, salt, digest, self.pseudonym, asked_at


def new_tombstone(tenant: str, user: str, asked_at: datetime) -> Tombstone:
    """Makes the tombstone of a person, with a random salt and pseudonym."""
    salt = secrets.token_bytes(16)
    digest = hashlib.sha256(salt + user.encode()).hexdigest()
    pseudonym = f"erased:{secrets.token_hex(8)}"
    return Tombstone(str(uuid7()), tenant, salt.hex(), digest, pseudonym, asked_at.isoformat())


def read_tombstones(directory: Path) -> dict[str, Tombstone]:
    """Reads the list of erased people, by id; empty without a file; skips invalid lines with a warning."""
    tombstones: dict[str, Tombstone] = {}
    try:
        text = (directory / TOMBSTONES_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return tombstones
    for line in text.splitlines():
        try:
            tombstone = Tombstone(**json.loads(line))
            tombstones[str(tombstone.values[0])] = tombstone
        except (ValueError, TypeError):
            log.warning("a line of the list of erased people cannot be read", extra={"file": TOMBSTONES_FILE})
    return tombstones


def append_tombstones(directory: Path, missing: list[Tombstone]) -> None:
    """Appends to the list of erased people, with fsync; raises OSError."""
    if not missing:
        return
    path = directory / TOMBSTONES_FILE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in missing))
        file.flush()
        os.fsync(file.fileno())


def count_waiting_records(directory: Path, tenant: str | None, user: str, until: datetime) -> int:
    """Counts a person's records on this host's disk that Postgres does not have, of calls before `until`."""
    rows = (_parse_row(line) for path in slot_folders(directory) for line in _waiting_lines(path))
    return sum(row is not None and _is_theirs(row, tenant, user, until) for row in rows)


def pseudonymize_rejected(
    directory: Path, tenant: str | None, user: str, pseudonym: str, until: datetime
) -> int:
    """Replaces a person's name in every file of rejected records; returns the number of changed lines.

    A file is replaced as a whole. Session, client request id and provider's message are cleared too.
    """
    changed = 0
    for path in slot_folders(directory):
        with contextlib.suppress(FileNotFoundError):
            changed += _redact_file(path / REJECTED_FILE, tenant, user, pseudonym, until)
    return changed


def _waiting_lines(path: Path) -> Iterator[bytes]:
    for segment in list_segments(path):
        with contextlib.suppress(FileNotFoundError):  # it has just been written to Postgres
            yield from read_lines(segment)
    for _, line in read_journal(path / JOURNAL_FILE):
        yield line


def _redact_file(file: Path, tenant: str | None, user: str, pseudonym: str, until: datetime) -> int:
    kept: list[bytes] = []
    changed = 0
    for line in file.read_bytes().splitlines():
        row = _parse_row(line)
        if row is not None and _is_theirs(row, tenant, user, until):
            row[_USER] = pseudonym
            for index in _CLEARED:
                if index < len(row):
                    row[index] = None
            changed += 1
            kept.append(orjson.dumps(row))
        else:
            kept.append(line)
    if changed:
        new_file = file.with_suffix(".new")
        descriptor = os.open(new_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as written:
            written.write(b"".join(line + b"\n" for line in kept))
        new_file.replace(file)
    return changed


def _parse_row(line: bytes) -> list[Any] | None:
    try:
        row: list[Any] | None = orjson.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, list) and len(row) > _USER else None  # pyright: ignore[reportUnknownVariableType] -- JSON


def _is_theirs(row: list[Any], tenant: str | None, user: str, until: datetime) -> bool:
    if row[_USER] != user or row[_TENANT] != tenant:
        return False
    began = row[_STARTED]
    try:
        at = datetime.fromisoformat(began) if isinstance(began, str) else datetime.fromtimestamp(began, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return True
    return at < until


async def refresh_planner_statistics(connection: Any, name: str) -> ErasureFinding:  # noqa: ANN401 -- asyncpg's, of a pool or not
    """Runs ANALYZE on the tables whose statistics contain this name.

    Postgres keeps samples of values after their rows are gone. A table that is locked is skipped; statistics
    that stay are reported as `kept`: Postgres replaces them with its next ANALYZE.
    """
    tables = [row["place"] for row in await connection.fetch(_TABLES_WITH_NAME, name)]
    for table in tables:
        await connection.execute(f"ANALYZE (SKIP_LOCKED) {table}")
    left = len(await connection.fetch(_TABLES_WITH_NAME, name)) if tables else 0
    if left:
        return ErasureFinding(
            PLANNER_STATISTICS, "kept", max(0, len(tables) - left), _STATISTICS_LEFT.format(left)
        )
    return ErasureFinding(PLANNER_STATISTICS, "erased" if tables else "nothing", len(tables))


class LangfuseUnavailable(Exception):  # noqa: N818 -- errors are named for the state they report
    """Langfuse did not answer, or returned an error; the message contains neither its URL nor its keys."""


@dataclass(frozen=True, slots=True)
class LangfuseClient:
    """Langfuse's public API for one project."""

    url: str
    public_key: str
    secret_key: str

    async def delete_traces(self, tenant: str | None, user: str) -> tuple[int, int]:
        """Deletes the traces of a tenant's user; returns the numbers of found and of still listed traces.

        The tenant is recognized by the tag that the gateway gives each trace.

        Raises:
            LangfuseUnavailable: The traces cannot be listed or deleted.
        """
        traces = await asyncio.to_thread(self._list_traces, tenant, user)
        for start in range(0, len(traces), _TRACES_PAGE):
            part = traces[start : start + _TRACES_PAGE]
            await asyncio.to_thread(self._request, "DELETE", _TRACES_PATH, {"traceIds": part})
        left = await asyncio.to_thread(self._list_traces, tenant, user) if traces else []
        return len(traces), len(left)

    def _list_traces(self, tenant: str | None, user: str) -> list[str]:
        traces: list[str] = []
        page, pages = 1, 1
        while page <= pages:
            query: dict[str, Any] = {"userId": user, "page": page, "limit": _TRACES_PAGE}
            if tenant is not None:
                query["tags"] = f"tenant:{tenant}"
            document = self._request("GET", f"{_TRACES_PATH}?{urlencode(query)}")
            pages = int(document["meta"]["totalPages"])
            for trace in document["data"]:
                tags: list[Any] = trace.get("tags") or []
                tenants = [tag for tag in tags if str(tag).startswith("tenant:")]
                if tenants == ([f"tenant:{tenant}"] if tenant is not None else []):
                    traces.append(str(trace["id"]))
            page += 1
        return traces

    def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:  # noqa: ANN401 -- JSON
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_LANGFUSE_TIMEOUT_S)
        token = base64.b64encode(f"{self.public_key}:{self.secret_key}".encode()).decode()
        headers = {"authorization": f"Basic {token}", "content-type": "application/json"}
        try:
            text = json.dumps(body) if body is not None else None
            connection.request(method, parts.path.rstrip("/") + path, text, headers)
            response = connection.getresponse()
            raw = response.read()
            if response.status >= 300:
                raise LangfuseUnavailable(f"it answered {response.status}")
            document: dict[str, Any] = json.loads(raw) if method == "GET" else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LangfuseUnavailable(f"it did not answer: {type(error).__name__}") from error
        else:
            return document
        finally:
            connection.close()
