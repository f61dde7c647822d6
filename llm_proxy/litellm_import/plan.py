"""What an import makes of LiteLLM's rows: keys, policies, kill switches, opening spend, and what is lost.

Pure. Invariant: `ImportNote` of the kind `lost` names each protection that has no counterpart.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from llm_proxy.identity import KeySpec, KillSwitch, LimitPolicy

NoteKind = Literal["lost", "changed", "note"]
"""`lost`: a limit, budget or restriction that would not hold; `changed`: it holds in another form."""


@dataclass(frozen=True, slots=True)
class ImportNote:
    """What the operator has to know of one row; `subject` names it, such as `key demo`."""

    kind: NoteKind
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class OpeningSpend:
    """What a budget's owner spent before its first call here.

    Attributes:
        cost_nano_usd: In nano-dollars.
        period_start: It counts in budget periods that began at this time or before.
    """

    cost_nano_usd: int
    period_start: datetime


@dataclass(frozen=True, slots=True)
class PlannedKey:
    """A virtual key; LiteLLM knows no more of its text than the SHA-256.

    Attributes:
        source_id: The SHA-256 in hexadecimal, as LiteLLM stores it.
        former: The SHA-256 of older secrets that are valid until a time, after a rotation.
        blocked: LiteLLM rejects its calls until an admin unblocks it.
        spend_mark: Changes with the spend of LiteLLM's budget, and not as time goes by.
    """

    source_id: str
    spec: KeySpec
    former: tuple[tuple[str, datetime], ...] = ()
    blocked: bool = False
    opening: OpeningSpend | None = None
    spend_mark: str = ""


@dataclass(frozen=True, slots=True)
class PlannedPolicy:
    """A limit policy; `source_id` names the row of LiteLLM it is made of, such as `team 1234`."""

    source_id: str
    policy: LimitPolicy
    opening: OpeningSpend | None = None
    spend_mark: str = ""


@dataclass(frozen=True, slots=True)
class PlannedSwitch:
    """A kill switch; `source_id` as in `PlannedPolicy`."""

    source_id: str
    switch: KillSwitch
    reason: str


@dataclass(slots=True)
class ImportPlan:
    """Everything an import makes.

    Attributes:
        aliases: Model names that callers use, by the group each stands for; for the configuration file.
    """

    keys: list[PlannedKey] = field(default_factory=list[PlannedKey])
    policies: list[PlannedPolicy] = field(default_factory=list[PlannedPolicy])
    switches: list[PlannedSwitch] = field(default_factory=list[PlannedSwitch])
    notes: list[ImportNote] = field(default_factory=list[ImportNote])
    aliases: dict[str, str] = field(default_factory=dict[str, str])

    def note(self, kind: NoteKind, subject: str, message: str) -> None:
        """Adds a note."""
        self.notes.append(ImportNote(kind, subject, message))
