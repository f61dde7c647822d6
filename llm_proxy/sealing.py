"""Seals what callers keep for the gateway: only a holder of the key can read or make a token.

Pure, the only home of `cryptography`. Invariants: a token names its key; the first key seals, all open, so
that a key can be exchanged while its tokens live; a token opens for the purpose it was sealed for alone; one
with any fault does not open. AES-256-GCM-SIV (RFC 8452): a nonce drawn twice betrays no plaintext.
"""

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

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

    __slots__ = ("_ciphers", "_on_old_key", "_sealing_id")

    def __init__(self, keys: Sequence[SealingKey], on_old_key: Callable[[], None] = lambda: None) -> None:
        """Takes one key or more; `on_old_key` is called when another than the first has opened a token."""
        self._on_old_key = on_old_key
        self._sealing_id = keys[0].key_id
        self._ciphers = {key.key_id: AESGCMSIV(_derived(key.secret)) for key in keys}

    def seal(self, purpose: str, payload: bytes) -> str:
        """Returns a URL-safe token of the payload, another one each time, which opens for `purpose` alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self._sealing_id].encrypt(nonce, payload, purpose.encode())
        return f"{self._sealing_id}.{urlsafe_b64encode(nonce + sealed).rstrip(b'=').decode()}"

    def open(self, purpose: str, token: str) -> bytes | None:
        """Returns the payload of a token; None for one that was forged, or sealed otherwise."""
        match = _TOKEN.fullmatch(token)
        cipher = self._ciphers.get(match[1]) if match else None
        if match is None or cipher is None:
            return None
        try:
            raw = urlsafe_b64decode(match[2] + "=" * (-len(match[2]) % 4))
            payload = cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], purpose.encode())
        except (InvalidTag, ValueError):
            return None
        if match[1] != self._sealing_id:
            self._on_old_key()
        return payload


class SegmentCipher:
    """Seals the segments of one answer by a key that only a secret yields; each opens at its place alone."""

    __slots__ = ("_cipher",)

    def __init__(self, secret: bytes, answer: str) -> None:
        """`answer` names the answer: no other one has its key."""
        key = HKDF(SHA256(), _KEY_BYTES, salt=answer.encode(), info=b"llm-proxy answer").derive(secret)
        self._cipher = AESGCMSIV(key)

    def seal(self, number: int, segment: bytes) -> bytes:
        """Returns a segment, sealed; the number is its nonce, the key is this answer's own."""
        return self._cipher.encrypt(number.to_bytes(_NONCE_BYTES), segment, None)

    def open(self, number: int, sealed: bytes) -> bytes | None:
        """Returns a segment; None for one that was sealed with another secret, or for another place."""
        try:
            return self._cipher.decrypt(number.to_bytes(_NONCE_BYTES), sealed, None)
        except InvalidTag:
            return None


def _derived(secret: str) -> bytes:
    """A key of the right length from a secret of any; the settings demand one that cannot be guessed."""
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"llm-proxy sealing").derive(secret.encode())
