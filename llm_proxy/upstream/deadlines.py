"""How long a call may take: to its first byte, between two frames, and in total; by model group.

Pure. Invariants: the first pattern that fits a group decides, the rest of it from the defaults; a caller may
ask for less in total, never for more. Units: seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from llm_proxy.settings import Settings
from llm_proxy.wildcards import covers


@dataclass(frozen=True, slots=True)
class Wait:
    """Longest waits."""

    first_byte_s: float = 120
    idle_s: float = 60
    total_s: float = 600


class Deadlines:
    """Longest waits of every model group."""

    def __init__(self, default: Wait, of_groups: Iterable[tuple[str, Wait]] = ()) -> None:
        """Put them together.

        Args:
            default: For groups nothing else is said of.
            of_groups: Patterns (`slow-*`) and what holds for the groups they fit; the first that fits counts.
        """
        self._default = default
        self._of_groups = tuple(of_groups)

    def of(self, group: str) -> Wait:
        """The waits of one group."""
        if not self._of_groups:
            return self._default
        return next((wait for name, wait in self._of_groups if covers(name, group)), self._default)

    def total_s(self, group: str, asked_s: float | None) -> float:
        """How long a call may take in total, when its caller asked for so much."""
        longest = self.of(group).total_s
        return longest if asked_s is None else min(asked_s, longest)


def deadlines(settings: Settings) -> Deadlines:
    """The deadlines an operator has set."""
    usual = Wait(settings.first_byte_timeout_s, settings.idle_timeout_s, settings.total_timeout_s)
    others = {name: one.model_dump(exclude_none=True) for name, one in settings.deadlines.items()}
    return Deadlines(usual, [(name, replace(usual, **said)) for name, said in others.items()])
