"""What callers read of limits: rate limit headers, the error of a rejected call, the status of each limit.

Pure. Invariants: the tightest enforced check of each kind is shown; a promised wait suffices, except for
slots and money that running calls hold; an exhausted budget promises none.
Source: https://platform.openai.com/docs/guides/rate-limits (the header names and their durations).
"""

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import repeat
from typing import Literal, NamedTuple, get_args
from zoneinfo import ZoneInfo

from llm_proxy.admission.limiter import (
    ADMITTED,
    UNKNOWN,
    CallEstimate,
    LimitCheck,
    LimiterRequest,
    LimiterResult,
    LimitKind,
)
from llm_proxy.admission.memory_limiter import check_verdict
from llm_proxy.errors import (
    APIError,
    BudgetExceeded,
    BudgetHeld,
    RateLimited,
    ReachedLimit,
    RunBudgetExceeded,
)
from llm_proxy.identity.caller import PERIOD_SUFFIX
from llm_proxy.money import format_usd, format_usd_rounded_up, usd_text
from llm_proxy.quantities import NOTHING, QUANTITY_OF_UNIT, TURNS, shown_amount, unit_text

EnforcementState = Literal["enforced", "local", "allow", "shadow", "deny"]
STATE_HEADER = "x-llm-proxy-limits"
_STATE_HEADERS = {state: (STATE_HEADER.encode(), state.encode()) for state in get_args(EnforcementState)}
DENIED_HEADERS = ((STATE_HEADER, "deny"),)
"""Of an error because the figures of a limit are unknown."""
PARALLEL_WAIT_MS = 1000
"""When a slot will be free is unknown; this is a guess."""
HELD_WAIT_MS = 2000
"""The same for money that running calls hold."""
RESET_HEADER = "x-llm-proxy-budget-reset"
RUN_WARNING_HEADER = b"x-llm-proxy-run-warning"
RUN_WARNING_PERCENT = 80
_NEVER_MS = 2**62
_UNITS: dict[LimitKind, str] = {
    "requests": "requests",
    "tokens": "tokens",
    "parallel": "calls",
    "duration": "seconds",
}
_RESET_MS: dict[LimitKind, int] = {"requests": 60_000, "tokens": 61_000}
_NAMES = {
    kind: tuple(f"x-ratelimit-{what}-{kind}".encode() for what in ("limit", "remaining", "reset"))
    for kind in _RESET_MS
}


class LimitStatus(NamedTuple):
    """The status of one check for a caller.

    Attributes:
        used: Counted before this call, of a budget what was spent; None while unknown.
        amount: What this call takes.
        wait_ms: The time until it fits; 0 when it does, or when waiting does not help.
        reset_ms: The time until nothing is counted any more; None when it is not a window.
        held: What running calls hold of a budget.
        running: The number of calls that hold some of a budget, or of a window's tokens.
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
        """Whether this check rejects the call."""
        if self.used is None:
            return False
        return (
            check_verdict(self.check, self.amount, (self.used, self.held, self.running, self.kept)) != "fits"
        )

    @property
    def is_exhausted(self) -> bool:
        """Whether a budget is spent, or a run's time over: waiting for running calls does not help."""
        counts_up = self.check.kind in {"budget", "duration"}
        return counts_up and self.used is not None and self.used >= self.check.limit

    @property
    def remaining(self) -> int:
        """What is left before this call; of a budget what is neither spent nor held nor kept."""
        return max(0, self.check.limit - (self.used or 0) - self.held - self.kept)


def limit_statuses(request: LimiterRequest, result: LimiterResult) -> Iterator[LimitStatus]:
    """Yields the status of each check."""
    running, kept = result.running or repeat(0), result.kept or repeat(0)
    checks, amounts = request.plan.checks, request.amounts
    rows = zip(checks, amounts, result.used, result.extra, running, kept, strict=False)
    for check, amount, used, extra, calls, kept_amount in rows:
        verdict = check_verdict(check, amount, (used, extra, calls, kept_amount))
        rejecting = verdict == "full"
        if check.kind == "parallel":
            yield LimitStatus(check, used, amount, PARALLEL_WAIT_MS if rejecting else 0, None)
        elif check.kind == "duration":
            yield LimitStatus(check, used, amount, 0, None)
        elif check.kind == "budget":
            wait_ms = HELD_WAIT_MS if verdict == "held" else 0
            yield LimitStatus(
                check, None if used == UNKNOWN else used, amount, wait_ms, None, extra, calls, kept_amount
            )
        else:
            yield LimitStatus(check, used, amount, extra if rejecting else 0, extra, running=calls)


def rejecting_statuses(request: LimiterRequest, result: LimiterResult) -> list[LimitStatus]:
    """Returns the status of each enforced check that rejects."""
    return [one for one in limit_statuses(request, result) if one.rejects and one.check.enforced]


def rate_limit_headers(
    request: LimiterRequest,
    result: LimiterResult,
    state: EnforcementState,
    more: tuple[tuple[bytes, bytes], ...] = (),
) -> tuple[tuple[bytes, bytes], ...]:
    """Returns the rate limit headers of a response, in OpenAI's names, the warning of a run, and `more`."""
    admitted = result.status == ADMITTED
    tightest: dict[LimitKind, tuple[int, int, int]] = {}
    for at, check in request.plan.windows:
        kind, used = check.kind, result.used[at]
        left = max(0, check.limit - used - (request.amounts[at] if admitted else 0))
        if kind not in tightest or left < tightest[kind][0]:
            reset_ms = result.extra[at] or (_RESET_MS[kind] if used or admitted else 0)
            tightest[kind] = left, check.limit, reset_ms
    headers = [_STATE_HEADERS[state]]
    for kind, (left, limit, reset_ms) in tightest.items():
        limit_name, remaining_name, reset_name = _NAMES[kind]
        headers += (
            (limit_name, b"%d" % limit),
            (remaining_name, b"%d" % left),
            (reset_name, format_duration(reset_ms).encode()),
        )
    if request.plan.run and state == "enforced" and (warning := run_warning(limit_statuses(request, result))):
        headers.append((RUN_WARNING_HEADER, warning))
    return (*headers, *more)


def run_warning(statuses: Iterable[LimitStatus]) -> bytes:
    """Returns the limits of a run that are used to 80 % or more, as `turns 85/100, usd 4.2/5`.

    A call counts among calls and turns; money and tokens are what is spent and held before it.
    """
    near: list[str] = []
    for one in statuses:
        check = one.check
        if check.scope != "run" or not check.enforced or check.kind not in {"budget", "duration"}:
            continue
        unit = check.unit if check.kind == "budget" else _UNITS["duration"]
        used = (one.used or 0) + one.held + (unit in {"requests", TURNS})
        if used * 100 >= check.limit * RUN_WARNING_PERCENT:
            of = usd_text if unit == "usd" else partial(shown_amount, unit=unit)
            near.append(f"{unit} {of(used)}/{of(check.limit)}")
    return ", ".join(near).encode()


def rate_limit_error(request: LimiterRequest, result: LimiterResult, state: EnforcementState) -> APIError:
    """Returns the error of a rejecting result."""
    headers = tuple(
        (name.decode(), value.decode()) for name, value in rate_limit_headers(request, result, state)
    )
    rejecting = rejecting_statuses(request, result)
    exhausted = [status for status in rejecting if status.is_exhausted]
    spent = [status for status in exhausted if status.check.scope != "run"]
    if exhausted and not spent and state != "local":
        return _with_limit(RunBudgetExceeded(_run_message(exhausted[0]), headers=headers), exhausted[0])
    if spent and state != "local":
        last = max(spent, key=lambda status: status.check.period_end_ms or _NEVER_MS)
        if at := reset_time(last.check):
            headers += ((RESET_HEADER, at.isoformat()),)
        return _with_limit(BudgetExceeded(_budget_message(last, request.estimate), headers=headers), last)
    worst = max(rejecting, key=lambda status: status.wait_ms)
    if worst.check.kind in {"budget", "duration"}:
        wait_s = (worst.wait_ms or HELD_WAIT_MS) / 1000
        message = _budget_message(worst, request.estimate)
        if state == "local":
            subject = worst.check.subject
            message = (
                "The limits store is unavailable, and this replica's share of the budget of "
                f"{subject} is in use."
            )
        return _with_limit(BudgetHeld(message, retry_after_s=wait_s, headers=headers), worst)
    error = RateLimited(
        _window_message(worst),
        error_type="tokens" if worst.check.kind == "tokens" else "requests",
        retry_after_s=worst.wait_ms / 1000,
        headers=headers,
    )
    return _with_limit(error, worst)


def reached_limit(
    check: LimitCheck, status: LimitStatus | None = None, wait_ms: int | None = None
) -> ReachedLimit:
    """The limit that rejects, for the record and the log; without a status its figures are unknown."""
    return ReachedLimit(  # positional: a client that loops against its limit makes many
        check.kind,
        check.scope,
        check.subject,
        check.limit,
        None if status is None else status.amount,
        None if status is None else status.used,
        0 if status is None else status.held,
        0 if status is None else status.running,
        0 if status is None else status.kept,
        check.unit if check.kind == "budget" else _UNITS[check.kind],
        check.period,
        wait_ms,
        reset_time(check),
    )


def _with_limit(error: APIError, status: LimitStatus) -> APIError:
    wait_s = error.retry_after_s
    wait_ms = None if wait_s is None else math.ceil(wait_s * 1000)
    error.reached_limit = reached_limit(status.check, status, wait_ms)
    return error


def _run_message(status: LimitStatus) -> str:
    """What a run has used, and what it may."""
    check, used = status.check, status.used or 0
    if check.kind == "duration":
        figures = f"it began {format_duration(used)} ago, {format_duration(check.limit)} are allowed"
    else:
        figures = f"it used {_amount(check, used)} of {_amount(check, check.limit)}"
    return f"The {check.subject} has reached its limit: {figures}. Start a new run to go on."


def _window_message(worst: LimitStatus) -> str:
    check = worst.check
    if check.is_shared:
        wait = format_duration(worst.wait_ms)
        return f"A limit that holds for {check.subject} is reached. Try again in {wait}."
    if check.kind == "parallel":
        return f"Too many requests at once for {check.subject}: {check.limit} may run in parallel."
    requested = f", requested {worst.amount}" if check.kind == "tokens" else ""
    figures = (
        f"Limit {check.limit}, used {worst.used}{requested}. Try again in {format_duration(worst.wait_ms)}."
    )
    return f"Rate limit reached for {check.subject} on {check.kind} per minute. {figures}"


def _budget_message(worst: LimitStatus, estimate: CallEstimate) -> str:
    """Why a budget rejects: who has what of it, what the call needs, and when it resets."""
    check, spent, per = worst.check, worst.used or 0, PERIOD_SUFFIX[worst.check.period or "total"]
    subject = check.subject
    state = "is used up" if worst.is_exhausted else _held_by(worst)
    if check.is_shared:
        return f"The budget of {subject} {state}."
    if not check.limit:
        return f"The budget of {subject} is {_amount(check, 0)}{per}: nothing may be spent."
    parts = [f"{_share(check, spent)}{per} spent"]
    if worst.held:
        calls = f"{worst.running} running call{'s' * (worst.running != 1)}"
        parts.append(f"{_amount(check, worst.held)} held by {calls}")
    if worst.kept:
        parts.append(f"{_amount(check, worst.kept)} kept for a call that waits")
    figures = f"{', '.join(parts)}, {_amount(check, worst.remaining)} left"
    at = reset_time(check)
    ends = f" It resets at {at:%Y-%m-%d %H:%M} {check.zone}." if at else ""
    return f"The budget of {subject} {state}: {figures}. This call needs {_needed(worst, estimate)}.{ends}"


def _held_by(worst: LimitStatus) -> str:
    """Who has what is left of a budget."""
    if worst.held and worst.kept:
        return "is held by calls that run and kept for a call that waits"
    return "is kept for a call that waits" if worst.kept else "is held by calls that run"


def _needed(worst: LimitStatus, estimate: CallEstimate) -> str:
    """What a call takes of a budget."""
    unit = worst.check.unit
    if unit in {"requests", TURNS}:
        return "1"
    if unit in QUANTITY_OF_UNIT:
        return f"about {_amount(worst.check, worst.amount)}"
    usd = unit == "usd"
    if usd and estimate.quantities != NOTHING:
        amounts = ((unit, estimate.quantities.of_unit(unit)) for unit in QUANTITY_OF_UNIT)
        wanted = [unit_text(shown_amount(amount, unit), unit) for unit, amount in amounts if amount]
        return f"about {format_usd_rounded_up(worst.amount)} ({', '.join(wanted)})"
    prompt = format_usd_rounded_up(estimate.prompt_nano_usd) if usd else f"{estimate.prompt_tokens:,}"
    result = f", answer up to {estimate.answer_tokens:,} tokens" if estimate.answer_tokens else ""
    total = format_usd_rounded_up(worst.amount) if usd else f"{worst.amount:,} tokens"
    return f"about {total} (prompt {prompt}{result})"


def _amount(check: LimitCheck, amount: int) -> str:
    """Returns an amount in a budget's unit: `$0.20`, `600 requests`."""
    if check.unit == "usd":
        return format_usd(amount)
    return unit_text(shown_amount(amount, check.unit), check.unit)


def _share(check: LimitCheck, amount: int) -> str:
    """Returns an amount of a budget: `$0.20 of $5.00`, `2 of 600 requests`."""
    shown = format_usd(amount) if check.unit == "usd" else f"{shown_amount(amount, check.unit):,}"
    return f"{shown} of {_amount(check, check.limit)}"


def reset_time(check: LimitCheck) -> datetime | None:
    """When a budget's next period starts, in its time zone; None without periods."""
    if not check.period_end_ms:
        return None
    zone = UTC if check.zone == "UTC" else ZoneInfo(check.zone)
    return datetime.fromtimestamp(check.period_end_ms / 1000, zone)


def format_duration(ms: int) -> str:
    """Milliseconds in the format of OpenAI's headers: `20ms`, `8.64s`, `6m0s`."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    seconds = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
