"""What callers read of limits: rate limit headers, the error of a rejected call, the status of each limit.

Pure. Invariants: the tightest enforced check of each kind is shown; a promised wait suffices, except for
slots and money that running calls hold; an exhausted budget promises none.
Source: https://platform.openai.com/docs/guides/rate-limits (the header names and their durations).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from llm_proxy.admission.limiter import (
    ADMITTED,
    UNKNOWN,
    CallEstimate,
    LimitCheck,
    LimiterRequest,
    LimiterResult,
    LimitKind,
    LimitPlan,
)
from llm_proxy.admission.memory_limiter import check_verdict
from llm_proxy.errors import APIError, BudgetExceeded, BudgetHeld, RateLimited, ReachedLimit
from llm_proxy.identity.caller import PERIOD_SUFFIX
from llm_proxy.money import format_usd, format_usd_rounded_up

EnforcementState = Literal["enforced", "local", "allow", "shadow", "deny"]
STATE_HEADER = "x-llm-proxy-limits"
_STATE = {state: (STATE_HEADER.encode(), state.encode()) for state in get_args(EnforcementState)}
DENIED_HEADERS = ((STATE_HEADER, "deny"),)
"""Of a refusal because nobody can tell how full a limit is."""
PARALLEL_WAIT_MS = 1000
"""Nobody knows when a place will be free; this is a polite guess."""
HELD_WAIT_MS = 2000
"""The same for money that running calls hold."""
RESET_HEADER = "x-llm-proxy-budget-reset"
_NEVER_MS = 2**62
_UNITS: dict[LimitKind, str] = {"requests": "requests", "tokens": "tokens", "parallel": "calls"}
_RESET_MS: dict[LimitKind, int] = {"requests": 60_000, "tokens": 61_000}
_NAMES = {
    kind: tuple(f"x-ratelimit-{what}-{kind}".encode() for what in ("limit", "remaining", "reset"))
    for kind in _RESET_MS
}


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """Where a caller stands at one check.

    Attributes:
        used: Counted before this call, of a budget what was spent; None when nobody knows.
        amount: What this call takes.
        wait_ms: How long until it fits; 0 when it does, or when waiting does not help.
        reset_ms: How long until nothing is counted any more; None when it is not a window.
        held: What running calls hold of a budget.
        running: How many calls hold some of a budget, or of a window's tokens.
        kept: What of a budget is kept for a call that waits.
    """

    check: LimitCheck
    used: int | None
    amount: int
    wait_ms: int
    reset_ms: int | None
    held: int = 0
    running: int = 0
    kept: int = 0

    @property
    def rejects(self) -> bool:
        """Whether this check refuses."""
        if self.used is None:
            return False
        return (
            check_verdict(self.check, self.amount, (self.used, self.held, self.running, self.kept)) != "fits"
        )

    @property
    def is_exhausted(self) -> bool:
        """Whether a budget is used up, so that waiting for running calls does not help."""
        return self.check.kind == "budget" and self.used is not None and self.used >= self.check.limit

    @property
    def remaining(self) -> int:
        """What is left before this call; of a budget what is neither spent nor held nor kept."""
        return max(0, self.check.limit - (self.used or 0) - self.held - self.kept)


def limit_statuses(plan: LimitPlan, wants: tuple[int, ...], answer: LimiterResult) -> Iterator[LimitStatus]:
    """Where the caller stands at each check."""
    running, kept = answer.running or repeat(0), answer.kept or repeat(0)
    rows = zip(plan.checks, wants, answer.used, answer.extra, running, kept, strict=False)
    for check, want, used, extra, calls, share in rows:
        verdict = check_verdict(check, want, (used, extra, calls, share))
        over = verdict == "full"
        if check.kind == "parallel":
            yield LimitStatus(check, used, want, PARALLEL_WAIT_MS if over else 0, None)
        elif check.kind == "budget":
            wait_ms = HELD_WAIT_MS if verdict == "held" else 0
            yield LimitStatus(
                check, None if used == UNKNOWN else used, want, wait_ms, None, extra, calls, share
            )
        else:
            yield LimitStatus(check, used, want, extra if over else 0, extra, running=calls)


def rate_limit_headers(
    plan: LimitPlan, wants: tuple[int, ...], answer: LimiterResult, state: EnforcementState
) -> tuple[tuple[bytes, bytes], ...]:
    """What a response tells of limits, in OpenAI's names."""
    admitted = answer.status == ADMITTED
    tightest: dict[LimitKind, tuple[int, int, int]] = {}
    for at, check in plan.windows:
        kind, used = check.kind, answer.used[at]
        left = max(0, check.limit - used - (wants[at] if admitted else 0))
        if kind not in tightest or left < tightest[kind][0]:
            reset_ms = answer.extra[at] or (_RESET_MS[kind] if used or admitted else 0)
            tightest[kind] = left, check.limit, reset_ms
    told = [_STATE[state]]
    for kind, (left, limit, reset_ms) in tightest.items():
        limit_name, remaining_name, reset_name = _NAMES[kind]
        told += (
            (limit_name, b"%d" % limit),
            (remaining_name, b"%d" % left),
            (reset_name, format_duration(reset_ms).encode()),
        )
    return tuple(told)


def rate_limit_error(ask: LimiterRequest, answer: LimiterResult, state: EnforcementState) -> APIError:
    """The refusal of an answer that refuses."""
    plan, wants = ask.plan, ask.amounts
    told = tuple(
        (name.decode(), value.decode()) for name, value in rate_limit_headers(plan, wants, answer, state)
    )
    over = [one for one in limit_statuses(plan, wants, answer) if one.rejects and one.check.enforced]
    spent = [one for one in over if one.is_exhausted]
    if spent and state != "local":
        last = max(spent, key=lambda one: one.check.period_end_ms or _NEVER_MS)
        if at := reset_time(last.check):
            told += ((RESET_HEADER, at.isoformat()),)
        return _of_limit(BudgetExceeded(_money(last, ask.estimate), headers=told), last)
    worst = max(over, key=lambda one: one.wait_ms)
    if worst.check.kind == "budget":
        wait_s = (worst.wait_ms or HELD_WAIT_MS) / 1000
        message = _money(worst, ask.estimate)
        if state == "local":
            whose = worst.check.subject
            message = (
                f"The limits store is away, and this replica's share of the budget of {whose} is in use."
            )
        return _of_limit(BudgetHeld(message, retry_after_s=wait_s, headers=told), worst)
    refused = RateLimited(
        _message(worst),
        error_type="tokens" if worst.check.kind == "tokens" else "requests",
        retry_after_s=worst.wait_ms / 1000,
        headers=told,
    )
    return _of_limit(refused, worst)


def reached_limit(
    check: LimitCheck, standing: LimitStatus | None = None, wait_ms: int | None = None
) -> ReachedLimit:
    """What the record and the log say of a limit that refuses; without a standing nobody knows how full."""
    one = standing
    return ReachedLimit(  # made once: a loop that runs against its limit makes many
        check.kind,
        check.scope,
        check.subject,
        check.limit,
        None if one is None else one.amount,
        None if one is None else one.used,
        0 if one is None else one.held,
        0 if one is None else one.running,
        0 if one is None else one.kept,
        check.unit if check.kind == "budget" else _UNITS[check.kind],
        check.period,
        wait_ms,
        reset_time(check),
    )


def _of_limit(refused: APIError, standing: LimitStatus) -> APIError:
    wait_s = refused.retry_after_s
    wait_ms = None if wait_s is None else math.ceil(wait_s * 1000)
    refused.reached_limit = reached_limit(standing.check, standing, wait_ms)
    return refused


def _message(worst: LimitStatus) -> str:
    check = worst.check
    if check.is_shared:
        wait = format_duration(worst.wait_ms)
        return f"A limit that holds for {check.subject} is reached. Try again in {wait}."
    if check.kind == "parallel":
        return f"Too many requests at once for {check.subject}: {check.limit} may run in parallel."
    asked = f", requested {worst.amount}" if check.kind == "tokens" else ""
    told = f"Limit {check.limit}, used {worst.used}{asked}. Try again in {format_duration(worst.wait_ms)}."
    return f"Rate limit reached for {check.subject} on {check.kind} per minute. {told}"


def _money(worst: LimitStatus, estimate: CallEstimate) -> str:
    """Why a budget refuses: what is needed, what is left, where the rest is, and when it begins anew."""
    check, spent, per = worst.check, worst.used or 0, PERIOD_SUFFIX[worst.check.period or "total"]
    whose = check.subject
    state = "is used up" if worst.is_exhausted else _taken_by(worst)
    if check.is_shared:
        return f"The budget of {whose} {state}."
    if not check.limit:
        return f"The budget of {whose} is {_amount(check, 0)}{per}: nothing may be spent."
    rest = [f"{_amount(check, spent)} spent"]
    if worst.held:
        calls = f"{worst.running} running call{'s' * (worst.running != 1)}"
        rest.append(f"{_amount(check, worst.held)} held by {calls}")
    if worst.kept:
        rest.append(f"{_amount(check, worst.kept)} kept for a call that waits")
    left = (
        f"{_amount(check, worst.remaining)} of {_amount(check, check.limit)}{per} is left: {', '.join(rest)}"
    )
    at = reset_time(check)
    ends = f"; resets {at:%Y-%m-%d %H:%M} {check.zone}" if at else ""
    return f"The budget of {whose} {state}. This call needs {_needed(worst, estimate)}; {left}{ends}."


def _taken_by(worst: LimitStatus) -> str:
    """Who has what is left of a budget."""
    if worst.held and worst.kept:
        return "is held by calls that run and kept for a call that waits"
    return "is kept for a call that waits" if worst.kept else "is held by calls that run"


def _needed(worst: LimitStatus, estimate: CallEstimate) -> str:
    """What a call takes of a budget."""
    unit = worst.check.unit
    if unit == "requests":
        return "1"
    usd = unit == "usd"
    prompt = format_usd_rounded_up(estimate.prompt_nano_usd) if usd else f"{estimate.prompt_tokens:,}"
    answer = f", answer up to {estimate.answer_tokens:,} tokens" if estimate.answer_tokens else ""
    total = format_usd_rounded_up(worst.amount) if usd else f"{worst.amount:,} tokens"
    return f"about {total} (prompt {prompt}{answer})"


def _amount(check: LimitCheck, amount: int) -> str:
    """An amount in a budget's unit: `$0.20`, `600 requests`."""
    if check.unit == "usd":
        return format_usd(amount)
    return f"{amount:,} {check.unit if amount != 1 else check.unit.removesuffix('s')}"


def reset_time(check: LimitCheck) -> datetime | None:
    """When a budget begins anew, in its own zone; None for one that never does."""
    if not check.period_end_ms:
        return None
    zone = UTC if check.zone == "UTC" else ZoneInfo(check.zone)
    return datetime.fromtimestamp(check.period_end_ms / 1000, zone)


def format_duration(ms: int) -> str:
    """Milliseconds as OpenAI's headers write them: `20ms`, `8.64s`, `6m0s`."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    seconds = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
