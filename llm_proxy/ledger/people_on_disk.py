"""A person's records on this host's disk: waiting in spools and journals, or put aside as rejected.

Invariants: what waits is only counted, its owner carries it into Postgres; a file of rejects is replaced
whole, with the pseudonym in the name's place. Other hosts' disks are not seen from here.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from llm_proxy.ledger.journal import left_in
from llm_proxy.ledger.recovery import JOURNAL
from llm_proxy.ledger.row import FIELDS
from llm_proxy.ledger.spool import REJECTED, lines, segments
from llm_proxy.telemetry.seat import everyone

_STARTED, _TENANT, _USER = (FIELDS.index(name) for name in ("started_at", "tenant", "user"))
_BLANKED = tuple(FIELDS.index(name) for name in ("session", "client_request_id", "provider_message"))


def count_waiting(directory: Path, tenant: str | None, user: str, until: datetime) -> int:
    """How many records of this person, of calls begun before `until`, are not in Postgres yet."""
    rows = (_row(line) for path in everyone(directory) for line in _lines(path))
    return sum(row is not None and _is_theirs(row, tenant, user, until) for row in rows)


def redact_rejected(directory: Path, tenant: str | None, user: str, pseudonym: str, until: datetime) -> int:
    """Put the pseudonym in the name's place in every file of rejects; returns in how many lines."""
    changed = 0
    for path in everyone(directory):
        with contextlib.suppress(FileNotFoundError):
            changed += _redact(path / REJECTED, tenant, user, pseudonym, until)
    return changed


def _lines(path: Path) -> Iterator[bytes]:
    for segment in segments(path):
        with contextlib.suppress(FileNotFoundError):  # it has just been written to Postgres
            yield from lines(segment)
    for _, line in left_in(path / JOURNAL):
        yield line


def _redact(file: Path, tenant: str | None, user: str, pseudonym: str, until: datetime) -> int:
    kept: list[bytes] = []
    changed = 0
    for line in file.read_bytes().splitlines():
        row = _row(line)
        if row is not None and _is_theirs(row, tenant, user, until):
            row[_USER] = pseudonym
            for at in _BLANKED:
                if at < len(row):
                    row[at] = None
            changed += 1
            kept.append(orjson.dumps(row))
        else:
            kept.append(line)
    if changed:
        fresh = file.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as written:
            written.write(b"".join(line + b"\n" for line in kept))
        fresh.replace(file)
    return changed


def _row(line: bytes) -> list[Any] | None:
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
