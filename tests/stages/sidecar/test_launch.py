"""How a sidecar starts, fails to start, and ends."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from processes import lives
from sidecars import KEY, Json, Mode, Provider, Sidecar, deployment, run_sidecar, sidecar_spec

from llm_proxy.sidecar.__main__ import main
from llm_proxy.sidecar.patches.registry import PATCHES
from llm_proxy.stack import probe, process
from llm_proxy.stack.process_specs import sidecar_python

BESIDE = """
from litellm.integrations.custom_logger import CustomLogger

class Beside(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        print("BESIDE SAW", kwargs["litellm_call_id"], flush=True)

instance = Beside()
"""


def failed_start(folder: Path, text: str, port: int, **env: str) -> tuple[int, str]:
    """Return exit code and output of a sidecar that fails to start."""
    file = folder / "litellm.yaml"
    file.write_text(text)
    command = [str(sidecar_python()), "-m", "llm_proxy.sidecar", "--config", str(file), "--port", str(port)]
    given = {"PATH": os.environ["PATH"], "LITELLM_MASTER_KEY": KEY} | env
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=given, timeout=90)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_list: [", "not YAML"),
        ("[]", "not a mapping"),
        ("model_list: [{model_name: a}]", "entry 1 (a): litellm_params.model is missing"),
    ],
)
def test_an_invalid_configuration_is_one_line_and_exit_2(
    tmp_path: Path, free_port: int, text: str, message: str
) -> None:
    """Before LiteLLM is imported."""
    code, output = failed_start(tmp_path, text, free_port)
    assert code == 2
    [line] = output.strip().splitlines()
    assert message in line
    assert "litellm.yaml" in line


def test_a_failed_start_of_litellm_is_one_line_and_exit_4(tmp_path: Path, free_port: int) -> None:
    """A missing callback: LiteLLM's reason on one line."""
    code, output = failed_start(tmp_path, "litellm_settings: {callbacks: [no_such_module.thing]}", free_port)
    assert code == 4
    assert "LiteLLM did not start" in output.strip().splitlines()[-1]


def test_a_protection_without_effect_prevents_the_start_unless_accepted(
    tmp_path: Path, free_port: int
) -> None:
    """One line names what is not accepted, and how to accept it."""
    text = "litellm_settings: {max_budget: 5}\ngeneral_settings: {allowed_ips: [10.0.0.1]}"
    accepted = {"LLM_PROXY_SIDECAR_ACCEPT": "general_settings.allowed_ips"}
    code, output = failed_start(tmp_path, text, free_port, **accepted)
    assert code == 2
    [line] = output.strip().splitlines()
    assert "litellm_settings.max_budget protects and has no effect here (replaced by ours: " in line
    assert "--accept PATH or LLM_PROXY_SIDECAR_ACCEPT" in line
    assert "allowed_ips" not in line


def test_a_guardrail_that_litellm_leaves_out_prevents_the_start(tmp_path: Path, free_port: int) -> None:
    """LiteLLM logs an invalid one and serves without it; development is no reason to."""
    text = (
        "guardrails: [{guardrail_name: codes, litellm_params: {guardrail: litellm_content_filter,"
        " mode: pre_call, default_on: true,"
        " patterns: [{pattern_type: custom, pattern: A-1, name: code, action: BLOCK}]}}]"
    )
    code, output = failed_start(tmp_path, text, free_port, LLM_PROXY_SIDECAR_ACCEPT="*")
    assert code == 4
    assert "it would serve without guardrails.codes" in output.strip().splitlines()[-1]


def test_a_substituted_model_prevents_the_start(tmp_path: Path, free_port: int) -> None:
    """One line names the setting."""
    code, output = failed_start(tmp_path, "general_settings: {completion_model: dear}", free_port)
    assert code == 2
    assert "general_settings.completion_model: answers every such call with dear" in output
    assert "Traceback" not in output


def test_a_port_in_use_is_one_line_and_exit_3(tmp_path: Path) -> None:
    """At once, before LiteLLM's start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        started = time.monotonic()
        code, output = failed_start(tmp_path, "model_list: []", taken.getsockname()[1])
    assert code == 3
    assert "Address already in use" in output
    assert time.monotonic() - started < 5


def test_a_missing_traffic_key_prevents_the_start(tmp_path: Path, free_port: int) -> None:
    """A sidecar is never open."""
    code, output = failed_start(tmp_path, "model_list: []", free_port, LITELLM_MASTER_KEY="")
    assert code == 2
    assert "LITELLM_MASTER_KEY" in output


@contextmanager
def slow_sidecar(
    provider: Provider, folder: Path, more: Json | None = None, **env: str
) -> Generator[Sidecar]:
    """A sidecar with one deployment and an operator's callback beside its configuration."""
    (folder / "beside.py").write_text(BESIDE)
    config: Json = {
        "model_list": [deployment("a", "openai/a", provider)],
        "litellm_settings": {"callbacks": ["beside.instance"]},
        "general_settings": {"master_key": "sk-1234", "database_url": "sqlite:///x.db"},
        **(more or {}),
    }
    env |= {"DATABASE_URL": "postgres://nobody", "NUM_WORKERS": "3"}
    with run_sidecar(config, provider, folder, **env) as started:
        yield started


async def test_sigterm_lets_running_calls_end(provider: Provider, tmp_path: Path) -> None:
    """It reports `leaving` and still accepts calls; a running stream completes; then the process exits."""
    with slow_sidecar(provider, tmp_path, LLM_PROXY_SIDECAR_LEAVE_S="1") as sidecar:
        stream = asyncio.create_task(sidecar.stream("a", "drain", do="slow", frames=20, gap_ms=150))
        async with asyncio.timeout(10):
            while not await provider.calls("drain"):  # noqa: ASYNC110 -- the provider has no event to wait for
                await asyncio.sleep(0.05)
        os.kill(sidecar.pid, signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert (await sidecar.get("/health/liveliness")).json["status"] == "leaving"
        assert (await sidecar.chat("a", "late")).status == 200
        answer = await stream
        assert answer.events[-1] == "[DONE]"
        ended = time.monotonic()
        while lives(sidecar.pid):
            await asyncio.sleep(0.05)
            assert time.monotonic() - ended < 8


async def test_after_max_calls_it_drains_and_exits(provider: Provider, tmp_path: Path) -> None:
    """Its supervisor starts it again; no answer is lost."""
    with slow_sidecar(provider, tmp_path, LLM_PROXY_SIDECAR_MAX_CALLS="3") as sidecar:
        for at in range(4):
            assert (await sidecar.chat("a", f"enough-{at}")).status == 200
        stream = asyncio.create_task(sidecar.stream("a", "last", do="slow", frames=60, gap_ms=150))
        async with asyncio.timeout(10):
            while (await sidecar.get("/health/liveliness")).json["status"] != "leaving":  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.2)
        assert (await stream).events[-1] == "[DONE]"
        async with asyncio.timeout(10):
            while lives(sidecar.pid):  # noqa: ASYNC110 -- the same
                await asyncio.sleep(0.05)
        assert "ending, to be started again" in sidecar.log.read_text()


@pytest.fixture(scope="module")
def operator_sidecar(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar with an operator's configuration, an included file, and a call log without a database."""
    folder = tmp_path_factory.mktemp("owners")
    (folder / "more.yaml").write_text(f"""
model_list:
  - model_name: b
    litellm_params: {{model: openai/b, api_base: {provider.base("openai")}, api_key: os.environ/OWN_NAME}}
  - model_name: c
    litellm_params: {{model: openai/c, api_key: os.environ/NOBODY_S}}
""")
    dead = f"postgres://a:b@127.0.0.1:{probe.free_port()}/x"
    more: Json = {"include": ["more.yaml"]}
    with slow_sidecar(provider, folder, more, OWN_NAME="k", LLM_CALLS_DATABASE_URL=dead) as sidecar:
        yield sidecar


async def test_an_operator_s_configuration_works_with_files_beside_it(operator_sidecar: Sidecar) -> None:
    """Its callback is called; its well-known key, its database and a stray environment have no effect."""
    assert (await operator_sidecar.chat("a", "beside")).status == 200
    async with asyncio.timeout(5):
        while "BESIDE SAW" not in operator_sidecar.log.read_text():  # noqa: ASYNC110 -- a file has no event
            await asyncio.sleep(0.1)
    assert "ignored general_settings.database_url" in operator_sidecar.log.read_text()


async def test_an_included_file_has_the_same_rules(operator_sidecar: Sidecar) -> None:
    """Its deployments are served except those without a key; its variables are read from the environment."""
    names = [one["id"] for one in (await operator_sidecar.get("/v1/models")).json["data"]]
    assert names == ["a", "b"]
    assert (await operator_sidecar.chat("b")).status == 200


async def test_without_any_provider_key_the_sidecar_serves_no_group(
    provider: Provider, tmp_path: Path
) -> None:
    """The sidecar still runs, and the gateway in front of it."""
    with run_sidecar({"model_list": []}, provider, tmp_path) as sidecar:
        assert (await sidecar.get("/v1/models")).json == {"object": "list", "data": []}
        assert (await sidecar.get("/llmp/catalog")).json["groups"] == []
        assert (await sidecar.chat("a")).status in {400, 404, 500}


async def test_an_unreachable_postgres_delays_no_call(operator_sidecar: Sidecar) -> None:
    """The log says once that rows wait."""
    for at in range(5):
        started = time.monotonic()
        assert (await operator_sidecar.chat("a", f"away-{at}")).status == 200
        assert time.monotonic() - started < 1
    await asyncio.sleep(1.5)
    assert operator_sidecar.log.read_text().count("call log:") == 1


def test_the_memory_of_a_process_of_its_own_lies_in_huge_pages(provider: Provider, tmp_path: Path) -> None:
    """Where the kernel makes them; a forked process shares its parent's."""
    file, port = tmp_path / "litellm.yaml", probe.free_port()
    file.write_text(json.dumps({"model_list": [deployment("a", "openai/a", provider)]}))
    code = "from llm_proxy.huge_pages import use_huge_pages; held = b'x' * 2**24; print(use_huge_pages())"
    made = int(subprocess.check_output([sys.executable, "-c", code], text=True))
    started = process.start(sidecar_spec(file, port, {}), tmp_path / "logs")
    try:
        process.wait_until_ready([started])
        memory = Path(f"/proc/{started.popen.pid}/smaps_rollup").read_text()
    finally:
        process.stop([started])
    [size_kib] = map(int, re.findall(r"AnonHugePages: *([0-9]+) kB", memory))
    assert (size_kib > 100 * 1024) == (made > 0)


def test_an_empty_range_of_ports_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """With its numbers in the wrong order."""
    with pytest.raises(SystemExit, match="2"):
        main(["--config", "litellm.yaml", "--port", "4103-4100"])
    assert "4103-4100 is an empty range of ports" in capsys.readouterr().err


def test_the_command_runs_the_sidecar_in_its_own_environment(tmp_path: Path) -> None:
    """`llm-proxy sidecar` passes its arguments on and becomes the process."""
    file = tmp_path / "bad.yaml"
    file.write_text("[]")
    command = [
        sys.executable,
        "-m",
        "llm_proxy",
        "sidecar",
        "--config",
        str(file),
        "--port",
        str(probe.free_port()),
    ]
    env = {"PATH": os.environ["PATH"], "LITELLM_MASTER_KEY": KEY}
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=env)
    assert done.returncode == 2
    assert "not a mapping" in done.stderr


@pytest.fixture(scope="module")
def unpatched(
    provider: Provider, tmp_path_factory: pytest.TempPathFactory, cache_redis_url: str
) -> Iterator[Sidecar]:
    """A sidecar as on a release without tested patches; a group for each mode."""
    groups = [deployment(name, f"openai/{name}", provider) for name in ("chat", "stream", "embed")]
    config: Json = {"model_list": groups, "router_settings": {"num_retries": 0}}
    without = {"CACHE_REDIS_URL": cache_redis_url, "LLM_PROXY_SIDECAR_WITHOUT": "all"}
    with run_sidecar(config, provider, tmp_path_factory.mktemp("unpatched"), **without) as sidecar:
        yield sidecar


@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_a_sidecar_without_patches_still_answers(unpatched: Sidecar, mode: Mode) -> None:
    """A line for each patch says that it is off.

    What was not recorded is unknown; an error keeps its status.
    """
    mark = f"unpatched-{uuid4()}"
    for _ in range(2):
        answer = await unpatched.ask(mode, mode, mark, do="ok")
        assert answer.status == 200
        assert answer.content if mode == "stream" else answer.json["choices"][0]["message"]["content"]
        assert answer.headers["x-llmp-attempts"] == "unknown"
    assert len(await unpatched.provider.calls(mark)) == 2
    for how in ("status-400", "status-500", "status-429"):
        failed = await unpatched.ask(mode, mode, f"{how}-{uuid4()}", do=how)
        assert (failed.status, failed.headers["x-llmp-provider-status"]) == (int(how[-3:]), how[-3:])
    assert (await unpatched.post("/v1/embeddings", {"model": "embed", "input": mark})).status == 200
    log = unpatched.log.read_text()
    for patch in PATCHES:
        assert f"patch {patch.name} is off" in log
