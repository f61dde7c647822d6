"""What an examination says: findings, and checks that could not be made; the codes of findings, in one table.

Invariants: a code never changes its meaning; no finding holds a secret, a password or an address with one.
`docs/doctor.md` is generated from `KINDS`.
"""

from dataclasses import dataclass
from typing import Literal

from llm_proxy.cli.doctor.kinds import KINDS, Severity

CheckState = Literal["ok", "partly", "findings", "skipped", "unknown"]


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One thing that is not as it should be.

    Attributes:
        code: Stable, such as `redis-evicts`.
        severity: `critical`: calls, money or secrets are at risk now; `warning`: they will be.
        what: What was found, with its place and figures.
        why: Why it matters.
        mend: What to do, a command where one does it.
    """

    code: str
    severity: Severity
    what: str
    why: str
    mend: str


@dataclass(frozen=True, slots=True)
class NotChecked:
    """Something that was not looked at.

    Attributes:
        what: Such as `free disk of Postgres`.
        reason: Why not.
        is_unknown: Whether it should have been looked at, so that a fault may be hidden. Otherwise it is
            not set up, or the operator did not select it.
    """

    what: str
    reason: str
    is_unknown: bool = False


Outcome = list[DoctorFinding | NotChecked]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check of the table."""

    check: str
    findings: tuple[DoctorFinding, ...]
    not_checked: tuple[NotChecked, ...]

    @property
    def state(self) -> CheckState:
        """`ok` only where all was seen; `partly`: what was seen is in order; `skipped`: nothing was."""
        if self.findings:
            return "findings"
        if any(one.is_unknown for one in self.not_checked):
            return "unknown"
        if any(one.what == self.check for one in self.not_checked):
            return "skipped"
        return "partly" if self.not_checked else "ok"


def finding(code: str, what: str, **values: str) -> DoctorFinding:
    """Returns a finding of this kind; `values` fill in its remedy."""
    kind = KINDS[code]
    return DoctorFinding(code, kind.severity, what, kind.why, kind.mend.format(**values))
