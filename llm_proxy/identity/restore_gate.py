"""Whether calls are admitted: not while the database is one that came out of a backup.

Invariants: who is closed out learns nothing of the stores; while it is closed, no key that the database knows
opens anything, for one that was revoked may be among them.
"""

from llm_proxy.errors import StoreUnavailable

RETRY_AFTER_S = 30


class RestoreGate:
    """Open, or closed for a reason.

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
