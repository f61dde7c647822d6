"""Virtual keys: their format, specification, stored record and temporary raise of limits.

Pure but for the randomness. Format: `sk-llmp-`, 12 public characters, `-`, 32 secret characters and
a checksum of 6, all base 62. Invariants: a mistyped or invented key fails the checksum before any look-up;
only the public part and the SHA-256 of the whole key are stored.
"""

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field, replace
from datetime import datetime

from llm_proxy.errors import Unauthorized
from llm_proxy.identity.caller import Budget, Caller, Limits

KEY_TYPE_PREFIX = "sk-llmp-"
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_LOOKUP_CHARS, _SECRET_CHARS, _CHECKSUM_CHARS = 12, 32, 6
_NEWEST_EPOCH = 2**62
"""The epoch of a key that was just read, for whatever was changed before."""
_FORMAT = re.compile(rb"(sk-llm[a-z]-)([0-9A-Za-z]{12})-[0-9A-Za-z]{38}")


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    """A new key; `text` is shown once and never kept."""

    text: str = field(repr=False)
    lookup: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySpec:
    """What an operator says about a key.

    Attributes:
        name: What people call it; unique.
        agent: The one agent it acts for; `*` for any agent of the tenant.
        models: Names and wildcards; None for the default allow-list.
        tags: Tags of every call made with it.
    """

    name: str
    tenant: str | None = None
    agent: str | None = None
    user: str | None = None
    models: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    budgets: tuple[Budget, ...] = ()
    max_tokens_cap: int | None = None
    cache: bool = True
    expires_at: datetime | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyRaise:
    """Higher limits and budgets of a key until a time; None and absent: as the key has them."""

    limits: Limits
    budgets: tuple[Budget, ...]
    until: datetime


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is kept.

    Attributes:
        prefixes: The public beginnings of its secrets, newest first.
        running_raise: The raise that runs; `spec` is the key's own all the same.
    """

    key_id: str
    spec: KeySpec
    created_at: datetime
    changed_at: datetime
    revoked_at: datetime | None
    prefixes: tuple[str, ...] = ()
    running_raise: KeyRaise | None = None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key found by one of its secrets, at an epoch of its tenant.

    Attributes:
        secret_expires_at: When this secret ends, after a rotation.
        read_at: The database's time when it was read; None where the reader's own counts.
        running_raise: The raise that runs; not part of `spec`.
    """

    key_id: str
    spec: KeySpec
    digest: bytes = field(repr=False)
    revoked_at: datetime | None
    secret_expires_at: datetime | None
    epoch: int
    read_at: datetime | None = None
    running_raise: KeyRaise | None = None


def generate_key(mark: str = KEY_TYPE_PREFIX) -> GeneratedKey:
    """A new key; `mark` is how its kind begins."""
    lookup = "".join(secrets.choice(_ALPHABET) for _ in range(_LOOKUP_CHARS))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARS))
    text = f"{mark}{lookup}-{secret}"
    text += _checksum(text.encode())
    return GeneratedKey(text, lookup, key_digest(text.encode()))


def parse_key(text: str) -> GeneratedKey:
    """A key somebody minted before; raises `ValueError` when it is none of our form."""
    lookup = lookup_from_key(text.encode())
    if lookup is None:
        raise ValueError("not a key")
    return GeneratedKey(text, lookup, key_digest(text.encode()))


def new_key_id() -> str:
    """The id of a new key."""
    return "key_" + "".join(secrets.choice(_ALPHABET) for _ in range(16))


def lookup_from_key(key: bytes, mark: str = KEY_TYPE_PREFIX) -> str | None:
    """The public part of a key; None when it cannot be a key of ours, of the kind that begins so."""
    form = _FORMAT.fullmatch(key)
    if (
        form is None
        or form[1] != mark.encode()
        or key[-_CHECKSUM_CHARS:].decode() != _checksum(key[:-_CHECKSUM_CHARS])
    ):
        return None
    return form[2].decode()


def unchecked_lookup(key: bytes) -> str:
    """What stands where a key of ours has its public part, whatever the rest is."""
    return key[len(KEY_TYPE_PREFIX) : len(KEY_TYPE_PREFIX) + _LOOKUP_CHARS].decode("latin-1")


def display_prefix(lookup: str) -> str:
    """What is shown of a key."""
    return KEY_TYPE_PREFIX + lookup


def key_digest(key: bytes) -> bytes:
    """What is kept of a key: 190 random bits need no slow hash."""
    return hashlib.sha256(key).digest()


def higher_limit(own: int | None, wanted: int | None) -> int | None:
    """The higher of a key's own limit and a raised one; 0 and no own limit are the highest."""
    if not own or wanted is None:
        return own
    return max(own, wanted) if wanted else 0


def apply_raise(spec: KeySpec, raise_: KeyRaise) -> KeySpec:
    """A key's specification while a raise runs: never lower than its own."""
    wanted = {(one.unit, one.period): one.limit for one in raise_.budgets}
    return replace(
        spec,
        limits=Limits(
            higher_limit(spec.limits.rpm, raise_.limits.rpm),
            higher_limit(spec.limits.tpm, raise_.limits.tpm),
            higher_limit(spec.limits.parallel, raise_.limits.parallel),
        ),
        budgets=tuple(
            replace(one, limit=max(one.limit, wanted.get((one.unit, one.period), 0))) for one in spec.budgets
        ),
    )


def caller_from_key(found: StoredKey, lookup: str) -> Caller:
    """The caller a key makes."""
    spec = found.spec
    return Caller(
        key_id=found.key_id,
        kind="virtual",
        tenant=spec.tenant,
        agent=spec.agent,
        user=spec.user,
        key_prefix=display_prefix(lookup),
        models=spec.models,
        limits=spec.limits,
        budgets=spec.budgets,
        max_tokens_cap=spec.max_tokens_cap,
        cache=spec.cache,
        revocation_epoch=found.epoch,
        tags=spec.tags,
    )


def caller_from_record(record: KeyRecord) -> Caller:
    """The caller a kept key makes, to be looked at, where it names nobody itself."""
    spec = apply_raise(record.spec, record.running_raise) if record.running_raise is not None else record.spec
    spec = replace(spec, agent=None) if spec.agent == "*" else spec
    found = StoredKey(record.key_id, spec, b"", record.revoked_at, None, _NEWEST_EPOCH)
    lookup = record.prefixes[0].removeprefix(KEY_TYPE_PREFIX) if record.prefixes else ""
    return caller_from_key(found, lookup)


def inactive_key_error(record: KeyRecord, now: datetime) -> Unauthorized | None:
    """Why calls with this key are refused; None while it lives."""
    if record.revoked_at is not None:
        return Unauthorized("This API key was revoked.")
    expires_at = record.spec.expires_at
    return Unauthorized("This API key has expired.") if expires_at and expires_at <= now else None


def _checksum(text: bytes) -> str:
    number, letters = zlib.crc32(text), ""
    for _ in range(_CHECKSUM_CHARS):
        number, digit = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[digit]
    return letters
