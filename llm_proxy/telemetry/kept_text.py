"""Whose prompts and answers may be kept, anywhere: `LOG_PAYLOADS`, as one question.

Pure. Invariant: nobody's unless the operator said so; who stores them and who sends them on ask here.
"""

from collections.abc import Iterable

EVERYBODY = "full"
NOBODY = "off"


class KeptText:
    """The tenants whose text is kept; false when there are none."""

    __slots__ = ("_tenants",)

    def __init__(self, words: Iterable[str] = (NOBODY,)) -> None:
        """`words` are `off`, `full`, or the tenants' names."""
        self._tenants = frozenset(words) - {NOBODY}

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def of(self, tenant: str | None) -> bool:
        """Whether this tenant's text is kept."""
        return EVERYBODY in self._tenants or tenant in self._tenants
