"""Secrets that are rotated while calls run: the settings that hold one, `new,old`, and uses of the old one.

Invariants: of several secrets the first is sent, signs and seals, all are accepted; none is logged here. The
sidecar reads its keys with it, too, so that it imports the standard library alone.
"""

import time
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

REPORT_EVERY_S = 3600.0

Reader = Literal["gateway", "console", "sidecar", "up"]
"""Who reads a setting: `up` is the launcher of one machine, which hands on what the others get."""


class SecretSetting(NamedTuple):
    """A setting that holds a secret.

    Attributes:
        variable: Its name.
        readers: The processes that read it.
        takes_several: Whether it takes `new,old`; else a new value takes effect in one step.
    """

    variable: str
    readers: tuple[Reader, ...]
    takes_several: bool = False


_SETTINGS = (
    SecretSetting("LLM_PROXY__INTERNAL_API_KEY", ("gateway",), takes_several=True),
    SecretSetting("LLM_PROXY__LITELLM_MASTER_KEY", ("gateway",), takes_several=True),
    SecretSetting("LLM_PROXY__ADMIN_KEY", ("gateway", "console"), takes_several=True),
    SecretSetting("LLM_PROXY__ADMIN_READ_KEY", ("gateway", "console"), takes_several=True),
    SecretSetting("LLM_PROXY__LITELLM_API_KEY", ("gateway", "up"), takes_several=True),
    SecretSetting("LITELLM_MASTER_KEY", ("sidecar",), takes_several=True),
    SecretSetting("LLM_PROXY__SEALING_KEYS", ("gateway",), takes_several=True),
    SecretSetting("LLM_PROXY__NOTIFY_SECRET", ("gateway",), takes_several=True),
    SecretSetting("LLM_PROXY__NOTIFY_WEBHOOKS", ("gateway",)),
    SecretSetting("LLM_PROXY__DATABASE_URL", ("gateway", "console", "up")),
    SecretSetting("LLM_PROXY__LIMITS_REDIS_URL", ("gateway", "up")),
    SecretSetting("LLM_PROXY__CACHE_REDIS_URL", ("gateway", "up")),
    SecretSetting("CACHE_REDIS_URL", ("sidecar", "up")),
    SecretSetting("LLM_CALLS_DATABASE_URL", ("sidecar", "up")),
    SecretSetting("LLM_PROXY_STACK_POSTGRES_PASSWORD", ("up",)),
    SecretSetting("LLM_PROXY__LANGFUSE_SECRET_KEY", ("gateway",)),
    SecretSetting("LLM_PROXY__OTLP_HEADERS", ("gateway",)),
    SecretSetting("LLM_PROXY__CONSOLE_OIDC_CLIENT_SECRET", ("console",)),
)


def secret_settings() -> tuple[SecretSetting, ...]:
    """Returns the settings that hold secrets, but for those of providers, whose names are theirs."""
    return _SETTINGS


def split_secrets(text: str) -> tuple[str, ...]:
    """Returns the secrets of `new,old`, the newest first."""
    return tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))


class OldSecretUses:
    """Counts uses of secrets that another one stands in front of; reports a setting once an hour at most.

    Attributes:
        counts: Uses by setting, with a 0 for each whose old secret has not been used.
    """

    def __init__(
        self, report: Callable[[str, int], None], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`report` gets the setting and the uses since the last report; the first use is reported at once."""
        self.counts: dict[str, int] = {}
        self._report, self._clock_s = report, clock_s
        self._unreported: dict[str, int] = {}
        self._report_at_s: dict[str, float] = {}

    def expect(self, settings: Iterable[str]) -> None:
        """Names settings that hold an old secret."""
        for one in settings:
            self.counts.setdefault(one, 0)

    def note(self, setting: str) -> None:
        """Counts a use."""
        self.counts[setting] = self.counts.get(setting, 0) + 1
        uses = self._unreported[setting] = self._unreported.get(setting, 0) + 1
        now_s = self._clock_s()
        if now_s >= self._report_at_s.get(setting, now_s):
            self._report_at_s[setting], self._unreported[setting] = now_s + REPORT_EVERY_S, 0
            self._report(setting, uses)
