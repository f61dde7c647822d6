"""How often, where and when a call is retried; a caller's own error is not."""

import asyncio
import json
import time
from uuid import uuid4

import pytest
from sidecars import Mode, Sidecar

CALLERS_FAULT = (
    "status-400",
    "status-404",
    "status-413",
    "status-422",
    "policy",
    "says-llamacpp-image",
    "says-llamacpp-batch",
)


async def served_by(sidecar: Sidecar, mark: str) -> list[str]:
    """Return the models the provider was called for, in order."""
    return [call["model"] for call in await sidecar.provider.calls(mark)]


@pytest.mark.parametrize("mode", ["chat", "stream"])
@pytest.mark.parametrize("how", CALLERS_FAULT)
async def test_a_caller_s_error_never_falls_back(sidecar: Sidecar, how: str, mode: Mode) -> None:
    """Another model would be billed for the same error."""
    mark = f"{how}-{uuid4()}"
    answer = await sidecar.ask(mode, "first", mark, do=how)
    assert answer.status in {400, 404, 413, 422, 500}
    assert await served_by(sidecar, mark) == ["first"]


@pytest.mark.parametrize("how", ["garbage", "empty", "error-in-200", "not-sse"])
async def test_an_unreadable_answer_is_retried(sidecar: Sidecar, how: str) -> None:
    """LiteLLM makes it a 422 for Gemini."""
    mark = f"{how}-{uuid4()}"
    answer = await sidecar.chat("gemini", mark, do=how)
    assert answer.status >= 400
    assert len(await served_by(sidecar, mark)) == 3


@pytest.mark.parametrize("how", CALLERS_FAULT)
async def test_a_caller_s_error_never_cools_a_deployment(sidecar: Sidecar, how: str) -> None:
    """After ten in a row, the same deployment serves the next caller."""
    for _ in range(10):
        await sidecar.chat("solo", f"{how}-{uuid4()}", do=how)
    assert (await sidecar.chat("solo", f"{uuid4()}", do="ok")).status == 200


@pytest.mark.parametrize(("how", "attempts"), [*((how, 1) for how in CALLERS_FAULT), ("status-500", 3)])
async def test_a_retry_policy_does_not_apply_to_a_caller_s_error(
    sidecar: Sidecar, how: str, attempts: int
) -> None:
    """A bad request stays bad."""
    mark = f"policed-{how}-{uuid4()}"
    await sidecar.chat("policed", mark, do=how)
    assert await served_by(sidecar, mark) == ["policed"] * attempts


async def test_an_overlong_prompt_uses_context_window_fallbacks(sidecar: Sidecar) -> None:
    """They are configured for exactly this error; other fallbacks are not used."""
    mark = f"long-{uuid4()}"
    answer = await sidecar.chat("first", mark, do="context")
    assert answer.status == 400
    assert await served_by(sidecar, mark) == ["first", "wide"]
    mark = f"long-{uuid4()}"
    await sidecar.chat("third", mark, do="context")
    assert await served_by(sidecar, mark) == ["third"]


@pytest.mark.parametrize("how", ["status-500", "status-503", "html-502", "drop", "garbage", "status-429"])
async def test_a_provider_s_error_has_three_attempts(sidecar: Sidecar, how: str) -> None:
    """After pauses of 0.04 and 0.08 s, as configured here, and none after the last."""
    mark, started = f"{how}-{uuid4()}", time.time()
    answer = await sidecar.chat("solo", mark, do=how)
    ended = time.time()
    assert answer.status >= 429
    first, second, third = [call["at"] for call in await sidecar.provider.calls(mark)]
    assert second - first > 0.035
    assert third - second > 0.07
    assert ended - third < 1
    assert ended - started < 3


@pytest.mark.parametrize("group", ["solo", "anthropic"])
async def test_a_status_that_litellm_makes_500_is_tried_again(sidecar: Sidecar, group: str) -> None:
    """It is not the 500 that says that the request is at fault."""
    mark = f"overloaded-{uuid4()}"
    assert (await sidecar.chat(group, mark, do="status-529")).status >= 500
    assert len(await sidecar.provider.calls(mark)) == 3


async def test_a_call_that_fails_once_succeeds_on_the_second_attempt(sidecar: Sidecar) -> None:
    """The response says how many attempts it took."""
    mark = f"flaky-{uuid4()}"
    answer = await sidecar.chat("solo", mark, do="flaky", key=mark, fails=1, status=500)
    assert answer.status == 200
    assert answer.headers["x-litellm-attempted-retries"] == "1"
    assert answer.headers["x-llmp-attempts"] == "2"


@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_a_permanent_failure_falls_back(sidecar: Sidecar, mode: Mode) -> None:
    """After its attempts; the response names the group that served."""
    mark = f"back-{uuid4()}"
    answer = await sidecar.ask(mode, "first", mark, do="flaky", key=mark, fails=3, status=500)
    assert answer.status == 200
    assert await served_by(sidecar, mark) == ["first"] * 3 + ["second"]
    assert answer.headers["x-litellm-model-group"] == "second"
    assert answer.headers["x-litellm-attempted-fallbacks"] == "1"
    assert answer.headers["x-llmp-attempts"] == "4"


async def test_a_stream_never_falls_back_once_content_was_sent(sidecar: Sidecar) -> None:
    """The caller has received text already."""
    mark = f"late-{uuid4()}"
    answer = await sidecar.stream("first", mark, do="cut", after=5, frames=9)
    assert answer.status == 200
    assert await served_by(sidecar, mark) == ["first"]


async def test_another_deployment_serves_while_one_cools_down(sidecar: Sidecar) -> None:
    """A rate limit excludes one of a pair for a while; callers do not notice."""
    mark = f"cool-{uuid4()}"
    await sidecar.chat("pair", mark, do="flaky", key=mark, fails=1, status=429)
    [failed, *_] = await served_by(sidecar, mark)
    later = f"later-{uuid4()}"
    for at in range(8):
        assert (await sidecar.chat("pair", f"{later}-{at}")).status == 200
    assert failed not in await served_by(sidecar, later)
    await asyncio.sleep(2.5)


async def test_if_all_deployments_cool_down_the_error_is_immediate(sidecar: Sidecar) -> None:
    """429 with the time to wait, without pauses between attempts."""
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
async def test_a_provider_without_a_response_times_out(sidecar: Sidecar, mode: Mode) -> None:
    """Before the first byte, streamed or not."""
    started = time.monotonic()
    answer = await sidecar.ask(mode, "hasty", f"hang-{uuid4()}", do="hang")
    assert answer.status == 408
    assert time.monotonic() - started < 6


async def test_only_the_router_retries_embeddings(sidecar: Sidecar) -> None:
    """With retries off the provider gets one request: no client below the router retries."""
    body = {"model": "lone", "input": 'broke-once {"do": "cut"}'}
    answer = await sidecar.post("/v1/embeddings", body)
    assert answer.status >= 500
    assert len(await sidecar.provider.calls("broke-once")) == 1


@pytest.mark.parametrize(
    ("group", "status", "further"), [("vectors-chat", 500, []), ("vectors-both", 200, ["embed"])]
)
async def test_a_group_of_another_mode_is_no_fallback(
    sidecar: Sidecar, group: str, status: int, further: list[str]
) -> None:
    """Embeddings never go on at a model of chats, whose error would answer them."""
    mark = f"mode-{uuid4()}"
    directive = json.dumps({"do": "flaky", "key": mark, "fails": 1, "status": 500})
    answer = await sidecar.post("/v1/embeddings", {"model": group, "input": f"{mark} {directive}"})
    assert answer.status == status, answer.text
    assert await served_by(sidecar, mark) == ["text-embedding-3-small", *further]
