"""Headers in, a `Caller` out: internal secrets first, then virtual keys.

Invariants: every credential is digested and compared with every internal secret in constant time; what is
neither is refused without saying which part was wrong.
"""

from collections.abc import Mapping
from typing import Protocol

from llm_proxy.errors import BadRequest
from llm_proxy.identity.caller import NOBODY, Caller, Named
from llm_proxy.identity.credentials import InternalSecrets, credential, digest, incorrect
from llm_proxy.identity.tags import Tags, tags_from

LONGEST_NAME = 256
_NAMING = (b"x-tenant-id", b"x-agent-id", b"x-user-id", b"x-session-id", b"x-run-id")
_TAGS = b"x-tags"
_ANY_NAMING = frozenset({*_NAMING, _TAGS})


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


def named_by_headers(headers: Mapping[bytes, bytes]) -> Named:
    """Whom the headers say the request acts for; raises `BadRequest` for a name no one can have."""
    if _ANY_NAMING.isdisjoint(headers):
        return NOBODY
    tenant, agent, user, session, run = (_name(headers, name) for name in _NAMING)
    tags = _tags(headers[_TAGS]) if _TAGS in headers else ()
    return Named(tenant=tenant, agent=agent, user=user, session=session, run=run, tags=tags)


def _tags(value: bytes) -> Tags:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return tags_from(text, "x-tags")


def _name(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    if value is None:
        return None
    text = value.strip().decode("latin-1")
    if not text or len(text) > LONGEST_NAME or not text.isprintable():
        raise BadRequest(
            f"Invalid '{name.decode()}' header: expected 1 to {LONGEST_NAME} printable characters.",
            param=name.decode(),
        )
    return text
