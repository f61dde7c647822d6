"""The virtual keys with which admins call from the playground: of an hour, one a person, bounded in money.

Invariants: a key is made by the admin API with the admin's own credential, so that the audit log names the
person; its text is in this process's memory alone and ends with its hour; a revoked one closes the
playground to its person. A holder of a virtual key needs none: it calls with its own.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from llm_proxy.console.access import Viewer
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.console.pages.keys import key_path
from llm_proxy.errors import Forbidden
from llm_proxy.json_access import Json

LIFETIME = timedelta(hours=1)
RENEWED_BEFORE = timedelta(minutes=1)
BUDGET_USD = "1"
"""A day, of each person."""
RPM = 60
_MAX_KEYS = 1_000
_MAX_NAME_CHARS = 60
_ODD_CHARACTERS = re.compile(r"[^A-Za-z0-9._@-]+")


@dataclass(frozen=True, slots=True)
class PlaygroundKey:
    """A key, and its end."""

    text: str = field(repr=False)
    key_id: str
    expires_at: datetime


class PlaygroundKeys:
    """Keys of the sessions that have called."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._keys: dict[str, PlaygroundKey] = {}
        self._lock = asyncio.Lock()

    def find(self, viewer: Viewer) -> PlaygroundKey | None:
        """Returns the session's key, while it lives; None before its first call."""
        found = self._keys.get(viewer.session_id)
        return found if found is not None and found.expires_at - self._now() > RENEWED_BEFORE else None

    async def get(self, viewer: Viewer) -> PlaygroundKey:
        """Returns the session's key, which is made for its first call; raises what the admin API rejects."""
        async with self._lock:
            found = self.find(viewer)
            if found is None:
                found = await self._make(viewer)
                living = {name: one for name, one in self._keys.items() if one.expires_at > self._now()}
                self._keys = dict([*living.items()][-_MAX_KEYS:]) | {viewer.session_id: found}
            return found

    async def _make(self, viewer: Viewer) -> PlaygroundKey:
        expires_at = self._now() + LIFETIME
        spec: Json = {
            "models": ["*"],
            "rpm": RPM,
            "budgets": [{"limit_usd": BUDGET_USD, "period": "day"}],
            "expires_at": expires_at.isoformat(),
            "tags": ["playground"],
        }
        name = key_name(viewer.name)
        try:
            made = await viewer.api.send("POST", "/admin/keys", {"name": name, **spec})
        except GatewayRejected as error:
            if error.param != "name":
                raise
            made = await self._renew(viewer, name, spec)
        return PlaygroundKey(made["key"], made["id"], expires_at)

    async def _renew(self, viewer: Viewer, name: str, spec: Json) -> Json:
        """Gives the person's key another hour and secret; raises `Forbidden` if it was revoked."""
        if (await viewer.api.get(key_path(name)))["revoked_at"]:
            raise Forbidden(f"The key {name} was revoked: the playground is closed to you.")
        await viewer.api.send("PATCH", key_path(name), spec)
        return await viewer.api.send(
            "POST", key_path(name, "/rotate"), {"overlap_s": int(LIFETIME.total_seconds())}
        )


def key_name(person: str) -> str:
    """Returns the name of a person's key: the same for the same name, another for another."""
    plain = _ODD_CHARACTERS.sub("-", person)[:_MAX_NAME_CHARS]
    suffix = "" if plain == person else f"-{hashlib.sha256(person.encode()).hexdigest()[:8]}"
    return f"playground-{plain}{suffix}"
