"""The list of erased people that outlives the database, so that a restored backup is erased again.

One line of JSON each, in a file beside the spool: tenant, salt, digest, pseudonym, when; never a name.
Invariant: lines are only added; one that cannot be read is left out, with a warning.
"""

import hashlib
import json
import logging
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from llm_proxy.telemetry import uuid7

log = logging.getLogger(__name__)

FILE = "erased-people.jsonl"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One erased person.

    Attributes:
        tenant: Empty: calls without a tenant.
        salt: Hexadecimal.
        digest: SHA-256 of the salt and the name, hexadecimal: it knows the name again, and does not tell it.
        pseudonym: What stands in the name's place.
        asked_at: Calls that began before this are meant; ISO 8601.
    """

    id: str
    tenant: str
    salt: str
    digest: str
    pseudonym: str
    asked_at: str

    @property
    def values(self) -> tuple[UUID, str, bytes, bytes, str, datetime]:
        """As the columns of `erasures` have them."""
        salt, digest = bytes.fromhex(self.salt), bytes.fromhex(self.digest)
        asked_at = datetime.fromisoformat(self.asked_at)
        return UUID(self.id), self.tenant, salt, digest, self.pseudonym, asked_at


def new_tombstone(tenant: str, user: str, asked_at: datetime) -> Tombstone:
    """A new one."""
    salt = secrets.token_bytes(16)
    digest = hashlib.sha256(salt + user.encode()).hexdigest()
    pseudonym = f"erased:{secrets.token_hex(8)}"
    return Tombstone(str(uuid7()), tenant, salt.hex(), digest, pseudonym, asked_at.isoformat())


def read_tombstones(directory: Path) -> dict[str, Tombstone]:
    """The list, by id; empty where there is no file."""
    found: dict[str, Tombstone] = {}
    try:
        text = (directory / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return found
    for line in text.splitlines():
        try:
            one = Tombstone(**json.loads(line))
            found[str(one.values[0])] = one
        except (ValueError, TypeError):
            log.warning("a line of the list of erased people cannot be read", extra={"file": FILE})
    return found


def append_tombstones(directory: Path, missing: list[Tombstone]) -> None:
    """Add these to the list, on the platter; raises `OSError`."""
    if not missing:
        return
    path = directory / FILE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in missing))
        file.flush()
        os.fsync(file.fileno())
