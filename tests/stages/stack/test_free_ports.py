"""Ports for services that will listen soon: two that start at the same time get different ones."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from llm_proxy.stack.environments import CHECKOUT
from llm_proxy.stack.probe import MAX_RESERVED, free_port

SEED = 7
DRAW = f"import random; random.seed({SEED}); from llm_proxy.stack.probe import free_port; print(free_port())"


def test_a_port_is_not_drawn_again_before_its_service_listens() -> None:
    """Neither by this process nor by another one, which draws the same numbers."""
    drawn: list[int] = []
    for _ in range(2):
        random.seed(SEED)
        drawn.append(free_port())
    done = subprocess.run(
        [sys.executable, "-c", DRAW], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert len({*drawn, int(done.stdout)}) == 3, (drawn, done.stdout)
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files through /proc")
def test_a_process_that_draws_many_ports_keeps_few_of_them() -> None:
    """It holds a file open for each port that it keeps."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3 * MAX_RESERVED):
        free_port()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= MAX_RESERVED
