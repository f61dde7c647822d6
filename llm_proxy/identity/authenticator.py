"""Authenticates a request: its credential, read from the headers, becomes a `Caller`.

Invariants: digests (SHA-256) are compared in constant time, with every internal key; no credential is kept,
logged or repeated in an error; a request with two different credentials is rejected (401).
Sources: RFC 6750 (Bearer) and the header names of OpenAI's, Anthropic's, Azure's and Google's clients.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Protocol

from llm_proxy.errors import Unauthorized
from llm_proxy.identity.caller import Caller

MAX_KEY_BYTES = 512
INTERNAL_KEY_ID_PREFIX = "internal:"
"""How the ids of internal secrets begin."""
CREDENTIAL_HEADERS = (
    *(b"authorization", b"x-internal-secret", b"x-internal-auth"),
    *(b"x-api-key", b"api-key", b"x-goog-api-key"),  # as Anthropic's, Azure's and Google's clients send it
)
_MISSING = "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`."


def extract_credential(headers: Mapping[bytes, bytes]) -> bytes:
    """The one credential of a request; raises `Unauthorized` when there is none, or more than one."""
    found: bytes | None = None
    for name in CREDENTIAL_HEADERS:
        value = headers.get(name)
        if value is None:
            continue
        if name == b"authorization":
            value = _bearer(value)
        value = value.strip()
        if found is not None and not hmac.compare_digest(found, value):
            raise Unauthorized("The request carries different API keys; send one.")
        found = value
    if not found:
        raise Unauthorized(_MISSING)
    if len(found) > MAX_KEY_BYTES or not found.isascii():
        raise invalid_key_error()
    return found


def invalid_key_error() -> Unauthorized:
    """The refusal of a key that is not ours; it never repeats the key."""
    return Unauthorized("Incorrect API key provided.")


def _bearer(value: bytes) -> bytes:
    scheme, _, key = value.partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        raise Unauthorized("The `Authorization` header must read `Bearer YOUR_KEY`.")
    return key


def credential_digest(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


class InternalKeys:
    """The secrets of trusted services; several at once while one is rotated."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._known: list[tuple[bytes, Caller]] = []
        for secret in secrets:
            kept = credential_digest(secret.encode())
            name = f"{INTERNAL_KEY_ID_PREFIX}{kept.hex()[:8]}"
            self._known.append((kept, Caller(key_id=name, kind="internal", key_prefix=name)))

    def match(self, kept: bytes) -> Caller | None:
        """The caller whose secret has this digest; every secret is compared, whichever matches."""
        found: Caller | None = None
        for known, caller in self._known:
            if hmac.compare_digest(known, kept):
                found = caller
        return found

    def __len__(self) -> int:
        return len(self._known)


class KeyLookup(Protocol):
    """Where virtual keys are looked up."""

    async def find_caller(self, key: bytes) -> Caller:
        """The caller a key belongs to; raises `Unauthorized`, or `StoreUnavailable` when nobody can tell."""
        ...


class Authenticator:
    """Tells who is calling."""

    def __init__(self, secrets: InternalKeys, keys: KeyLookup | None = None) -> None:
        self._secrets = secrets
        self._keys = keys

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Caller:
        """The caller of a request with these headers (lower-case names).

        Raises:
            Unauthorized: No credential, several, or one that is not ours.
            StoreUnavailable: It may be a virtual key, but the store is away.
        """
        key = extract_credential(headers)
        caller = self._secrets.match(credential_digest(key))
        if caller is not None:
            return caller
        if self._keys is None:
            raise invalid_key_error()
        return await self._keys.find_caller(key)

    def is_internal(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the credential is an internal secret; raises `Unauthorized` when there is none."""
        return self._secrets.match(credential_digest(extract_credential(headers))) is not None
