"""Virtual keys: their format, specification, stored record and temporary raise of limits.

Pure but for the randomness. Format: `sk-llmp-`, 12 public characters, `-`, 32 secret characters and
a checksum of 6, all base 62. A key imported from LiteLLM has LiteLLM's format and is found by its SHA-256.
Invariants: a mistyped key of ours fails the checksum before any look-up; only the public part and the
SHA-256 of the complete key are stored.
"""

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field, replace
from datetime import datetime

from llm_proxy.identity.caller import Budget, Caller, KeyAbove, Limits
from llm_proxy.identity.key_chain import is_bound_within, narrow

KEY_TYPE_PREFIX = "sk-llmp-"
IMPORTED_LOOKUP_PREFIX = "sha256:"
"""The beginning of an imported key's public part, which is the beginning of its SHA-256."""
_IMPORTED_KEY_PREFIX = b"sk-"
"""LiteLLM authenticates no virtual key that begins otherwise."""
_IMPORTED_LOOKUP_DIGITS = 16
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_LOOKUP_CHARS, _SECRET_CHARS, _CHECKSUM_CHARS = 12, 32, 6
_NEWEST_EPOCH = 2**62
"""Newer than every epoch: a key with it is not rejected as outdated."""
_FORMAT = re.compile(rb"(sk-llm[a-z]-)([0-9A-Za-z]{12})-[0-9A-Za-z]{38}")


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    """A new key; `text` is returned to its creator once and never stored."""

    text: str = field(repr=False)
    lookup: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A key's specification, as an operator sets it.

    Attributes:
        name: Unique.
        agent: The only agent the key acts for; `*` for any agent of the tenant.
        models: Names and wildcards of the allowed model groups; None for the default list.
        tags: Tags of every call with the key.
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
    """Higher limits and budgets of a key until a time; a limit that is None stays as the key has it."""

    limits: Limits
    budgets: tuple[Budget, ...]
    until: datetime


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A stored key, as operators see it.

    Attributes:
        spec: Without the running raise.
        prefixes: The public beginnings of its valid secrets, newest first.
        ancestors: The ids of the keys above a child key, the root first.
        run: The only run it acts for.
    """

    key_id: str
    spec: KeySpec
    created_at: datetime
    changed_at: datetime
    revoked_at: datetime | None
    prefixes: tuple[str, ...] = ()
    running_raise: KeyRaise | None = None
    ancestors: tuple[str, ...] = ()
    run: str | None = None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A stored key found by the public part of one of its secrets.

    Attributes:
        spec: Without the running raise.
        digest: Of the secret that was found.
        secret_expires_at: When this secret ends after a rotation; None for never.
        epoch: The tenant's epoch at which the key was read.
        read_at: The database's time of the read; None means the reader's clock is authoritative.
        run: The only run it acts for.
        above: The keys above it, the root first.
        above_ends_at: When the first of them ends, or the secret of one with which the next was made.
        above_ended: Whether one of them was revoked, or is not there.
    """

    key_id: str
    spec: KeySpec
    digest: bytes = field(repr=False)
    revoked_at: datetime | None
    secret_expires_at: datetime | None
    epoch: int
    read_at: datetime | None = None
    running_raise: KeyRaise | None = None
    run: str | None = None
    above: tuple[KeyAbove, ...] = ()
    above_ends_at: datetime | None = None
    above_ended: bool = False

    @property
    def ends_at(self) -> datetime | None:
        """When it ends by itself, or with a key above it; None for never."""
        ends = (self.spec.expires_at, self.secret_expires_at, self.above_ends_at)
        return min((end for end in ends if end is not None), default=None)


def generate_key(type_prefix: str = KEY_TYPE_PREFIX) -> GeneratedKey:
    """Generates a random key of the type that begins with `type_prefix`."""
    lookup = "".join(secrets.choice(_ALPHABET) for _ in range(_LOOKUP_CHARS))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARS))
    text = f"{type_prefix}{lookup}-{secret}"
    text += _checksum(text.encode())
    return GeneratedKey(text, lookup, key_digest(text.encode()))


def parse_key(text: str) -> GeneratedKey:
    """Parses the text of a virtual key; raises ValueError when its format or checksum is wrong."""
    lookup = lookup_from_key(text.encode())
    if lookup is None:
        raise ValueError("not a key")
    return GeneratedKey(text, lookup, key_digest(text.encode()))


def new_key_id() -> str:
    """Returns a random key id."""
    return "key_" + "".join(secrets.choice(_ALPHABET) for _ in range(16))


def lookup_from_key(key: bytes, type_prefix: str = KEY_TYPE_PREFIX) -> str | None:
    """Returns the public part of a key; None when its type, format or checksum is wrong."""
    match = _FORMAT.fullmatch(key)
    if match is None or match[1] != type_prefix.encode():
        return None
    is_valid = key[-_CHECKSUM_CHARS:].decode() == _checksum(key[:-_CHECKSUM_CHARS])
    return match[2].decode() if is_valid else None


def lookup_from_digest(digest: bytes) -> str:
    """Returns the public part of an imported key with this SHA-256."""
    return IMPORTED_LOOKUP_PREFIX + digest.hex()[:_IMPORTED_LOOKUP_DIGITS]


def imported_lookup(key: bytes, digest: bytes) -> str | None:
    """Returns the public part of a key, if it is an imported one; None for what is none."""
    may_be_imported = key.startswith(_IMPORTED_KEY_PREFIX) and not key.startswith(KEY_TYPE_PREFIX.encode())
    return lookup_from_digest(digest) if may_be_imported else None


def unchecked_lookup(key: bytes, digest: bytes) -> str:
    """Returns what would be the public part of a key with this SHA-256, without any check."""
    if not key.startswith(KEY_TYPE_PREFIX.encode()):
        return lookup_from_digest(digest)
    return key[len(KEY_TYPE_PREFIX) : len(KEY_TYPE_PREFIX) + _LOOKUP_CHARS].decode("latin-1")


def display_prefix(lookup: str) -> str:
    """Returns the public beginning of a key, as it is shown; of an imported key that of its SHA-256."""
    return lookup if lookup.startswith(IMPORTED_LOOKUP_PREFIX) else KEY_TYPE_PREFIX + lookup


def key_digest(key: bytes) -> bytes:
    """Returns the SHA-256 of a key's text; its 190 random bits need no slow hash."""
    return hashlib.sha256(key).digest()


def higher_limit(own: int | None, wanted: int | None) -> int | None:
    """Returns the higher of a key's own limit and a raised one; 0 and a missing own limit are the highest."""
    if not own or wanted is None:
        return own
    return max(own, wanted) if wanted else 0


def apply_raise(spec: KeySpec, key_raise: KeyRaise) -> KeySpec:
    """Returns the specification while a raise runs; no limit and no budget is lower than in `spec`."""
    raised = {(budget.unit, budget.period): budget.limit for budget in key_raise.budgets}
    limits = key_raise.limits
    return replace(
        spec,
        limits=Limits(
            higher_limit(spec.limits.rpm, limits.rpm),
            higher_limit(spec.limits.tpm, limits.tpm),
            higher_limit(spec.limits.parallel, limits.parallel),
        ),
        budgets=tuple(
            replace(budget, limit=max(budget.limit, raised.get((budget.unit, budget.period), 0)))
            for budget in spec.budgets
        ),
    )


def caller_from_key(key: StoredKey, lookup: str) -> Caller:
    """Returns the caller of a call with this key, without its running raise."""
    spec = key.spec
    caller = Caller(
        key_id=key.key_id,
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
        revocation_epoch=key.epoch,
        tags=spec.tags,
        bound_run=key.run,
    )
    return narrow(caller, key.above) if key.above else caller


def stored_from_record(record: KeyRecord) -> StoredKey:
    """Returns a key as a call finds it, without the keys above it, with its running raise applied."""
    spec = apply_raise(record.spec, record.running_raise) if record.running_raise is not None else record.spec
    return StoredKey(record.key_id, spec, b"", record.revoked_at, None, _NEWEST_EPOCH, run=record.run)


def caller_from_record(record: KeyRecord, key: StoredKey | None = None) -> Caller:
    """Returns the caller of a call with this key that names no agent and no run of its own.

    `key` is the key with those above it; without it, a child key is taken for a key of its own.
    """
    key = stored_from_record(record) if key is None else key
    lookup = record.prefixes[0].removeprefix(KEY_TYPE_PREFIX) if record.prefixes else ""
    caller = caller_from_key(key, lookup)
    return replace(caller, agent=None if caller.agent == "*" else caller.agent, run_id=caller.bound_run)


def ended_key_error(key: StoredKey, caller: Caller, ends_at: datetime | None, now: datetime) -> str | None:
    """Returns why calls with a key are 401, as a sentence; None for a valid one.

    `ends_at` is `key.ends_at` by the clock of `now`.
    """
    if key.revoked_at is not None:
        return "This API key was revoked."
    if key.above_ended or not is_bound_within(caller, key.above):
        return "A key above this API key has ended."
    return "This API key has expired." if ends_at is not None and ends_at <= now else None


def _checksum(text: bytes) -> str:
    number, checksum = zlib.crc32(text), ""
    for _ in range(_CHECKSUM_CHARS):
        number, digit = divmod(number, len(_ALPHABET))
        checksum += _ALPHABET[digit]
    return checksum
