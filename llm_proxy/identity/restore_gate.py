"""Rejects all calls while the database was restored from a backup, until that is acknowledged.

Invariants: the error says nothing about the stores; while the gate is closed, no key of the database is
accepted, because it may have been revoked since the backup.
"""

from llm_proxy.errors import StoreUnavailable

RETRY_AFTER_S = 30


class RestoreGate:
    """The gate: open, or closed for a reason.

    Attributes:
        reason: Why it is closed, for operators; None while it is open.
    """

    __slots__ = ("reason",)

    def __init__(self) -> None:
        self.reason: str | None = None

    def require_open(self) -> None:
        """Raises `StoreUnavailable` while it is closed."""
        if self.reason is not None:
            message = "The service is being restored and accepts no calls right now; please try again later."
            raise StoreUnavailable(message, retry_after_s=RETRY_AFTER_S)
