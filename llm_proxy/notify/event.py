"""One notification: its kind, its id, its facts, and its sentence.

Pure. Invariants: the same event has the same id at every replica. Facts hold no secret, no prompt and no
person's name; only `user` names a person. A budget whose amount is changed counts as another budget.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4, uuid5

from llm_proxy.admission import reset_time
from llm_proxy.admission.spending_watch import BudgetSpend
from llm_proxy.identity import ANY
from llm_proxy.identity.caller import PERIOD_SUFFIX
from llm_proxy.json_access import Json
from llm_proxy.money import format_usd
from llm_proxy.quantities import shown_amount, unit_text

NotificationKind = Literal[
    "budget.share",
    "budget.exhausted",
    "credentials.refused",
    "provider.credentials_refused",
    "sidecar.lost",
    "test",
]
REPEAT_AFTER = timedelta(hours=1)
"""An event outside a budget's period is repeated after this time at the earliest."""
RETENTION = timedelta(days=30)
FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
_NAMESPACE = UUID("6f0d5f0c-3c6e-5a53-9a55-6b1c8f3f6d10")


@dataclass(frozen=True, slots=True)
class Notification:
    """An event that operators get once.

    Attributes:
        subject: What the event is about, with its period, if any; kind and subject make the id.
        ends_at: End of the period in which it is sent once; None: once within `REPEAT_AFTER`.
    """

    kind: NotificationKind
    subject: str
    facts: Json = field(default_factory=dict[str, Any])
    tenant: str | None = None
    user: str | None = None
    ends_at: datetime | None = None

    @property
    def subject_id(self) -> UUID:
        """The id of kind and subject."""
        return uuid5(_NAMESPACE, f"{self.kind}\n{self.subject}".encode("utf-8", "replace").decode())

    def event_id(self, now: datetime) -> UUID:
        """Returns the event's id: the same for the whole period, or of this moment alone."""
        return self.subject_id if self.ends_at is not None else uuid5(self.subject_id, now.isoformat())


def budget_notifications(spending: BudgetSpend, shares: tuple[int, ...]) -> list[Notification]:
    """Returns the events of a budget's spend: exhausted (it rejected a call), or each share reached."""
    check, spent = spending.check, spending.spent
    ends_at = datetime.fromtimestamp(check.period_end_ms / 1000, UTC) if check.period_end_ms else FOREVER
    user = check.spender_id if check.scope == "user_model" else None
    facts = _budget_facts(spending)
    about = f"{check.key}\n{check.limit}"
    if spending.exhausted:
        return [Notification("budget.exhausted", about, facts, check.spender_tenant or None, user, ends_at)]
    if spent is None or not check.limit:
        return []
    return [
        Notification(
            "budget.share",
            f"{about}\n{share}",
            facts | {"share_percent": share},
            check.spender_tenant or None,
            user,
            ends_at,
        )
        for share in shares
        if spent * 100 >= check.limit * share
    ]


def refused_credentials_notification(client_ip: str, times: int) -> Notification:
    """Returns the event of many rejected credentials from an address; empty: from many addresses."""
    return Notification("credentials.refused", client_ip, {"client_ip": client_ip or None, "times": times})


def provider_credentials_notification(deployment: str, group: str) -> Notification:
    """Returns the event of a provider that rejected the gateway's own credentials."""
    return Notification(
        "provider.credentials_refused", deployment, {"deployment": deployment, "group": group}
    )


def sidecar_lost_notification(sidecar: str | None, away_s: float) -> Notification:
    """Returns the event of a sidecar, or (None) every sidecar, that is unavailable for `away_s` seconds."""
    return Notification("sidecar.lost", sidecar or "", {"sidecar": sidecar, "away_s": away_s})


def make_test_notification() -> Notification:
    """Returns the event that `llm-proxy notify test` sends."""
    return Notification("test", str(uuid4()))


def summarize(kind: str, facts: Json, tenant: str | None, user: str | None) -> str:
    """Returns an event as one sentence."""
    if kind.startswith("budget."):
        return _summarize_budget(kind, facts, tenant, user)
    if kind == "credentials.refused":
        where = facts["client_ip"] or "many addresses together"
        return f"{facts['times']} credentials were rejected from {where} within an hour."
    if kind == "provider.credentials_refused":
        deployment = f"deployment {facts['deployment']} ({facts['group']})"
        return f"A provider rejected the gateway's credentials: {deployment}."
    if kind == "sidecar.lost":
        away_s = f"for more than {facts['away_s']:g} s"
        sidecar = facts["sidecar"]
        return (
            f"The sidecar {sidecar} has been unavailable {away_s}."
            if sidecar
            else f"No sidecar has been available {away_s}."
        )
    return "This is a test of llm-proxy's notifications."


def _summarize_budget(kind: str, facts: Json, tenant: str | None, user: str | None) -> str:
    scope = facts["scope"]
    who = user if scope == "user_model" else facts.get("name") or facts["subject"]
    whose = {
        "global": "all callers together",
        "tenant_group": f"tenant {who}",
        "user_model": f"user {who}",
    }.get(scope, f"{scope} {who}")
    whose += f" at {facts['group']}" if facts["group"] else ""
    whose += f" (tenant {tenant})" if tenant and scope not in {"tenant", "tenant_group"} else ""
    limit = f"{_amount_text(facts['limit'], facts['unit'])}{PERIOD_SUFFIX[facts['period']]}"
    shadow = "" if facts["enforced"] else " It is in shadow mode and rejects nothing."
    ends = f"; it resets {facts['resets_at']}" if facts["resets_at"] else ""
    if kind == "budget.exhausted":
        return f"The budget of {whose} is used up: a call was rejected. It is {limit}{ends}."
    spent = _amount_text(facts["spent"], facts["unit"])
    share = facts["share_percent"]
    return f"The budget of {whose} is spent to {share} %: {spent} of {limit}{ends}.{shadow}"


def _budget_facts(spending: BudgetSpend) -> Json:
    check = spending.check
    ends = reset_time(check)
    facts = {
        "scope": check.scope,
        "subject": None if check.scope == "user_model" else check.spender_id,
        "group": None if check.spender_group == ANY else check.spender_group,
        "unit": check.unit,
        "limit": _json_amount(check.limit, check.unit),
        "period": check.period,
        "resets_at": ends.isoformat() if ends else None,
        "enforced": check.enforced,
    }
    if spending.spent is not None:
        facts["spent"] = _json_amount(spending.spent, check.unit)
    return facts


def _json_amount(amount: int, unit: str) -> str | float:
    """Returns money as text with a decimal number of dollars, any other amount in its unit."""
    if unit == "usd":
        return format_usd(amount).removeprefix("$").replace(",", "")
    return shown_amount(amount, unit)


def _amount_text(amount: str | float, unit: str) -> str:
    return f"${amount}" if isinstance(amount, str) else unit_text(amount, unit)
