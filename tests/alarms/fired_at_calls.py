"""Alerts on calls, providers, sidecars and records, each fired on purpose at a real stack: `make alarms`.

A test makes one fault for real, runs the commands of the alert's page, mends the fault, and has Prometheus's
engine say that the alert fired meanwhile and is over.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import httpx
import pytest
from alarm_trial import AlarmTrial, require_promtool, trial_of
from raw_http import send_raw
from running_stack import KEY
from stack_processes import StackProcesses, run_stack
from webhook_receiver import WebhookReceiver, run_receiver

Json = dict[str, Any]
pytestmark = pytest.mark.timeout(400)
SECRET = "alarms-secret-0123456789abcdef"
PRICED = {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}


def group(name: str, plays: str, **priced: float) -> Json:
    """A model group that plays its part, whatever the prompt."""
    server = {"api_base": "PROVIDER/v1", "api_key": "none"}
    return {
        "model_name": name,
        "litellm_params": {"model": f"openai/{plays}", **server, **priced},
        "model_info": {"id": name, "provider": f"house-of-{name}"},
    }


def config(**plays: str) -> Json:
    """The sidecars' configuration, with other parts for some groups."""
    parts = {"any": "any", "broken": "status-500", "locked": "status-401", "first": "status-503"} | plays
    groups = [group(name, part, **PRICED) for name, part in parts.items()]
    settings = {"num_retries": 0, "disable_cooldowns": True, "fallbacks": [{"first": ["any"]}]}
    return {"model_list": [*groups, group("unpriced", "unpriced")], "router_settings": settings}


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    """Takes the notifications of the gateway."""
    with run_receiver() as made:
        yield made


@pytest.fixture(scope="module")
def stack(receiver: WebhookReceiver) -> Iterator[StackProcesses]:
    """Two sidecars and a gateway."""
    require_promtool()
    settings = {
        "LLM_PROXY__NOTIFY_WEBHOOKS": f"json={receiver.url()}",
        "LLM_PROXY__NOTIFY_ALLOW_PRIVATE": "true",
        "LLM_PROXY__NOTIFY_SECRET": SECRET,
        "LLM_PROXY__CACHE_MODE": "off",
    }
    with run_stack(config(), sidecars=2, settings=settings) as made:
        yield made


async def chat(
    client: httpx.AsyncClient,
    trial: AlarmTrial,
    model: str = "any",
    *,
    key: str = KEY,
    stream: bool = False,
    **directive: Any,
) -> int:
    """Makes a call; returns its status, 0 without an answer."""
    prompt = f"please {json.dumps(directive)}" if directive else "please"
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}
    headers = {"Authorization": f"Bearer {key}"}
    try:
        answer = await client.post(f"{trial.url}/v1/chat/completions", json=body, headers=headers)
    except httpx.TransportError:
        return 0
    return answer.status_code


async def restart_sidecars(stack: StackProcesses, trial: AlarmTrial, changed: Json | None = None) -> None:
    """Restarts both sidecars, with another configuration; waits until the gateway sees them."""
    if changed is not None:
        text = json.dumps(changed).replace("PROVIDER", stack.url("provider"))
        (stack.folder / "litellm.yaml").write_text(text, encoding="utf-8")
    for name in ("sidecar-1", "sidecar-2"):
        if stack.running[name].is_alive():
            await stack.kill(name)
    await asyncio.gather(*(stack.restart(name) for name in ("sidecar-1", "sidecar-2")))
    await trial.scrape_until(lambda page: 'llm_proxy_sidecars{state="live"} 2.0' in page)


async def test_a_webhook_that_fails(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path, receiver: WebhookReceiver
) -> None:
    """It answers 500; then it takes what it missed."""
    hooks = f"json={receiver.url()}"
    trial = trial_of(
        stack,
        tmp_path,
        LLM_PROXY__NOTIFY_WEBHOOKS=hooks,
        LLM_PROXY__NOTIFY_ALLOW_PRIVATE="true",
        LLM_PROXY__NOTIFY_SECRET=SECRET,
    )
    await trial.scrape(5)
    calm = trial.minute - 1
    receiver.answers += [500] * 7
    for _ in range(25):
        answer = await client.get(
            f"{trial.url}/v1/models", headers={"Authorization": "Bearer sk-wrong-0123456789"}
        )
        assert answer.status_code == 401
    await trial.scrape_until(lambda page: _counted(page, "failed") >= 1, 60)
    await trial.scrape(2)
    await trial.scrape_until(lambda page: _counted(page, "failed") >= 5, 180)
    await trial.scrape(2)
    fault = trial.minute - 1
    await trial.follow_page("LlmProxyNotificationsFailing")
    receiver.answers.clear()
    await trial.scrape_until(lambda page: _counted(page, "delivered") >= 1, 180)
    await trial.scrape(65)
    trial.assert_fired("LlmProxyNotificationsFailing", calm=calm, fault=fault, mended=trial.minute - 1)


def _counted(page: str, result: str) -> float:
    line = f'llm_proxy_notifications_total{{result="{result}"}} '
    return sum(float(one.removeprefix(line)) for one in page.splitlines() if one.startswith(line))


async def test_failing_calls(stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """A provider is down: more than a twentieth of the calls fail, and all of this provider's."""
    trial = trial_of(stack, tmp_path)
    await chat(client, trial)
    await trial.scrape(10)

    async def work() -> None:
        assert [await chat(client, trial), await chat(client, trial, "broken")] == [200, 502]

    calm = trial.minute - 1
    fault = await trial.scrape_while(work, 24)
    await trial.follow_page("LlmProxyErrors")
    await trial.follow_page("LlmProxyProviderErrors")
    mended = await trial.scrape_while(partial(chat, client, trial), 13)
    for alert in ("LlmProxyErrors", "LlmProxyProviderErrors"):
        trial.assert_fired(alert, calm=calm, fault=fault, mended=mended)


async def test_a_revoked_key_a_failing_group_and_a_missing_price(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """All three are mended in the configuration of the sidecars."""
    trial = trial_of(stack, tmp_path)
    await chat(client, trial)
    await trial.scrape(10)

    async def work() -> None:
        found = [await chat(client, trial, model) for model in ("locked", "first", "unpriced")]
        assert found == [502, 200, 200]

    calm = trial.minute - 1
    credentials = await trial.scrape_while(work, 2)
    fallbacks = await trial.scrape_while(work, 21)
    unpriced = await trial.scrape_while(work, 50)
    for alert in ("LlmProxyProviderCredentials", "LlmProxyFallbacks", "LlmProxyUnpriced"):
        await trial.follow_page(alert)
    changed = config(locked="any", first="any", unpriced="any")
    changed["model_list"] = [one for one in changed["model_list"] if "input_cost" in json.dumps(one)]
    await restart_sidecars(stack, trial, changed)

    async def mended_work() -> None:
        assert {await chat(client, trial, model) for model in ("locked", "first", "unpriced")} == {200}

    short = await trial.scrape_while(mended_work, 13)
    long = await trial.scrape_while(mended_work, 50)
    trial.assert_fired("LlmProxyProviderCredentials", calm=calm, fault=credentials, mended=short)
    trial.assert_fired("LlmProxyFallbacks", calm=calm, fault=fallbacks, mended=short)
    trial.assert_fired("LlmProxyUnpriced", calm=calm, fault=unpriced, mended=long)


async def test_streams_that_begin_late(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Each after eleven seconds; then at once."""
    trial = trial_of(stack, tmp_path)
    await chat(client, trial, stream=True)
    await trial.scrape(12)
    calm = trial.minute - 1
    late = [
        asyncio.create_task(
            _later(at / 4, partial(chat, client, trial, stream=True, do="slow-first", first_ms=11000))
        )
        for at in range(100)
    ]
    await asyncio.sleep(11.5)
    fault = await trial.scrape_while(partial(asyncio.sleep, 1), 24)
    assert {await one for one in late} == {200}
    await trial.follow_page("LlmProxySlowFirstByte")

    async def work() -> None:
        assert {await chat(client, trial, stream=True) for _ in range(3)} == {200}

    mended = await trial.scrape_while(work, 14)
    trial.assert_fired("LlmProxySlowFirstByte", calm=calm, fault=fault, mended=mended)


async def _later(seconds: float, work: Any) -> int:
    await asyncio.sleep(seconds)
    status: int = await work()
    return status


async def test_wrong_keys(stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """330 a minute, on one connection."""
    trial = trial_of(stack, tmp_path)
    await chat(client, trial)
    await trial.scrape(5)
    calm = trial.minute - 1
    guess = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-guessed-0123456789\r\n\r\n"

    async def work() -> None:
        found = await asyncio.to_thread(
            send_raw, stack.ports["gateway-1"], guess * 330, answers=330, wait_s=20
        )
        assert set(found.statuses) == {401}

    fault = await trial.scrape_while(work, 17)
    await asyncio.sleep(2)  # the list is written every second
    await trial.follow_page("LlmProxyUnauthorized")
    await trial.scrape(8)
    trial.assert_fired("LlmProxyUnauthorized", calm=calm, fault=fault, mended=trial.minute - 1)


async def test_more_calls_than_sidecars_take(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """The gateway sheds, by its own fault, which the objective does not allow."""
    name = stack.add_gateway(
        {"LLM_PROXY__MAX_IN_FLIGHT": "1", "LLM_PROXY__MAX_WAITING": "0"}, stack.urls("sidecar")[:1]
    )
    stack.start(name)
    trial = trial_of(stack, tmp_path, name)
    assert await chat(client, trial) == 200
    await trial.scrape(5)
    calm = trial.minute - 1

    body = b'{"model": "any", "messages": [{"role": "user", "content": "please"}]}'
    post = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body)
    )

    async def work() -> None:
        found = await asyncio.to_thread(send_raw, stack.ports[name], post * 70, answers=70, wait_s=20)
        assert found.statuses.count(503) == 70

    holding = asyncio.create_task(chat(client, trial, do="hang"))
    await trial.scrape_until(lambda page: "llm_proxy_in_flight 1.0" in page)
    fault = await trial.scrape_while(work, 13)
    await trial.follow_page("LlmProxyShedding")
    await trial.follow_page("LlmProxyAvailabilityBurn")
    holding.cancel()
    await asyncio.wait({holding})
    await trial.scrape_until(lambda page: "llm_proxy_in_flight 0.0" in page)
    await trial.scrape_while(partial(chat, client, trial), 10)
    await trial.scrape(25)
    mended = trial.minute - 1
    stack.stop(name)
    trial.assert_fired("LlmProxyShedding", calm=calm, fault=fault, mended=mended)
    trial.assert_fired("LlmProxyAvailabilityBurn", calm=calm, fault=fault, mended=mended, severity="page")


async def test_a_slow_limits_store_makes_the_gateway_slow(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """It gets the processor for a tenth of the time, as on a crowded machine."""
    name = stack.add_gateway({"LLM_PROXY__STORE_TIMEOUT_MS": "2000"})
    stack.start(name)
    trial = trial_of(stack, tmp_path, name)
    code, made = await trial.run("llm-proxy keys create --name limited --model '*' --rpm 100000 --json")
    assert code == 0, made
    key = json.loads(made)["key"]
    for _ in range(5):
        assert await chat(client, trial, key=key) == 200
    await trial.scrape(10)
    calm = trial.minute - 1

    async def crowd() -> None:
        while True:
            stack.signal("limits", SIGSTOP)
            await asyncio.sleep(0.3)
            stack.signal("limits", SIGCONT)
            await asyncio.sleep(0.02)

    crowded = asyncio.create_task(crowd())

    async def work() -> None:
        found = await asyncio.gather(*(chat(client, trial, key=key) for _ in range(6)))
        assert set(found) <= {200, 503}

    try:
        fault = await trial.scrape_while(work, 8)
        await trial.follow_page("LlmProxyLatencyBurn")
    finally:
        crowded.cancel()
        await asyncio.wait({crowded})
        stack.signal("limits", SIGCONT)
    await trial.scrape_while(work, 12)
    await trial.scrape(25)
    mended = trial.minute - 1
    stack.stop(name)
    trial.assert_fired("LlmProxyLatencyBurn", calm=calm, fault=fault, mended=mended, severity="page")


async def test_a_sidecar_away_and_then_the_other_too(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """One is frozen, then both are killed."""
    trial = trial_of(stack, tmp_path)
    assert await chat(client, trial) == 200
    await trial.scrape(8)
    calm = trial.minute - 1
    stack.signal("sidecar-2", SIGSTOP)
    await trial.scrape_until(lambda page: 'llm_proxy_sidecars{state="away"} 1.0' in page)
    await trial.scrape(7)
    frozen = trial.minute - 1
    await trial.follow_page("LlmProxySidecarDown")
    stack.signal("sidecar-2", SIGCONT)
    for name in ("sidecar-1", "sidecar-2"):
        await stack.kill(name)
    await trial.scrape_until(lambda page: 'llm_proxy_sidecars{state="live"} 0.0' in page)
    await trial.scrape(3)
    killed = trial.minute - 1
    await trial.follow_page("LlmProxyNoSidecar")
    await restart_sidecars(stack, trial)
    await trial.scrape(3)
    mended = trial.minute - 1
    assert await chat(client, trial) == 200
    trial.assert_fired("LlmProxySidecarDown", calm=calm, fault=frozen, mended=mended)
    trial.assert_fired("LlmProxyNoSidecar", calm=calm, fault=killed, mended=mended)


async def test_a_sidecar_that_recycles_itself_again_and_again(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """After ten calls: a limit that is far too low; its supervisor starts it again each time."""
    name = stack.add_gateway({}, stack.urls("sidecar")[:1])
    stack.start(name)
    trial = trial_of(stack, tmp_path, name)
    spec = stack.specs["sidecar-1"]
    await trial.scrape(5)
    calm = trial.minute - 1
    limit = {"LLM_PROXY_SIDECAR_MAX_CALLS": "10"}
    stack.add("sidecar-1", _with_env(spec, limit), stack.ports["sidecar-1"])
    await stack.kill("sidecar-1")
    await stack.restart("sidecar-1")
    for _ in range(6):
        await trial.scrape_until(lambda page: 'llm_proxy_sidecars{state="live"} 1.0' in page)
        assert {await chat(client, trial) for _ in range(11)} == {200}
        await stack.exit_code("sidecar-1")
        await stack.restart("sidecar-1")
        await trial.scrape()
    fault = trial.minute - 1
    await trial.follow_page("LlmProxySidecarRecycling")
    stack.add("sidecar-1", spec, stack.ports["sidecar-1"])
    await stack.kill("sidecar-1")
    await stack.restart("sidecar-1")
    await trial.scrape(62)
    stack.stop(name)
    trial.assert_fired("LlmProxySidecarRecycling", calm=calm, fault=fault, mended=trial.minute - 1)


def _with_env(spec: Any, more: dict[str, str]) -> Any:
    return replace(spec, env={**spec.env, **more})


async def test_a_killed_gateway(stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """It does not answer; started again, it knows of the calls that were lost."""
    trial = trial_of(stack, tmp_path)
    assert await chat(client, trial) == 200
    await trial.scrape(8)
    calm = trial.minute - 1
    running = [asyncio.create_task(chat(client, trial, do="slow-first", first_ms=20000)) for _ in range(3)]
    await trial.scrape_until(lambda page: "llm_proxy_in_flight 3.0" in page)
    await stack.kill("gateway-1")
    await asyncio.wait(running)
    await trial.scrape(4)
    away = trial.minute - 1
    await trial.follow_page("LlmProxyNoWorker")
    await stack.restart("gateway-1")
    await trial.scrape_until(lambda page: "llm_proxy_ledger_recovered_total" in page)
    await trial.scrape(2)
    lost = trial.minute - 1
    await asyncio.sleep(2)  # until the lost calls are in the database
    await trial.follow_page("LlmProxyCallsLost")
    await trial.scrape(14)
    trial.assert_fired("LlmProxyNoWorker", calm=calm, fault=away, mended=lost)
    trial.assert_fired("LlmProxyCallsLost", calm=calm, fault=lost, mended=trial.minute - 1)


async def test_records_that_cannot_be_read_are_lost(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """A worker's folder with broken lines is found on the disk."""
    trial = trial_of(stack, tmp_path)
    await chat(client, trial)
    await trial.scrape(8)
    calm = trial.minute - 1
    broken = stack.folder / f"spool-{stack.ports['gateway-1']}" / "worker-broken-0"
    broken.mkdir()
    (broken / "000000000001.records").write_bytes(b'["half a rec\n' * 40)
    await trial.scrape_until(lambda page: 'llm_proxy_ledger_dropped_total{cause="unreadable"} 40.0' in page)
    fault = await trial.scrape_while(partial(chat, client, trial), 3)
    await trial.follow_page("LlmProxyRecordsDropped")
    await trial.follow_page("LlmProxyRecordLossBurn")
    await trial.scrape_while(partial(chat, client, trial), 12)
    await trial.scrape(25)
    mended = trial.minute - 1
    trial.assert_fired("LlmProxyRecordsDropped", calm=calm, fault=fault, mended=mended)
    trial.assert_fired("LlmProxyRecordLossBurn", calm=calm, fault=fault, mended=mended, severity="page")


async def test_background_work_that_fails(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Something that is no worker's folder lies in the spool."""
    trial = trial_of(stack, tmp_path)
    await chat(client, trial)
    await trial.scrape(8)
    calm = trial.minute - 1
    odd = stack.folder / f"spool-{stack.ports['gateway-1']}" / "worker-odd" / "lock"
    odd.mkdir(parents=True)
    await trial.scrape_until(lambda page: 'llm_proxy_background_failures_total{loop="' in page)
    await trial.scrape(3)
    fault = trial.minute - 1
    await trial.follow_page("LlmProxyBackgroundFailing")
    odd.rmdir()
    odd.parent.rmdir()
    await asyncio.sleep(6)  # the work is tried again every five seconds
    await trial.scrape(14)
    trial.assert_fired("LlmProxyBackgroundFailing", calm=calm, fault=fault, mended=trial.minute - 1)
