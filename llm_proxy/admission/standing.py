"""What a store answered, in the words callers read: headers, refusals, a caller's standing.

Pure. Invariants: the tightest enforced check of each kind is told; a wait that is promised suffices; a budget
promises none.
Source: https://platform.openai.com/docs/guides/rate-limits (the header names and their durations).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from llm_proxy.admission.check import ADMITTED, UNKNOWN, Answer, Check, Kind, Plan
from llm_proxy.errors import BudgetExceeded, RateLimited, Refused

State = Literal["enforced", "local", "allow", "shadow"]
STATE_HEADER = "x-llm-proxy-limits"
_STATE = {state: (STATE_HEADER.encode(), state.encode()) for state in get_args(State)}
PARALLEL_WAIT_MS = 1000
"""Nobody knows when a place will be free; this is a polite guess."""
_RESET_MS: dict[Kind, int] = {"requests": 60_000, "tokens": 61_000}
_NAMES = {
    kind: tuple(f"x-ratelimit-{what}-{kind}".encode() for what in ("limit", "remaining", "reset"))
    for kind in _RESET_MS
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands at one check.

    Attributes:
        used: Counted before this call; None when nobody knows.
        want: What this call takes.
        wait_ms: How long until it fits; 0 when it does, or when waiting does not help.
        reset_ms: How long until nothing is counted any more; None when it is not a window.
    """

    check: Check
    used: int | None
    want: int
    wait_ms: int
    reset_ms: int | None

    @property
    def over(self) -> bool:
        """Whether this check refuses."""
        return self.used is not None and self.used + self.want > self.check.limit

    @property
    def remaining(self) -> int:
        """What is left before this call."""
        return max(0, self.check.limit - (self.used or 0))


def standings(plan: Plan, wants: tuple[int, ...], answer: Answer) -> Iterator[Standing]:
    """Where the caller stands at each check."""
    for check, want, used, extra in zip(plan.checks, wants, answer.used, answer.extra, strict=True):
        over = used + want > check.limit
        if check.kind == "parallel":
            yield Standing(check, used, want, PARALLEL_WAIT_MS if over else 0, None)
        elif check.kind == "budget":
            yield Standing(check, None if used == UNKNOWN else used, want, 0, None)
        else:
            yield Standing(check, used, want, extra if over else 0, extra)


def headers(
    plan: Plan, wants: tuple[int, ...], answer: Answer, state: State
) -> tuple[tuple[bytes, bytes], ...]:
    """What a response tells of limits, in OpenAI's names."""
    admitted = answer.status == ADMITTED
    tightest: dict[Kind, tuple[int, int, int]] = {}
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
            (reset_name, duration(reset_ms).encode()),
        )
    return tuple(told)


def refusal(plan: Plan, wants: tuple[int, ...], answer: Answer, state: State) -> Refused:
    """The refusal of an answer that refuses."""
    told = tuple((name.decode(), value.decode()) for name, value in headers(plan, wants, answer, state))
    over = [one for one in standings(plan, wants, answer) if one.over and one.check.enforced]
    spent = next((one for one in over if one.check.kind == "budget"), None)
    if spent is not None:
        period = {"day": "daily ", "month": "monthly "}.get(spent.check.period or "", "")
        return BudgetExceeded(f"The {period}budget of {spent.check.subject} is used up.", headers=told)
    worst = max(over, key=lambda one: one.wait_ms)
    return RateLimited(
        _message(worst),
        kind="tokens" if worst.check.kind == "tokens" else "requests",
        retry_after_s=worst.wait_ms / 1000,
        headers=told,
    )


def _message(worst: Standing) -> str:
    check = worst.check
    if check.kind == "parallel":
        return f"Too many requests at once for {check.subject}: {check.limit} may run in parallel."
    asked = f", requested {worst.want}" if check.kind == "tokens" else ""
    told = f"Limit {check.limit}, used {worst.used}{asked}. Try again in {duration(worst.wait_ms)}."
    return f"Rate limit reached for {check.subject} on {check.kind} per minute. {told}"


def duration(ms: int) -> str:
    """Milliseconds as OpenAI's headers write them: `20ms`, `8.64s`, `6m0s`."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    seconds = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
