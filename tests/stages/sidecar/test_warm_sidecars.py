"""The test run's sidecars are forks of one process: they are what a start of their own would be."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from processes import children, lives, parent_of
from sidecars import Provider, deployment, forked_sidecars_spec, run_sidecar, sidecar_spec
from waiting import until
from warm_sidecars import can_be_forked, start

from llm_proxy.stack import process
from llm_proxy.stack.probe import free_port

ANEW = "LiteLLM is imported anew"


class Interrupted(Exception):  # noqa: N818 -- as pytest names its own
    """Raised in the place of pytest's timeout."""


def sidecars_of(parent: int) -> set[int]:
    """Return the forked processes that have not ended."""
    return {pid for pid in children(parent) if lives(pid)}


def folder_of(pid: int) -> Path:
    """Return where a process runs."""
    return Path(f"/proc/{pid}/cwd").readlink()


async def test_one_variable_that_litellm_s_import_reads_is_a_reason_to_import_it_anew(
    provider: Provider, tmp_path: Path
) -> None:
    config = {"model_list": [deployment("chat", "openai/gpt-4o-mini", provider)]}
    with (
        run_sidecar(config, provider, tmp_path) as usual,
        run_sidecar(config, provider, tmp_path, JITTER="0.2") as other,
    ):
        for sidecar in (usual, other):
            assert (await sidecar.chat("chat")).status == 200
            assert folder_of(sidecar.pid) == tmp_path
        assert ANEW not in usual.log.read_text()
        assert f"{ANEW}: JITTER differ" in other.log.read_text()


def test_its_exit_code_is_known(tmp_path: Path) -> None:
    config = tmp_path / "litellm.yaml"
    config.write_text("model_list: [")
    with pytest.raises(process.ProcessFailed, match="ended with code 2"):
        process.wait_until_ready([start(sidecar_spec(config, free_port(), {}), tmp_path)])


def test_it_is_killed_as_another_process(tmp_path: Path) -> None:
    config = tmp_path / "litellm.yaml"
    config.write_text("model_list: []")
    started = start(sidecar_spec(config, free_port(), {}), tmp_path)
    started.popen.kill()
    assert started.popen.wait(20) == -signal.SIGKILL
    assert process.stop([started]) == []


def test_a_start_that_was_given_up_leaves_no_sidecar_and_is_no_other_s_answer(tmp_path: Path) -> None:
    config = tmp_path / "litellm.yaml"
    config.write_text("model_list: []")

    def interrupt(*_: object) -> NoReturn:
        raise Interrupted

    started = start(sidecar_spec(config, free_port(), {}), tmp_path)
    others = sidecars_of(parent := parent_of(started.popen.pid)) - {started.popen.pid}
    before = signal.signal(signal.SIGALRM, interrupt)
    os.kill(parent, signal.SIGSTOP)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Interrupted):
            start(sidecar_spec(config, free_port(), {}), tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)
        os.kill(parent, signal.SIGCONT)
    started.popen.kill()
    assert started.popen.wait(20) == -signal.SIGKILL
    until(lambda: sidecars_of(parent) <= others)


def test_another_release_s_sidecar_is_no_fork(tmp_path: Path) -> None:
    config = tmp_path / "litellm.yaml"
    ours = sidecar_spec(config, 1, {})
    assert can_be_forked(ours)
    assert not can_be_forked(replace(ours, argv=(ours.argv[0], "older/llm_proxy/sidecar/entry.py")))
    assert not can_be_forked(replace(ours, env={**ours.env, "PYTHONPATH": "older"}))
    assert not can_be_forked(forked_sidecars_spec(config, [1, 2], {}))
