"""How often, where and when a call is tried again; and that a caller's own fault is not."""

import asyncio
import time
from uuid import uuid4

import pytest
from sidecars import Mode, Sidecar

CALLERS_FAULT = ("status-400", "status-404", "status-413", "status-422", "policy")


async def played_by(sidecar: Sidecar, mark: str) -> list[str]:
    """The models the provider was asked for, in order."""
    return [call["model"] for call in await sidecar.provider.calls(mark)]


@pytest.mark.parametrize("mode", ["chat", "stream"])
@pytest.mark.parametrize("how", CALLERS_FAULT)
async def test_a_caller_s_fault_never_falls_back(sidecar: Sidecar, how: str, mode: Mode) -> None:
    """Another model would be billed for the same mistake."""
    mark = f"{how}-{uuid4()}"
    answer = await sidecar.ask(mode, "first", mark, do=how)
    assert answer.status in {400, 404, 413, 422}
    assert await played_by(sidecar, mark) == ["first"]


@pytest.mark.parametrize("how", ["garbage", "empty", "error-in-200", "not-sse"])
async def test_an_answer_nobody_can_read_is_not_the_caller_s_fault(sidecar: Sidecar, how: str) -> None:
    """LiteLLM calls it 422 where it comes from Gemini: it is tried again all the same."""
    mark = f"{how}-{uuid4()}"
    answer = await sidecar.chat("gemini", mark, do=how)
    assert answer.status >= 400
    assert len(await played_by(sidecar, mark)) == 3


@pytest.mark.parametrize("how", CALLERS_FAULT)
async def test_a_caller_s_fault_never_cools_a_deployment(sidecar: Sidecar, how: str) -> None:
    """Ten of them in a row, and the next caller is served by the same deployment."""
    for _ in range(10):
        await sidecar.chat("solo", f"{how}-{uuid4()}", do=how)
    assert (await sidecar.chat("solo", f"{uuid4()}", do="ok")).status == 200


@pytest.mark.parametrize(("how", "attempts"), [*((how, 1) for how in CALLERS_FAULT), ("status-500", 3)])
async def test_a_retry_policy_is_obeyed_but_not_for_a_caller_s_fault(
    sidecar: Sidecar, how: str, attempts: int
) -> None:
    """An operator may grant a bad request retries; it would be as bad again."""
    mark = f"policed-{how}-{uuid4()}"
    await sidecar.chat("policed", mark, do=how)
    assert await played_by(sidecar, mark) == ["policed"] * attempts


async def test_an_overlong_prompt_goes_to_the_wider_model_named_for_it(sidecar: Sidecar) -> None:
    """`context_window_fallbacks` are an operator's wish for exactly this error; others are not used."""
    mark = f"long-{uuid4()}"
    answer = await sidecar.chat("first", mark, do="context")
    assert answer.status == 400
    assert await played_by(sidecar, mark) == ["first", "wide"]
    mark = f"long-{uuid4()}"
    await sidecar.chat("third", mark, do="context")
    assert await played_by(sidecar, mark) == ["third"]


@pytest.mark.parametrize("how", ["status-500", "status-503", "html-502", "drop", "garbage", "status-429"])
async def test_a_provider_s_fault_is_tried_three_times_in_all(sidecar: Sidecar, how: str) -> None:
    """After pauses of 0.04 and 0.08 s, as this sidecar's variables say, and none after the last."""
    mark, started = f"{how}-{uuid4()}", time.time()
    answer = await sidecar.chat("solo", mark, do=how)
    ended = time.time()
    assert answer.status >= 429
    first, second, third = [call["at"] for call in await sidecar.provider.calls(mark)]
    assert second - first > 0.035
    assert third - second > 0.07
    assert ended - third < 1
    assert ended - started < 3


async def test_a_call_that_fails_once_succeeds_on_the_second_attempt(sidecar: Sidecar) -> None:
    """And says how many attempts it took."""
    mark = f"flaky-{uuid4()}"
    answer = await sidecar.chat("solo", mark, do="flaky", key=mark, fails=1, status=500)
    assert answer.status == 200
    assert answer.headers["x-litellm-attempted-retries"] == "1"
    assert answer.headers["x-llmp-attempts"] == "2"


@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_what_fails_for_good_falls_back(sidecar: Sidecar, mode: Mode) -> None:
    """After its attempts; the answer names the group that gave it."""
    mark = f"back-{uuid4()}"
    answer = await sidecar.ask(mode, "first", mark, do="flaky", key=mark, fails=3, status=500)
    assert answer.status == 200
    assert await played_by(sidecar, mark) == ["first"] * 3 + ["second"]
    assert answer.headers["x-litellm-model-group"] == "second"
    assert answer.headers["x-litellm-attempted-fallbacks"] == "1"
    assert answer.headers["x-llmp-attempts"] == "4"


async def test_a_stream_never_falls_back_once_content_was_sent(sidecar: Sidecar) -> None:
    """What was said cannot be unsaid."""
    mark = f"late-{uuid4()}"
    answer = await sidecar.stream("first", mark, do="cut", after=5, frames=9)
    assert answer.status == 200
    assert await played_by(sidecar, mark) == ["first"]


async def test_a_failing_deployment_cools_and_its_twin_serves(sidecar: Sidecar) -> None:
    """A rate limit takes one of a pair out for a while; callers do not notice."""
    mark = f"cool-{uuid4()}"
    await sidecar.chat("pair", mark, do="flaky", key=mark, fails=1, status=429)
    [failed, *_] = await played_by(sidecar, mark)
    later = f"later-{uuid4()}"
    for at in range(8):
        assert (await sidecar.chat("pair", f"{later}-{at}")).status == 200
    assert failed not in await played_by(sidecar, later)
    await asyncio.sleep(2.5)


async def test_when_all_are_cooling_the_answer_comes_at_once(sidecar: Sidecar) -> None:
    """429 with how long to wait, without the pauses between attempts."""
    for _ in range(2):
        await sidecar.chat("pair", f"{uuid4()}", do="status-429")
    started = time.monotonic()
    answer = await sidecar.chat("pair", f"{uuid4()}")
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) <= 2
    assert answer.json["error"]["type"] == "all_deployments_in_cooldown"
    assert time.monotonic() - started < 0.5
    await asyncio.sleep(2.5)
    assert (await sidecar.chat("pair", f"{uuid4()}")).status == 200


@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_a_silent_provider_is_given_up_at_its_timeout(sidecar: Sidecar, mode: Mode) -> None:
    """Before the first byte, streamed or not."""
    started = time.monotonic()
    answer = await sidecar.ask(mode, "hasty", f"hang-{uuid4()}", do="hang")
    assert answer.status == 408
    assert time.monotonic() - started < 6


async def test_an_embedding_that_broke_is_repeated_by_the_router_alone(sidecar: Sidecar) -> None:
    """Where the router is told not to retry, the provider sees it once: no client below it tries again."""
    body = {"model": "lone", "input": 'broke-once {"do": "cut"}'}
    answer = await sidecar.post("/v1/embeddings", body)
    assert answer.status >= 500
    assert len(await sidecar.provider.calls("broke-once")) == 1
