"""The gateway's keys at the sidecars, and which of them each sidecar accepts while they are rotated.

Invariants: the first key is sent until a sidecar rejects it, then the next; a rejected call has not begun, so
that it is sent again; a sidecar that takes an old key gets the first again every `TRY_FIRST_EVERY_S`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

TRY_FIRST_EVERY_S = 15.0
REFUSED_HEADER = b"x-llmp-key"
"""Our sidecar's header of a 401 that is about the gateway's key."""
REFUSING_STATUSES = frozenset({400, 401})
_LITELLM_REFUSAL = re.compile(rb'"type":\s*"(?:auth_error|token_not_found_in_db|no_db_connection)"')
"""An unmodified LiteLLM's error of that kind, without a database a 400; a provider's has another type."""


class SidecarKeys:
    """The keys, and which of them each sidecar took last."""

    def __init__(
        self,
        keys: Sequence[str],
        on_old_use: Callable[[], None] = lambda: None,
        clock_s: Callable[[], float] = monotonic,
    ) -> None:
        """Takes the keys, newest first; `on_old_use` is called for each call with another than the first."""
        self._keys = tuple(keys)
        self._on_old_use, self._clock_s = on_old_use, clock_s
        self._older: dict[str, tuple[int, float]] = {}

    @property
    def may_change(self) -> bool:
        """Whether there is another key to try."""
        return len(self._keys) > 1

    def key_for(self, url: str) -> str | None:
        """Returns the key that is sent to the sidecar of this URL; None without any."""
        if url in self._older:
            at, since_s = self._older[url]
            if self._clock_s() - since_s < TRY_FIRST_EVERY_S:
                return self._keys[at]
            del self._older[url]
        return self._keys[0] if self._keys else None

    def next_after(self, url: str, tried: Sequence[str | None]) -> str | None:
        """Returns a key that was not tried, which this sidecar gets from now on; None without one."""
        for at, key in enumerate(self._keys):
            if key not in tried:
                self._older[url] = at, self._clock_s()
                return key
        self._older.pop(url, None)
        return None

    def note_call(self, url: str) -> None:
        """Notes that the sidecar was sent a call."""
        if url in self._older:
            self._on_old_use()


def is_refusal_of_key(headers: Mapping[bytes, bytes], body: bytes) -> bool:
    """Whether an error of a sidecar says that it does not know the gateway's key."""
    return REFUSED_HEADER in headers or _LITELLM_REFUSAL.search(body) is not None
