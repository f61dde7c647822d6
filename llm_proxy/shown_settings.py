"""The settings of this process for people: names, values and meanings; of secrets only whether they are set.

Pure. Invariant: no secret, no password or query of an address and no digest of one is in a value.
"""

import re
from dataclasses import dataclass
from typing import cast

from pydantic import SecretStr

from llm_proxy.setting_sources import PREFIX, is_secret
from llm_proxy.settings import Settings
from llm_proxy.telemetry.privacy import redact

_USER_INFO = re.compile(r"(?<=://)[^/?#@\s]*@")
_QUERY = re.compile(r"\?\S*")


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """One setting."""

    variable: str
    value: str
    is_default: bool
    description: str


def shown_settings(settings: Settings) -> list[ShownSetting]:
    """Returns every setting, those that were set first."""
    rows = [
        ShownSetting(
            f"{PREFIX}{name.upper()}",
            _shown(getattr(settings, name), is_secret=is_secret(field)),
            name not in settings.model_fields_set,
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]
    return sorted(rows, key=lambda row: row.is_default)


def _shown(value: object, *, is_secret: bool) -> str:
    if value is None or value == ():
        return "not set"
    if is_secret or isinstance(value, SecretStr):
        return "set; not shown"
    if isinstance(value, tuple):
        return ", ".join(_shown(one, is_secret=False) for one in cast("tuple[object, ...]", value))
    text = str(value)
    if "://" in text:
        text = _QUERY.sub("?…", _USER_INFO.sub("…@", text))
    return redact(text)
