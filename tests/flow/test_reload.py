"""Rolling restarts of the sidecars under load; a bad configuration changes nothing."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import yaml
from dotenv import dotenv_values
from processes import descendants
from prometheus_page import series
from reloaded_stack import reload, steady_load, write
from running_stack import Json
from sidecars import Provider, deployment, run_provider
from up_command import UpCommand, bare_environment, run_up

WORDS = ("--no-local-model", "--no-stores", "--config", "litellm.yaml")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


@pytest.fixture(scope="module")
def played(service_folder: Path) -> Iterator[Provider]:
    """The scripted provider."""
    with run_provider(service_folder) as provider:
        yield provider


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, played: Provider) -> Iterator[UpCommand]:
    """A stack with two sidecars and the scripted provider; its files are not watched."""
    folder = tmp_path_factory.mktemp("reload")
    write(folder, played, "steady")
    settings = "LLM_PROXY__ENVIRONMENT=production\nLLM_PROXY__DRAIN_DELAY_S=0\n"
    (folder / ".env").write_text(settings, encoding="utf-8")
    with run_up(folder, *WORDS, "--sidecars", "2") as up:
        up.wait_for("Ctrl-C stops everything")
        yield up


def sidecars(stack: UpCommand) -> list[int]:
    """The process ids of the sidecars."""
    return sorted(worker for pid in stack.sidecars() for worker in descendants(pid))


def settled(stack: UpCommand) -> list[int]:
    """The sidecars' process ids, when those that an earlier reload replaced have ended."""
    end = time.monotonic() + 30
    while len(found := sidecars(stack)) > 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def metrics(stack: UpCommand) -> str:
    """The page for Prometheus."""
    key = dotenv_values(stack.folder / ".env")["LLM_PROXY__ADMIN_KEY"]
    url = f"http://127.0.0.1:{stack.port}/metrics"
    return httpx.get(url, headers={"authorization": f"Bearer {key}"}).text


async def served(stack: UpCommand) -> set[str]:
    """The groups the gateway lists."""
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{stack.port}/v1", api_key=stack.client().api_key
    ) as sdk:
        return {model.id async for model in sdk.models.list()}


async def until_served(stack: UpCommand, groups: set[str]) -> None:
    """Waits until the gateway lists exactly these groups."""
    async with asyncio.timeout(120):
        while await served(stack) != groups:  # noqa: ASYNC110 -- another process changes it
            await asyncio.sleep(0.1)


async def test_sidecars_are_replaced_under_load_and_no_call_is_lost(
    stack: UpCommand, played: Provider
) -> None:
    """New ones with the new groups take over, streams at the old ones complete, then the old ones stop.

    The command prints each step, and the changed settings that are read at a start only.
    """
    before = sidecars(stack)
    async with steady_load(stack) as load:
        await asyncio.sleep(1)
        write(stack.folder, played, "steady", "added")
        with (stack.folder / ".env").open("a", encoding="utf-8") as given:
            given.write("LOCAL_MODEL_GGUF=password-never-printed\nLLM_PROXY__PORT=7\n")
        done = await asyncio.to_thread(reload, stack)
        assert done.returncode == 0, done.stderr
        ignored, started, ready, taken_over = done.stdout.splitlines()
        assert ignored == "changed, but read at the start only: LLM_PROXY__PORT, LOCAL_MODEL_GGUF"
        assert started == "starting sidecars-2 with the new configuration"
        assert ready.startswith("sidecars-2 is ready after ")
        assert taken_over == "sidecars-2 took over from sidecars-1"
        assert await served(stack) == {"steady", "added"}, "the command ends when its change serves"
        await asyncio.to_thread(stack.wait_for, "sidecars-1 has drained and stopped")
        await asyncio.sleep(1)
    assert load.failed == []
    assert load.answered > 50
    assert load.streamed > 20
    assert "password-never-printed" not in done.stdout + stack.output
    assert len(sidecars(stack)) == 2
    assert not set(sidecars(stack)) & set(before)
    counted = metrics(stack)
    assert series(counted, "llm_proxy_sidecars") == {
        frozenset({("state", "away")}): 0,
        frozenset({("state", "ejected")}): 0,
        frozenset({("state", "live")}): 2,
        frozenset({("state", "unknown")}): 0,
    }
    assert "127.0.0.1" not in counted


def admin(stack: UpCommand) -> httpx.Client:
    """A client with the admin key."""
    key = dotenv_values(stack.folder / ".env")["LLM_PROXY__ADMIN_KEY"]
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{stack.port}", headers=headers, timeout=20)


def reload_by_admin(client: httpx.Client) -> Json:
    """Requests a reload, waits until it has ended, and returns its status."""
    answer = client.post("/admin/reload")
    assert answer.status_code == 202, answer.text
    end = time.monotonic() + 120
    while time.monotonic() < end:
        status: Json = client.get("/admin/reload").json()
        last = status["last"]
        if last and last["began_ns"] >= answer.json()["requested_ns"] and last["done"] is not None:
            return status
        time.sleep(0.1)
    raise AssertionError("the reload has not ended")


def test_an_admin_sees_what_the_file_holds_reloads_it_and_follows_that(
    stack: UpCommand, played: Provider
) -> None:
    """The findings of the file as it is, who has loaded it, and a rejected reload with its reason."""
    with admin(stack) as client:
        write(stack.folder, played, "steady", router_settings={"num_retrys": 1})
        before = client.get("/admin/config").json()
        assert before["file"] == "litellm.yaml"
        assert [one["changed"] for one in before["sidecars"]] == [True, True]
        [found] = [one for one in before["findings"] if one["fault"]]
        assert (found["where"], found["prevents_start"]) == ("router_settings.num_retrys", False)
        status = reload_by_admin(client)
        assert (status["available"], status["instructions"], status["last"]["done"]) == (True, None, True)
        assert "took over" in status["last"]["lines"][-1]
        end = time.monotonic() + 20
        while True:  # the gateways follow within a second
            after = client.get("/admin/config").json()
            if [one["changed"] for one in after["sidecars"]] == [False, False]:
                break
            assert time.monotonic() < end
            time.sleep(0.1)
        assert after["findings"] == before["findings"]
        (stack.folder / "litellm.yaml").write_text("model_list: [", encoding="utf-8")
        [broken] = client.get("/admin/config").json()["findings"]
        assert broken["prevents_start"]
        status = reload_by_admin(client)
        assert status["last"]["done"] is False
        assert "while parsing" in "".join(status["last"]["lines"])
        write(stack.folder, played, "steady")


@pytest.mark.parametrize(
    ("invalid", "reason"),
    [
        ("model_list: [", "while parsing"),
        ("model_list: 7\n", "model_list is not a list"),
        ("model_lits: []\n", "LiteLLM ignores this key; did you mean model_list?"),
        ("general_settings: {completion_model: dear}\nmodel_list: []\n", "answers every such call with dear"),
    ],
)
async def test_an_invalid_configuration_is_rejected_and_the_old_one_stays(
    stack: UpCommand, invalid: str, reason: str
) -> None:
    """With the reason, exit code 1, and the same processes."""
    before, groups = settled(stack), await served(stack)
    (stack.folder / "litellm.yaml").write_text(invalid, encoding="utf-8")
    done = await asyncio.to_thread(reload, stack)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.endswith("llm-proxy: rejected; the old configuration stays\n")
    assert (sidecars(stack), await served(stack)) == (before, groups)


async def test_a_fault_that_keeps_no_sidecar_from_starting_is_served(
    stack: UpCommand, played: Provider
) -> None:
    """`config check` names the fallback; LiteLLM gets the file without it."""
    write(stack.folder, played, "steady", litellm_settings={"fallbacks": [{"steady": ["nobody"]}]})
    done = await asyncio.to_thread(reload, stack)
    assert done.returncode == 0, done.stderr


async def test_a_configuration_litellm_does_not_start_with_is_rejected_with_its_error(
    stack: UpCommand, played: Provider
) -> None:
    """What only LiteLLM can check is checked before an old sidecar drains."""
    before = settled(stack)
    write(stack.folder, played, "steady", litellm_settings={"callbacks": ["no_such_module.thing"]})
    done = await asyncio.to_thread(reload, stack)
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert sidecars(stack) == before


async def test_new_sidecars_that_cannot_start_leave_nothing(stack: UpCommand, played: Provider) -> None:
    """Here their log cannot be opened."""
    settled(stack)
    before = set(descendants(stack.process.pid))
    write(stack.folder, played, "steady")
    logs = stack.folder / ".local" / "logs"
    blocked = [logs / f"sidecars-{number}.log" for number in range(1, 20)]
    for log in blocked:
        if log.exists():
            log.replace(log.with_suffix(".kept"))
        log.mkdir()
    try:
        done = await asyncio.to_thread(reload, stack)
    finally:
        for log in blocked:
            log.rmdir()
    assert done.returncode == 1
    assert "Is a directory" in done.stderr
    assert set(descendants(stack.process.pid)) == before


def test_a_reload_without_a_running_stack_is_one_line(tmp_path: Path) -> None:
    """And exit code 1."""
    argv = [sys.executable, "-m", "llm_proxy", "reload"]
    done = subprocess.run(
        argv, cwd=tmp_path, env=bare_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("llm-proxy: no `llm-proxy up` runs on .local/")


async def test_in_development_a_changed_file_is_enough(tmp_path: Path, played: Provider) -> None:
    """No command is needed; a new key file counts too. A reload right after waits for the one that runs."""
    write(tmp_path, played, "steady")
    keyed = deployment("keyed", "openai/keyed", played, api_key="os.environ/A_NEW_API_KEY")
    plain = deployment("steady", "openai/steady", played, api_key="none")
    with run_up(tmp_path, *WORDS) as up:
        up.wait_for("Ctrl-C stops everything")
        document = yaml.safe_dump({"model_list": [plain, keyed]})
        (tmp_path / "litellm.yaml").write_text(document, encoding="utf-8")
        await asyncio.to_thread(up.wait_for, "sidecars-2 took over from sidecars-1")
        assert await served(up) == {"steady"}
        (tmp_path / ".keys").mkdir()
        (tmp_path / ".keys" / "A_NEW_API_KEY").write_text("sk-new", encoding="utf-8")
        await until_served(up, {"steady", "keyed"})
        (tmp_path / "litellm.yaml").write_text(yaml.safe_dump({"model_list": [plain]}), encoding="utf-8")
        await asyncio.to_thread(up.wait_for, "with the new configuration", 3)
        done = await asyncio.to_thread(reload, up)
        assert (done.returncode, "took over from" in done.stdout) == (0, True), done.stdout
        assert await served(up) == {"steady"}
        assert up.output.count("with the new configuration") == 3
