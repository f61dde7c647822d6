"""Which tenants' prompts and answers may be stored (`LOG_PAYLOADS`); redaction of key-like text.

Pure. Invariants: no tenant's text is stored unless the operator allows it; redacted text keeps at most its
first characters, enough to tell keys apart. Redaction is a second net: prompts, answers and credentials are
not handed to logs in the first place. Text without any of the marks below is only searched for them, ten
times as fast as it would be matched.
"""

import re
from collections.abc import Iterable

EVERY_TENANT = "full"
NO_TENANT = "off"


class PayloadPolicy:
    """The tenants whose prompts and answers may be stored; false if there are none."""

    __slots__ = ("_tenants",)

    def __init__(self, words: Iterable[str] = (NO_TENANT,)) -> None:
        """`words` are `off`, `full`, or tenants' names."""
        self._tenants = frozenset(words) - {NO_TENANT}

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def allows(self, tenant: str | None) -> bool:
        """Returns whether this tenant's prompts and answers may be stored."""
        return EVERY_TENANT in self._tenants or tenant in self._tenants


_BLANK = "[redacted]"
_REST = r"""[^\s"'<>&,;@\\]{6,}"""
_NAMES = ("api_key", "api-key", "apikey", "secret", "password", "authorization", "x-internal-auth")
_PREFIXES = (
    "sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "gsk_", "csk-", "xai-", "pa-", "hf_", "ghp_", "glpat-", "AIza",
    "AKIA", "llmp-", "llmp_",
)  # fmt: skip


def _after(mark: str, *, gap: str = "", then: str = _REST) -> tuple[str, re.Pattern[str]]:
    """Returns a mark and the pattern of the text after it, where the mark begins a word."""
    quoted = re.escape(mark)
    return mark, re.compile(rf"{quoted}(?<![A-Za-z0-9]{quoted}){gap}({then})")


_MARKED = (
    *(_after(prefix, then=r"[A-Za-z0-9_-]{12,}") for prefix in _PREFIXES),
    *(_after(scheme, gap=r"\s+") for scheme in ("Bearer", "bearer", "Basic", "basic")),
    _after("eyJ", then=r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+"),
)
_PASSWORD = re.compile(rf"(://[^\s:/@]{{0,64}}:){_REST}(?=@)")
_NAMED = re.compile(
    rf"((?:{'|'.join(_NAMES)})\\?[\"']?\s*[:=]\s*\\?[\"']?(?:Bearer\s+|Basic\s+)?){_REST}", re.IGNORECASE
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Returns the text with every key-like part and every occurrence of `secrets` replaced."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, _BLANK)
    lowered = text.lower()
    if any(name in lowered for name in _NAMES):
        text = _NAMED.sub(rf"\1{_BLANK}", text)
    if "://" in text:
        text = _PASSWORD.sub(rf"\1{_BLANK}", text)
    for mark, pattern in _MARKED:
        if mark in text:
            text = pattern.sub(lambda found: found[0][: -len(found[1])] + _BLANK, text)
    return text
