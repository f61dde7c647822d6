"""What is explained is what happens: over a thousand generated states, on a Valkey and in one process."""

import random
from dataclasses import dataclass, replace
from typing import get_args
from uuid import uuid4

import pytest
from stages.admission.limiter_outages import FixedPolicies, Ledger, build_admission, settings_of

from llm_proxy.admission import AdmissionController, current_limits
from llm_proxy.admission.controller import Explanation, explain_call
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError
from llm_proxy.identity import Budget, Caller, KillSwitch, LimitPolicy, Limits, PolicySnapshot
from llm_proxy.identity.caller import Period, PolicyMode, ScopeKind
from llm_proxy.money import Price

STATES = 1_000
SCOPES: tuple[ScopeKind, ...] = get_args(ScopeKind)


class SomePrices(Ledger):
    """Two models have a price, one has none."""

    def price(self, group: str) -> Price | None:
        """By the model's name."""
        return None if group == "c" else Price(1_000, 3_000, 200)


@dataclass(frozen=True)
class Word:
    """What became of a call."""

    status: int
    code: str | None
    kind: str
    promises: bool


def word(refused: APIError | None) -> Word:
    """A verdict to compare; a wait differs by the moments between the two."""
    if refused is None:
        return Word(200, None, "", promises=False)
    return Word(refused.status, refused.code, refused.error_type, refused.retry_after_s is not None)


def rules(dice: random.Random) -> PolicySnapshot:
    """Some limits, some budgets, some switches, some only watched."""
    laid = tuple(rule(dice, scope) for scope in dice.sample(SCOPES, dice.randint(1, 4)))
    kills = [KillSwitch("agent", "a2")] * (dice.random() < 0.3) + [KillSwitch("model", "b")] * (
        dice.random() < 0.1
    )
    return PolicySnapshot(laid, frozenset(kills), {"*": dice.randint(1, 9)})


def rule(dice: random.Random, scope: ScopeKind) -> LimitPolicy:
    """One of many."""
    limits = Limits(dice.choice([None, 0, 1, 3, 8]), dice.choice([None, 300, 3_000]), dice.choice([None, 2]))
    periods: list[Period] = ["day", "month", "total"]
    modes: list[PolicyMode | None] = [None, None, "shadow", "off"]
    budgets = (Budget(dice.choice([500, 5_000]), dice.choice(periods)),)
    money = dice.random() < 0.4
    return LimitPolicy(scope, limits=limits, budgets=budgets if money else (), mode=dice.choice(modes))


def caller(dice: random.Random, tenant: str) -> Caller:
    """One of a few."""
    return Caller(
        f"k{dice.randint(1, 2)}",
        "internal",
        tenant=tenant,
        agent=dice.choice([None, "a1", "a2"]),
        user=dice.choice([None, "u1"]),
        models=dice.choice([None, ("a", "b"), ("*",)]),
        limits=Limits(rpm=dice.choice([None, None, 4])),
    )


def call(dice: random.Random) -> Call:
    """Small, large, priced or not."""
    group = dice.choice("aaabbc")
    size, most = dice.choice([0, 100, 4_000]), dice.choice([None, 1, 500])
    return Call("chat.completions", "openai", group, group, {}, prompt_bytes=size, max_tokens=most)


async def decision_on(admission: AdmissionController, who: Caller, what: Call) -> Word:
    """The real decision."""
    try:
        lease = await admission.admit(who, what, uuid4())
    except APIError as refused:
        return word(refused)
    lease.settle(None, None)
    await lease.wait_settled()
    return word(None)


@pytest.mark.parametrize("shared", [True, False])
async def test_an_explanation_is_the_decision(limits_redis_url: str, *, shared: bool) -> None:
    """Status, code, and whether waiting helps; an error names a check that would reject."""
    dice, seen = random.Random(7), dict[Word, int]()  # noqa: S311 -- states, not secrets
    for _ in range(STATES // 20):
        ledger = SomePrices(spent=dice.choice([0, 400, None]))
        admission = build_admission(
            settings_of(
                store_timeout_ms=5_000,
                limits_redis_url=limits_redis_url if shared else None,
                default_models=("a", "c"),
            ),
            prices=ledger,
            spend_source=ledger,
            policy_source=FixedPolicies(rules(dice)),
        )
        await admission.start()
        tenant = f"t-{uuid4().hex}"
        for _ in range(20):
            who, what = caller(dice, tenant), call(dice)
            explained: Explanation = await explain_call(admission, who, what)
            given = await decision_on(admission, who, what)
            assert word(explained.error) == given
            if given.status == 429:
                assert any(one.rejects and one.check.enforced for one in explained.limit_statuses)
            seen[given] = seen.get(given, 0) + 1
        await admission.stop()
    assert {one.status for one in seen} == {200, 403, 404, 429, 503}
    assert {one.code for one in seen} >= {"rate_limit_exceeded", "insufficient_quota", "model_not_found"}


@pytest.mark.parametrize("shared", [True, False])
async def test_no_window_is_empty_before_a_call_fits(limits_redis_url: str, *, shared: bool) -> None:
    """Full to the last token, beyond it, and of a limit that was lowered since."""
    url = limits_redis_url if shared else None
    admission = build_admission(
        settings_of(store_timeout_ms=5_000, limits_redis_url=url, default_models=("*",))
    )
    await admission.start()
    what = Call("chat.completions", "openai", "a", "a", {}, prompt_bytes=4, max_tokens=1)
    for key, (used, limits, lowered) in enumerate([
        (5, Limits(tpm=5), Limits(tpm=5)),
        (9, Limits(tpm=5), Limits(tpm=5)),
        (2, Limits(rpm=9), Limits(rpm=1)),
    ]):  # fmt: skip
        who = Caller(f"k{key}", "internal", tenant=f"t-{uuid4().hex}", limits=limits)
        for _ in range(2 if limits.rpm else 1):
            lease = await admission.admit(who, what, uuid4())
            lease.settle(used, 1)
            await lease.wait_settled()
        [one] = (await current_limits(admission, replace(who, limits=lowered))).limit_statuses
        assert one.rejects
        assert (one.used, one.remaining) == (used, 0)
        assert 50_000 < one.wait_ms <= (one.reset_ms or 0)
    await admission.stop()


async def test_explaining_counts_nothing(limits_redis_url: str) -> None:
    """However often."""
    admission = build_admission(
        settings_of(store_timeout_ms=5_000, limits_redis_url=limits_redis_url, default_models=("*",))
    )
    await admission.start()
    who = Caller(
        "k", "internal", tenant=f"t-{uuid4().hex}", agent="scout", limits=Limits(tpm=500, parallel=1)
    )
    what = Call("chat.completions", "openai", "a", "a", {}, prompt_bytes=4, max_tokens=10)
    for _ in range(15):
        assert (await explain_call(admission, who, what)).error is None
    assert [one.used for one in (await explain_call(admission, who, what)).limit_statuses] == [0, 0, 0]
    await admission.stop()
