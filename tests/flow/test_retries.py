"""What the sidecar has tried again, no SDK tries once more; what it has not, the SDK may.

The SDK is left at its own two retries; the provider counts. `retried` is tried three times by the router
when the provider fails, `p/*` once.
"""

from typing import Any

import openai
import pytest
from running_stack import RunningStack, say, script


async def _fail(stack: RunningStack, model: str, **directive: Any) -> openai.APIStatusError:
    """The error of a call by an SDK that retries as it does out of the box."""
    eager = stack.openai.with_options(max_retries=2)
    with pytest.raises(openai.APIStatusError) as caught:
        await eager.chat.completions.create(model=model, messages=say(script(**directive)))
    return caught.value


@pytest.mark.parametrize(
    ("model", "attempts", "provider", "should_retry"),
    [("p/once", 1, "openai", None), ("retried", 3, "inhouse", "false")],
)
async def test_a_failing_provider_is_retried_by_the_router_or_by_the_sdk(
    stack: RunningStack, model: str, attempts: int, provider: str, should_retry: str | None
) -> None:
    """Three calls either way: not three times three, and not one alone where the router does not retry."""
    failed = await _fail(stack, model, do="status-500")
    assert failed.status_code == 502
    assert failed.response.headers.get("x-should-retry") == should_retry
    assert len(await stack.calls()) == 3
    story = await stack.story(failed.response.headers["x-request-id"])
    assert (story["provider"], story["attempts"], story["outcome"]) == (provider, attempts, "error")
    assert (story["cost_usd"], story["usage_source"]) == (None, "unknown")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_that_recovers_within_the_routers_retries_is_an_answer(
    stack: RunningStack,
    streamed: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Failing twice and then well is one good answer, and says how often was tried."""
    said = say(script(do="flaky", fails=2, key=f"flaky-{streamed}"))
    raw = await stack.openai.chat.completions.with_raw_response.create(
        model="retried", messages=said, stream=streamed
    )
    assert raw.status_code == 200
    assert raw.headers["x-llm-proxy-attempts"] == "3"
    assert len(await stack.calls()) == 3


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_providers_retry_after_arrives(stack: RunningStack, streamed: bool) -> None:  # noqa: FBT001 -- a parameter
    """In seconds and in milliseconds, as the SDKs read it."""
    with pytest.raises(openai.RateLimitError) as caught:
        await stack.openai.chat.completions.create(
            model="p/limited", messages=say(script(do="status-429", retry_after="17")), stream=streamed
        )
    headers = caught.value.response.headers
    assert headers["retry-after"] == "17"
    assert headers["retry-after-ms"] == "17000"
    assert headers["x-llm-proxy-refused-by"] == "provider"


@pytest.mark.parametrize("play", ["status-429", "status-503", "status-529"])
async def test_a_limit_the_router_did_not_wait_for_is_the_sdks_to_wait_for(
    stack: RunningStack, play: str
) -> None:
    """As often as it likes, after the time the provider asked for."""
    failed = await _fail(stack, "p/limited", do=play, retry_after="0.1")
    assert failed.status_code in (429, 503)
    assert "x-should-retry" not in failed.response.headers
    assert len(await stack.calls()) == 3


@pytest.mark.parametrize(
    ("model", "play"),
    [("p/once", play) for play in ("status-400", "status-401", "context", "quota", "policy")]
    + [("retried", play) for play in ("status-400", "status-401", "context", "policy")],
)
async def test_what_would_fail_again_is_tried_once(stack: RunningStack, model: str, play: str) -> None:
    """A wrong request, a bad key, an empty account."""
    await _fail(stack, model, do=play)
    assert len(await stack.calls()) == 1
