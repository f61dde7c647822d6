"""Seals what callers keep for the gateway: only a holder of the key can read or make a token.

Pure, the only home of `cryptography`. Invariants: a token names its key; the first key seals, all open, so
that a key can be rotated while its tokens live; a token opens for the purpose it was sealed for alone; one
with any fault does not open. AES-256-GCM-SIV (RFC 8452): a nonce drawn twice betrays no plaintext. The
library takes 6 MB: it is imported where something is sealed or opened for the first time.
"""

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

MIN_SECRET_CHARS = 32
_NONCE_BYTES, _KEY_BYTES = 12, 32
_KEY_ID = re.compile(r"[A-Za-z0-9]{1,16}")
_TOKEN = re.compile(r"([A-Za-z0-9]{1,16})\.([A-Za-z0-9_-]+)", re.ASCII)


class SealingKey(NamedTuple):
    """A key and the name tokens know it by."""

    key_id: str
    secret: str


def parse_sealing_keys(text: str) -> tuple[SealingKey, ...]:
    """Returns the keys of `id=secret,id=secret`; raises `ValueError`, which never shows a secret."""
    keys = [SealingKey(*_split(one.strip())) for one in text.split(",") if one.strip()]
    ids = [key.key_id for key in keys]
    if len(set(ids)) != len(ids):
        raise ValueError("two keys have one id")
    return tuple(keys)


def _split(pair: str) -> tuple[str, str]:
    key_id, found, secret = pair.partition("=")
    if not found or _KEY_ID.fullmatch(key_id) is None:
        raise ValueError("expected id=secret, the id 1 to 16 letters and digits")
    if len(secret) < MIN_SECRET_CHARS:
        raise ValueError(f"the secret of a key has fewer than {MIN_SECRET_CHARS} characters")
    return key_id, secret


class Sealer:
    """Seals with the first of its keys, opens with any."""

    __slots__ = ("_ciphers", "_on_old_key", "_sealing_id", "_secrets")

    def __init__(self, keys: Sequence[SealingKey], on_old_key: Callable[[], None] = lambda: None) -> None:
        """Takes one key or more; `on_old_key` is called when another than the first has opened a token."""
        self._on_old_key = on_old_key
        self._sealing_id = keys[0].key_id
        self._secrets = {key.key_id: key.secret for key in keys}
        self._ciphers: dict[str, AESGCMSIV] = {}

    def seal(self, purpose: str, payload: bytes) -> str:
        """Returns a URL-safe token of the payload, another one each time, which opens for `purpose` alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher(self._sealing_id).encrypt(nonce, payload, purpose.encode())
        return f"{self._sealing_id}.{urlsafe_b64encode(nonce + sealed).rstrip(b'=').decode()}"

    def open(self, purpose: str, token: str) -> bytes | None:
        """Returns the payload of a token; None for one that was forged, or sealed otherwise."""
        match = _TOKEN.fullmatch(token)
        if match is None or match[1] not in self._secrets:
            return None
        try:
            raw = urlsafe_b64decode(match[2] + "=" * (-len(match[2]) % 4))
        except ValueError:
            return None
        payload = _decrypted(self._cipher(match[1]), raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], purpose.encode())
        if payload is not None and match[1] != self._sealing_id:
            self._on_old_key()
        return payload

    def _cipher(self, key_id: str) -> "AESGCMSIV":
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            secret = self._secrets[key_id].encode()
            cipher = self._ciphers[key_id] = _derived_cipher(secret, None, b"llm-proxy sealing")
        return cipher


class SegmentCipher:
    """Seals the segments of one answer by a key that only a secret yields; each opens at its place alone."""

    __slots__ = ("_cipher",)

    def __init__(self, secret: bytes, answer: str) -> None:
        """`answer` names the answer: no other one has its key."""
        self._cipher = _derived_cipher(secret, answer.encode(), b"llm-proxy answer")

    def seal(self, number: int, segment: bytes) -> bytes:
        """Returns a segment, sealed; the number is its nonce, the key is this answer's own."""
        return self._cipher.encrypt(number.to_bytes(_NONCE_BYTES), segment, None)

    def open(self, number: int, sealed: bytes) -> bytes | None:
        """Returns a segment; None for one that was sealed with another secret, or for another place."""
        return _decrypted(self._cipher, number.to_bytes(_NONCE_BYTES), sealed, None)


def _derived_cipher(secret: bytes, salt: bytes | None, info: bytes) -> "AESGCMSIV":
    """Returns a cipher; its key is derived from a secret of any length that cannot be guessed."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV  # noqa: PLC0415 -- 6 MB
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 -- the same
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415 -- the same

    return AESGCMSIV(HKDF(SHA256(), _KEY_BYTES, salt=salt, info=info).derive(secret))


def _decrypted(cipher: "AESGCMSIV", nonce: bytes, sealed: bytes, bound: bytes | None) -> bytes | None:
    """Returns the plaintext; None if it was sealed with another key, or for another place."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 -- the same

    try:
        return cipher.decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError):
        return None
