"""Which calls belong together, and at which sidecar they are kept."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.call_guard import CallGuard
from llm_proxy.dialects import Call
from llm_proxy.dialects.call import Operation
from llm_proxy.identity import Caller
from llm_proxy.upstream.affinity import MAX_AT_ONCE, MAX_NAMES, Affinity, header_of
from llm_proxy.upstream.catalog import Catalog
from llm_proxy.upstream.pool import Sidecar

EVERY = ("run", "prompt_cache_key", "user")
CALL = Call("chat.completions", "openai", "m", "m", {"prompt_cache_key": "app"})
CALLER = Caller("k1", "virtual", tenant="t", user="ann", run_id="r")


def guards(count: int) -> list[CallGuard]:
    """Running calls, distinct only by identity."""
    return [Mock(spec=CallGuard) for _ in range(count)]


def test_the_first_source_that_holds_a_name_names_a_call() -> None:
    """A digest of 32 digits: of the source too, so that a user is no run."""
    in_order = [
        Affinity(EVERY).name_of(CALL, CALLER),
        Affinity(EVERY).name_of(CALL, replace(CALLER, run_id=None)),
        Affinity(EVERY).name_of(CALL._replace(body={}), replace(CALLER, run_id=None)),
    ]
    assert len({*in_order}) == 3
    assert all(name is not None and len(name) == 32 for name in in_order)
    nobody = replace(CALLER, run_id=None, user=None)
    assert Affinity(EVERY).name_of(CALL._replace(body={"prompt_cache_key": 7}), nobody) is None
    assert Affinity(("user",)).name_of(CALL, replace(CALLER, run_id="ann", user=None)) is None
    assert Affinity(("off",)).name_of(CALL, CALLER) is None
    same = {Affinity(("run",)).name_of(CALL, replace(CALLER, run_id="ann")), in_order[0]}
    assert Affinity(("user",)).name_of(CALL, CALLER) not in same


@pytest.mark.parametrize("other", [{"tenant": "u"}, {"key_id": "k2"}, {"run_id": "s"}])
def test_another_tenant_s_or_key_s_name_is_another_one(other: dict[str, str]) -> None:
    """As is another name."""
    names = Affinity(EVERY)
    assert names.name_of(CALL, CALLER) == names.name_of(CALL, CALLER)
    assert names.name_of(CALL, CALLER) != names.name_of(CALL, replace(CALLER, **other))  # type: ignore[arg-type]  # texts


def test_a_call_about_a_stored_response_is_bound_by_that() -> None:
    """Its deployment is known already."""
    stored = CALL._replace(operation=Operation("GET", "/v1/responses/x"))
    assert Affinity(EVERY).name_of(stored, CALLER) is None


def test_the_sidecar_of_before_is_preferred_while_it_is_live_and_no_busier() -> None:
    """Else the least busy one is."""
    first, second = sidecars = [Sidecar("http://a"), Sidecar("http://b")]
    names, (guard,) = Affinity(EVERY), guards(1)
    assert names.passed_over("n", sidecars) is None
    names.began("n", guard, second)
    names.ended(guard)
    assert names.passed_over("n", sidecars) == [first]
    second.in_flight = 4
    assert names.passed_over("n", sidecars) == [first]
    second.in_flight = 5
    assert names.passed_over("n", sidecars) is None
    first.in_flight = 4
    assert names.passed_over("n", sidecars) == [first]
    second.mark_down()
    assert names.passed_over("n", sidecars) is None
    assert names.passed_over("n", [first]) is None


def test_of_one_name_only_so_many_calls_at_once_are_kept_together() -> None:
    """One more is on its own, until one of them ends; ending twice counts once."""
    names, sidecar = Affinity(("run",)), Sidecar("http://a")
    digest = names.name_of(CALL, CALLER)
    assert digest is not None
    running = guards(MAX_AT_ONCE)
    for guard in running:
        names.began(digest, guard, sidecar)
    assert names.name_of(CALL, CALLER) is None
    assert names.name_of(CALL, replace(CALLER, run_id="other")) is not None
    for _ in range(2):
        names.ended(running[0])
    assert names.name_of(CALL, CALLER) == digest


def test_memory_is_bounded_and_keeps_the_names_used_last() -> None:
    """Whatever callers call their runs."""
    names, (guard,) = Affinity(EVERY), guards(1)
    sidecars = [Sidecar("http://a"), Sidecar("http://b")]
    for number in (*range(MAX_NAMES), 0, MAX_NAMES):
        names.began(str(number), guard, sidecars[0])
        names.ended(guard)
    assert names.passed_over("0", sidecars) is not None
    assert names.passed_over("1", sidecars) is None
    assert names.passed_over("2", sidecars) is not None


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=300))
def test_preference_never_unbalances_sidecars_by_more_than_the_slack(
    history: list[tuple[int, bool]],
) -> None:
    """Calls of any names begin and end; the busiest has at most a quarter and a few more than the least."""
    names, sidecars = Affinity(EVERY), [Sidecar(f"http://{at}") for at in "abc"]
    running: list[tuple[CallGuard, Sidecar]] = []
    for number, ends in history:
        if ends and running:
            guard, sidecar = running.pop(number % len(running))
            names.ended(guard)
            sidecar.end_call()
        (guard,), name = guards(1), str(number)
        others = names.passed_over(name, sidecars) or []
        left = [one for one in sidecars if one not in others]
        chosen = min(left, key=lambda one: one.in_flight)
        least = min(one.in_flight for one in sidecars)
        assert chosen.in_flight <= least * 1.25 + 4
        chosen.begin_call(0)
        names.began(name, guard, chosen)
        running.append((guard, chosen))


def test_only_a_sidecar_of_ours_is_told_the_name() -> None:
    """And only where there is a choice."""
    assert header_of("n", CALL, None) == ""
    assert header_of("n", CALL, Catalog()) == ""
    assert header_of("n", CALL, Catalog(is_ours=True)) == "x-llmp-affinity: n\r\n"
