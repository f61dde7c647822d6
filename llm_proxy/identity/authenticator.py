"""Authenticates a request: its credential, read from the headers, becomes a `Caller`.

Invariants: digests (SHA-256) are compared in constant time, with every internal key; no credential is kept
longer than its connection, logged or repeated in an error; a request with two different ones is a 401.
Sources: RFC 6750 (Bearer) and the header names of OpenAI's, Anthropic's, Azure's and Google's clients.
"""

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llm_proxy.errors import Unauthorized
from llm_proxy.identity.caller import Caller
from llm_proxy.identity.restore_gate import RestoreGate
from llm_proxy.identity.virtual_keys import key_digest, unchecked_lookup

MAX_KEY_BYTES = 512
INTERNAL_KEY_ID_PREFIX = "internal:"
"""The beginning of every internal key's id."""
CREDENTIAL_HEADERS = (
    *(b"authorization", b"x-internal-secret", b"x-internal-auth"),
    *(b"x-api-key", b"api-key", b"x-goog-api-key"),  # of Anthropic's, Azure's and Google's clients
    b"x-litellm-api-key",
)
_CREDENTIAL_NAMES = frozenset(CREDENTIAL_HEADERS)
_MISSING = "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`."


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request proves itself with, not checked yet.

    Attributes:
        digest: The key's SHA-256.
        lookup: What would be the public part of a virtual key.
    """

    key: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    lookup: str

    @classmethod
    def of_key(cls, key: bytes) -> "Credential":
        """Returns the credential of a key's text."""
        digest = key_digest(key)
        return cls(key, digest, unchecked_lookup(key, digest))


def read_credential(headers: Mapping[bytes, bytes]) -> Credential:
    """Returns a request's credential; raises as `extract_credential` does."""
    return Credential.of_key(extract_credential(headers))


def extract_credential(headers: Mapping[bytes, bytes]) -> bytes:
    """Returns a request's credential; raises `Unauthorized` for none, two different or an invalid one."""
    found: bytes | None = None
    given = _CREDENTIAL_NAMES.intersection(headers)
    for name in given if len(given) == 1 else [one for one in CREDENTIAL_HEADERS if one in given]:
        value = headers[name]
        if name == b"authorization":
            value = _bearer(value)
        elif name == b"x-litellm-api-key":  # LiteLLM takes both forms
            value = value.removeprefix(b"Bearer ")
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
    """Returns the 401 for a key that is unknown or malformed; its message is the same for both."""
    return Unauthorized("Incorrect API key provided.")


def _bearer(value: bytes) -> bytes:
    scheme, _, key = value.partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        raise Unauthorized("The `Authorization` header must read `Bearer YOUR_KEY`.")
    return key


class InternalKeys:
    """The keys of trusted services (`LLM_PROXY__INTERNAL_API_KEY`); several are valid during a rotation."""

    def __init__(
        self,
        secrets: Iterable[str],
        old: Mapping[str, str],
        on_old_use: Callable[[str], None],
    ) -> None:
        """`old` has the setting of each key that another one stands in front of; `on_old_use` gets it."""
        self._on_old_use = on_old_use
        self._known: list[tuple[bytes, Caller, str | None]] = []
        for secret in secrets:
            digest = key_digest(secret.encode())
            key_id = f"{INTERNAL_KEY_ID_PREFIX}{digest.hex()[:8]}"
            caller = Caller(key_id=key_id, kind="internal", key_prefix=key_id)
            self._known.append((digest, caller, old.get(secret)))

    def match(self, digest: bytes) -> Caller | None:
        """Returns the caller whose key has this digest; compares all keys, whichever matches."""
        match: tuple[bytes, Caller, str | None] | None = None
        for one in self._known:
            if hmac.compare_digest(one[0], digest):
                match = one
        if match is None:
            return None
        _, caller, setting = match
        if setting is not None:
            self._on_old_use(setting)
        return caller

    def __len__(self) -> int:
        return len(self._known)


class KeyLookup(Protocol):
    """Looks virtual keys up."""

    def cached_caller(self, credential: Credential) -> Caller | None:
        """Returns the caller of a key that is known to be valid; None where it has to be looked up.

        Raises `Unauthorized` for one that is known to have ended.
        """
        ...

    async def look_up(self, credential: Credential) -> Caller:
        """Returns any other key's caller; raises `Unauthorized`, or `StoreUnavailable` if it cannot tell."""
        ...


class Authenticator:
    """Finds the caller of a request: internal keys first, then virtual keys.

    Attributes:
        gate: No caller is authenticated while it is closed.
    """

    def __init__(
        self,
        internal_keys: InternalKeys,
        virtual_keys: KeyLookup | None = None,
        gate: RestoreGate | None = None,
    ) -> None:
        self._internal_keys = internal_keys
        self._virtual_keys = virtual_keys
        self.gate = gate or RestoreGate()

    async def authenticate(self, credential: Credential) -> Caller:
        """Returns the caller of a request with this credential.

        Raises:
            Unauthorized: The credential is not valid.
            StoreUnavailable: A virtual key cannot be checked: its store is unavailable, or was restored.
        """
        self.gate.require_open()
        caller = self._internal_keys.match(credential.digest)
        if caller is not None:
            return caller
        if self._virtual_keys is None:
            raise invalid_key_error()
        caller = self._virtual_keys.cached_caller(credential)
        if caller is not None:
            return caller
        try:
            return await self._virtual_keys.look_up(credential)
        finally:
            self.gate.require_open()  # it may have been closed when the key was read

    def is_internal(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the credential is an internal key; raises `Unauthorized` when there is none."""
        return self._internal_keys.match(read_credential(headers).digest) is not None
