"""LiteLLM's limits, budgets and durations as ours.

Pure. LiteLLM resets a budget of `1d` at midnight, of `7d` on Monday, of `30d` and `1mo` on the first of the
month (UTC), as our calendar periods begin; every other duration becomes the next longer period (at most a
month) with its amount in proportion. A limit of 0 admits no call in LiteLLM; here 0 is no limit, so that it
becomes a budget of no requests.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from llm_proxy.admission.policy_resolver import period_start
from llm_proxy.identity import Budget, Limits
from llm_proxy.identity.admin_documents import MAX_NUMBER
from llm_proxy.identity.caller import Period
from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.litellm_import.plan import ImportPlan, OpeningSpend
from llm_proxy.litellm_import.source import json_column

_WORDS = {"hourly": "1h", "daily": "24h", "weekly": "7d", "monthly": "30d"}
_DURATION = re.compile(r"(\d{1,9})(mo|[smhdw])")
_SECONDS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}
_PERIODS: tuple[tuple[int, Period], ...] = ((86_400, "day"), (604_800, "week"), (2_592_000, "month"))
NO_LIMITS = Limits()
NO_REQUESTS = Budget(0, "total", unit="requests")
"""Admits no call."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Limits, budgets and opening spend of one owner; `spend_mark` as in `PlannedKey`."""

    limits: Limits = NO_LIMITS
    budgets: tuple[Budget, ...] = ()
    opening: OpeningSpend | None = None
    spend_mark: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it limits nothing."""
        return self.limits == NO_LIMITS and not self.budgets


def read_allowance(row: Json, subject: str, plan: ImportPlan, now: datetime) -> Allowance:
    """Returns what a row of a key, team, user or budget allows; notes what has no exact counterpart.

    Args:
        row: Its columns, those of its own `spend` included.
        subject: Names the row in notes.
        plan: Takes the notes.
        now: The source's time.
    """
    limits, is_blocked = _limits(row)
    budgets: dict[tuple[str, Period], Budget] = {}
    opening, spend_mark = None, ""
    money = _money_budget(row.get("max_budget"), row.get("budget_duration"), subject, plan)
    if money is not None:
        budget, is_exact = money
        budgets["usd", budget.period] = budget
        spend_mark = f"{row.get('spend')} {row.get('budget_reset_at')}"
        opening = _opening(row, budget, is_exact=is_exact, now=now)
        if opening is None and _nano(row.get("spend")):
            plan.note(
                "changed",
                subject,
                "what it spent so far is not counted: its period is over, or has no counterpart",
            )
    for window in as_list(json_column(row.get("budget_limits"))):
        one = _money_budget(
            as_object(window).get("max_budget"), as_object(window).get("budget_duration"), subject, plan
        )
        if one is not None:
            at = "usd", one[0].period
            budgets[at] = min(one[0], budgets.get(at, one[0]), key=lambda budget: budget.limit)
    tokens_a_day = _count(row.get("tpd_limit"))
    if tokens_a_day:
        budgets["tokens", "day"] = Budget(tokens_a_day, "day", unit="tokens")
    if is_blocked or tokens_a_day == 0:
        budgets["requests", "total"] = NO_REQUESTS
        plan.note(
            "changed",
            subject,
            "a limit of 0 becomes a budget of no requests: no call is admitted, as in LiteLLM",
        )
    if row.get("soft_budget") is not None:
        plan.note(
            "note", subject, "its soft budget warns in LiteLLM; here notifications do (docs/notifications.md)"
        )
    return Allowance(limits, tuple(budgets.values()), opening, spend_mark)


def stricter(one: Allowance, other: Allowance) -> Allowance:
    """Returns the lower of each limit and budget; the opening spend is that of the budget that is kept."""
    limits = Limits(
        *(
            _lower(getattr(one.limits, name), getattr(other.limits, name))
            for name in ("rpm", "tpm", "parallel")
        )
    )
    budgets = {(budget.unit, budget.period): budget for budget in one.budgets}
    opening = one.opening
    for budget in other.budgets:
        at = budget.unit, budget.period
        if at not in budgets or budget.limit < budgets[at].limit:
            budgets[at] = budget
            if budget.unit == "usd" and other.opening is not None:
                opening = other.opening
    return Allowance(limits, tuple(budgets.values()), opening, f"{one.spend_mark} {other.spend_mark}".strip())


def model_allowances(row: Json, subject: str, plan: ImportPlan, now: datetime) -> dict[str, Allowance]:
    """Returns what a row allows at single models, by model."""
    found: dict[str, Json] = {}
    for model, entry in as_object(json_column(row.get("model_max_budget"))).items():
        given = as_object(entry) or {"max_budget": entry}
        found[model] = {
            "max_budget": given.get("max_budget", given.get("budget_limit")),
            "budget_duration": given.get("budget_duration", given.get("time_period")),
            "rpm_limit": given.get("rpm_limit"),
            "tpm_limit": given.get("tpm_limit"),
        }
    metadata = as_object(json_column(row.get("metadata")))
    for name in ("rpm_limit", "tpm_limit"):
        limits = as_object(json_column(row.get(f"model_{name}"))) or as_object(metadata.get(f"model_{name}"))
        for model, limit in limits.items():
            found.setdefault(model, {})[name] = limit
    allowances = {
        model: read_allowance(entry, f"{subject} at {model}", plan, now) for model, entry in found.items()
    }
    return {model: one for model, one in allowances.items() if not one.is_empty}


def _limits(row: Json) -> tuple[Limits, bool]:
    """Returns a row's limits, and whether one of them admits no call."""
    counts = [_count(row.get(name)) for name in ("rpm_limit", "tpm_limit", "max_parallel_requests")]
    return Limits(*(count or None for count in counts)), 0 in counts


def _count(value: object) -> int | None:
    """Returns a limit; 0 for a negative one, None for one that is never reached."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return max(0, int(value)) if value <= MAX_NUMBER else None


def _lower(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _nano(value: object) -> int | None:
    """Returns dollars in nano-dollars, rounded; 0 for a negative amount; None for what is no amount."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return max(0, round(Decimal(str(value)).scaleb(9)))


def _money_budget(
    amount: object, duration: object, subject: str, plan: ImportPlan
) -> tuple[Budget, bool] | None:
    """Returns a budget, and whether its period is LiteLLM's; None without one."""
    nano = _nano(amount)
    if nano is None:
        return None
    period, share = _period(duration)
    limit = int(nano * share)
    if limit > MAX_NUMBER:
        plan.note(
            "changed", subject, f"its budget of {amount} dollars is more than a budget can be; it gets none"
        )
        return None
    if share != 1:
        plan.note(
            "changed",
            subject,
            f"its budget of ${amount} every {duration} becomes ${limit / 1e9:g} a {period}",
        )
    elif str(duration or "").strip() and _DURATION.fullmatch(_normalized(duration)) is None:
        plan.note(
            "changed", subject, f"its budget's duration {duration!r} is none LiteLLM knows: a day, as there"
        )
    return Budget(limit, period), share == 1


def _normalized(duration: object) -> str:
    text = str(duration).strip().lower()
    return _WORDS.get(text, text)


def _period(duration: object) -> tuple[Period, float]:
    """Returns the period of a duration, and how many durations a period has."""
    if duration is None or not str(duration).strip():
        return "total", 1
    match = _DURATION.fullmatch(_normalized(duration))
    seconds = int(match[1]) * _SECONDS[match[2]] if match else _SECONDS["d"]
    if seconds == 0:
        return "day", 1
    for length, period in _PERIODS:
        if seconds <= length:
            return period, length / seconds
    length, period = _PERIODS[-1]
    return period, length / seconds


def _opening(row: Json, budget: Budget, *, is_exact: bool, now: datetime) -> OpeningSpend | None:
    """Returns a row's spend in the running period; None for 0, or a period that is over or unlike ours."""
    spent, reset_at = _nano(row.get("spend")), row.get("budget_reset_at")
    is_over = isinstance(reset_at, datetime) and reset_at <= now and budget.period != "total"
    if not spent or not is_exact or is_over:
        return None
    return OpeningSpend(spent, period_start(budget, int(now.timestamp() * 1000)))
