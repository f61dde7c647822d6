"""The deployments among which a direct call's is chosen are those of LiteLLM's router."""

import json
import os
import subprocess
from typing import Any

import pytest

from llm_proxy.stack.process_specs import sidecar_python

Json = dict[str, Any]
GROUPS: dict[str, list[tuple[Json, Json]]] = {
    "one": [({}, {})],
    "three": [({}, {}), ({}, {}), ({}, {})],
    "weighted": [({"weight": 9}, {}), ({"weight": 1}, {"mode": "chat"})],
    "any/*": [({}, {}), ({}, {})],
}
"""Name -> what its deployments state, in `litellm_params` and in `model_info`."""
LEFT: dict[str, list[tuple[Json, Json]]] = {
    "ordered": [({"order": 1}, {}), ({"order": 2}, {})],
    "paused": [({}, {"blocked": True}), ({}, {})],
    "of-a-team": [({}, {"team_id": "a-team"}), ({}, {})],
    "searching": [({}, {"supports_web_search": False}), ({}, {})],
}
"""The same of groups that LiteLLM's router excludes deployments of."""
COMPARE = """
import asyncio, itertools, json, sys
import litellm, litellm.router
from llm_proxy.sidecar import direct_choice, direct_internals, litellm_internals
from llm_proxy.sidecar.call_outcome import CallOutcome, outcome_in_context
from llm_proxy.sidecar.patches.patch import installed

def deployment(group, at, params, info):
    params = {"model": f"openai/{group}", "api_key": "none", **params}
    return {"model_name": group, "litellm_params": params, "model_info": {"id": f"{group}-{at}", **info}}

groups = json.load(sys.stdin)
models = [deployment(name, at, *one) for name, found in groups.items() for at, one in enumerate(found)]
router = litellm.Router(model_list=models)
litellm_internals.router = lambda: router
shuffle, offered = litellm.router.simple_shuffle, []

def note(**options):
    offered.append([one["model_info"]["id"] for one in options["healthy_deployments"]])
    return shuffle(**options)

litellm.router.simple_shuffle = note

async def compare(name):
    named = [one for one in router.model_list if one["model_name"] == name]
    name = name.replace("*", "a-name")
    deployments = direct_internals.wildcard_deployments(name) or named
    ids, others = [one["model_info"]["id"] for one in deployments], []
    for cooling in itertools.chain.from_iterable(itertools.combinations(ids, n) for n in range(len(ids) + 1)):
        router.cooldown_cache.cooldown_store.flush_cache()
        for one in cooling:
            router.cooldown_cache.add_deployment_to_cooldown(one, Exception("a"), 500, 60.0)
        offered.clear()
        ours = await direct_internals.choose_healthy(name)
        try:
            await router.async_get_available_deployment(
                model=name, request_kwargs={"metadata": {}}, messages=[{"role": "user", "content": "a"}]
            )
        except Exception as error:
            offered.append(type(error).__name__ if ours is None else error)
        expected = [] if ours is None else offered[:1]
        if (offered[1:] or offered) != (expected or ["RouterRateLimitError"]):
            others.append([cooling, offered])
    return {"plain": direct_choice.is_plain_group(deployments, router), "others": others}

def is_plain_with(setting, value):
    router = litellm.Router(model_list=models, **{setting: value})
    deployments = [one for one in router.model_list if one["model_name"] == "one"]
    return direct_choice.is_plain_group(deployments, router)

SETTINGS = {
    "cooldown_time": 9, "enable_pre_call_checks": True,
    "routing_groups": [{"group_name": "a", "models": ["one"], "routing_strategy": "latency-based-routing"}],
}
async def choose_for(**stated):
    outcome = CallOutcome(**stated)
    with outcome_in_context(outcome):
        chosen = await direct_choice.choose("one", outcome)
    return [one.deployment for one in outcome.attempts] if chosen is not None else None

installed.add("attempts")
CALLS = {"plain": {}, "affinity": {"affinity": "a-run"}, "account": {"account": frozenset({"one-0"})}}
seen = {name: asyncio.run(compare(name)) for name in groups}
seen["settings"] = {name: is_plain_with(name, value) for name, value in SETTINGS.items()}
router.cooldown_cache.cooldown_store.flush_cache()
seen["calls"] = {name: asyncio.run(choose_for(**stated)) for name, stated in CALLS.items()}
print(json.dumps(seen, default=str))
"""


@pytest.fixture(scope="module")
def found() -> Json:
    """What both offered to the strategy, by group and by which of its deployments cool down."""
    command = [str(sidecar_python()), "-c", COMPARE]
    env = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    asked = json.dumps(GROUPS | LEFT)
    ran = subprocess.run(command, input=asked, capture_output=True, text=True, env=env, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    result: Json = json.loads(ran.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", GROUPS)
def test_the_strategy_gets_litellm_s_deployments(found: Json, name: str) -> None:
    """Whichever cool down; nothing is chosen where LiteLLM has none."""
    assert found[name]["plain"]
    assert found[name]["others"] == []


@pytest.mark.parametrize("name", LEFT)
def test_other_groups_are_left_to_litellm(found: Json, name: str) -> None:
    """More than cooldowns decides there."""
    assert not found[name]["plain"]


def test_settings_of_the_router_that_decide_leave_all_groups_to_litellm(found: Json) -> None:
    """A time for which deployments cool down is none of them."""
    expected = {"cooldown_time": True, "enable_pre_call_checks": False, "routing_groups": False}
    assert found["settings"] == expected


def test_calls_that_choose_among_deployments_are_left_to_litellm(found: Json) -> None:
    """Those of a run that was at one before, or of one account; any other is recorded with its deployment."""
    assert found["calls"] == {"plain": ["one-0"], "affinity": None, "account": None}
