"""Work that LiteLLM does on each call for unused features, counted by a profiler in a running sidecar."""

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sidecars import Json, Provider, Sidecar, deployment, run_sidecar
from warm_sidecars import passed_on

from llm_proxy.garbage import IS_SAFE
from llm_proxy.sidecar.environment import REQUIRED
from llm_proxy.sidecar.launch import GC_THRESHOLD
from llm_proxy.sidecar.litellm_internals import RESPONSE_IDS_HOOK
from llm_proxy.sidecar.patches.performance import IDLE_HOOKS
from llm_proxy.stack.process_specs import sidecar_python

CALLBACK_MODULE = """
import gc, json, sys
from collections import Counter
from pathlib import Path
from litellm.integrations.custom_logger import CustomLogger

CALLED, FILE = Counter(), Path(__file__).with_name("called.json")


def count(frame, event, _):
    if event == "call":
        CALLED[frame.f_globals.get("__name__", ""), frame.f_code.co_name] += 1


class Counting(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        CALLED["calls", ""] += 1
        CALLED["gc threshold", ""] = gc.get_threshold()[0]
        CALLED["gc enabled", ""] = int(gc.isenabled())
        part = FILE.with_suffix(".part")
        part.write_text(json.dumps({".".join(name): times for name, times in dict(CALLED).items()}))
        part.rename(FILE)


instance = Counting()
sys.setprofile(count)
"""
"""An owner's module beside the file: it counts every Python function that is called from then on."""
NEEDLESS = {
    "limits": ("litellm.router._increment_deployment_usage",),
    "hooks": tuple(
        f"litellm.proxy.hooks.{name}.{hook}"
        for name in (
            *IDLE_HOOKS,
            RESPONSE_IDS_HOOK,
            "parallel_request_limiter_v3",
            "model_max_budget_limiter",
        )
        for hook in ("async_pre_call_hook", "async_pre_call_deployment_hook", "async_log_success_event")
    ),
}
CALLS = 3


@pytest.fixture(scope="module")
def profiled(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sidecar, Path]]:
    """A sidecar whose function calls are counted, and the counts' file."""
    folder = Path(tmp_path_factory.mktemp("profiled"))
    (folder / "owners.py").write_text(CALLBACK_MODULE, encoding="utf-8")
    config: Json = {
        "model_list": [deployment("a", "openai/a", provider)],
        "litellm_settings": {"callbacks": ["owners.instance"]},
    }
    with run_sidecar(config, provider, folder) as started:
        yield started, folder / "called.json"


def counts(file: Path) -> Counter[str]:
    """Return how often each function was called so far."""
    return Counter(json.loads(file.read_text()) if file.exists() else {})


async def counts_after(file: Path, calls: int) -> Counter[str]:
    """Return the counts once that many calls are over."""
    async with asyncio.timeout(20):
        while counts(file)["calls."] < calls:  # noqa: ASYNC110 -- a file has no event
            await asyncio.sleep(0.05)
    return counts(file)


@pytest.mark.parametrize("patch", NEEDLESS)
async def test_a_call_does_no_unused_work(profiled: tuple[Sidecar, Path], patch: str) -> None:
    """After the first call of a deployment."""
    sidecar, file = profiled
    assert (await sidecar.chat("a", str(uuid4()))).status == 200
    before = await counts_after(file, 1)
    for _ in range(CALLS):
        assert (await sidecar.chat("a", str(uuid4()))).status == 200
    during = await counts_after(file, before["calls."] + CALLS) - before
    assert during["litellm.main.acompletion"] >= CALLS
    assert {name: during[name] for name in NEEDLESS[patch] if during[name]} == {}


async def test_garbage_is_collected_seldom(profiled: tuple[Sidecar, Path]) -> None:
    """A call of LiteLLM's allocates thousands of objects."""
    sidecar, file = profiled
    before = counts(file)["calls."]
    assert (await sidecar.chat("a", str(uuid4()))).status == 200
    found = await counts_after(file, before + 1)
    assert (found["gc threshold."], found["gc enabled."]) == (GC_THRESHOLD, IS_SAFE)


async def test_an_observed_call_is_never_direct(profiled: tuple[Sidecar, Path]) -> None:
    """LiteLLM makes the event that an owner's callback reads."""
    sidecar, file = profiled
    before = counts(file)["calls."]
    for _ in range(CALLS):
        assert (await sidecar.chat("a", str(uuid4()))).status == 200
    assert (await sidecar.get("/health/readiness")).json["direct"] == 0
    await counts_after(file, before + CALLS)


async def test_a_stream_does_no_unused_work(profiled: tuple[Sidecar, Path]) -> None:
    """Connections have one timer for all that they read."""
    sidecar, file = profiled
    before = await counts_after(file, 0)
    assert (await sidecar.stream("a", str(uuid4()), do="ok", frames=20, gap_ms=2)).status == 200
    during = await counts_after(file, before["calls."] + 1) - before
    assert during["aiohttp.client_proto.data_received"] > 20
    assert during["aiohttp.client_proto._reschedule_timeout"] < 10


def test_litellm_prepares_no_routes(tmp_path: Path) -> None:
    """But for those of modules that it imports later; there would be 640, which get no requests."""
    file = tmp_path / "litellm.yaml"
    file.write_text("model_list: []", encoding="utf-8")
    code = (
        "import gc, sys; from pathlib import Path; from llm_proxy.sidecar import launch;"
        "launch.prepare(Path(sys.argv[1])); from fastapi.routing import APIRoute; gc.unfreeze();"
        "print('ROUTES', sum(isinstance(one, APIRoute) for one in gc.get_objects()))"
    )
    env = passed_on() | REQUIRED
    command = [str(sidecar_python()), "-c", code, str(file)]
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=env)
    [count] = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ROUTES")]
    assert count < 50
