"""Headers in, a `Caller` out: internal secrets first, then virtual keys.

Invariants: every credential is digested and compared with every internal secret in constant time; what is
neither is refused without saying which part was wrong.
"""

from collections.abc import Mapping
from typing import Protocol

from llm_proxy.identity.caller import Caller
from llm_proxy.identity.credentials import InternalSecrets, credential, digest, incorrect


class Keys(Protocol):
    """Where virtual keys are looked up."""

    async def find(self, key: bytes) -> Caller:
        """The caller a key belongs to; raises `Unauthorized`, or `StoreUnavailable` when nobody can tell."""
        ...


class Identity:
    """Tells who is calling."""

    def __init__(self, secrets: InternalSecrets, keys: Keys | None = None) -> None:
        self._secrets = secrets
        self._keys = keys

    async def identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        """The caller of a request with these headers (lower-case names).

        Raises:
            Unauthorized: No credential, several, or one that is not ours.
            StoreUnavailable: It may be a virtual key, but the store is away.
        """
        key = credential(headers)
        caller = self._secrets.find(digest(key))
        if caller is not None:
            return caller
        if self._keys is None:
            raise incorrect()
        return await self._keys.find(key)

    def is_internal(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the credential is an internal secret; raises `Unauthorized` when there is none."""
        return self._secrets.find(digest(credential(headers))) is not None
