"""Forms that strangers send, replayed at every endpoint that takes files."""

import asyncio

import pytest
from attack_forms import FormAttack, forms
from raw_http import send_raw
from running_stack import RunningStack

from llm_proxy.endpoints import ENDPOINTS, EndpointSpec

WAITS = 408
"""The status of forms whose end is waited for; `make attack` waits."""
SPECS = [one for one in ENDPOINTS.values() if one.files]


@pytest.mark.parametrize("spec", SPECS, ids=[one.path for one in SPECS])
async def test_each_is_answered_as_it_should_be(stack: RunningStack, spec: EndpointSpec) -> None:
    """What has two readings is rejected; what is only odd arrives, under a safe name."""
    at_once = asyncio.Semaphore(8)

    async def replay(attack: FormAttack) -> str | None:
        async with at_once:
            answer = await asyncio.to_thread(send_raw, stack.port, attack.raw, wait_s=5)
        statuses = answer.statuses[:1] or [0]
        return None if set(statuses) <= attack.expected else f"{attack.name}: {answer.raw[:300]!r}"

    sent = forms(spec.path.encode(), spec.files[0].name.encode())
    found = await asyncio.gather(*(replay(one) for one in sent if WAITS not in one.expected))
    assert [one for one in found if one] == []
    assert "canary" not in str([call["body"] for call in await stack.calls() if call["path"] == spec.path])
