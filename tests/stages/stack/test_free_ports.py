"""Ports for services that will listen soon: two that start at the same time get different ones."""

import random
import subprocess
import sys

from llm_proxy.stack.environments import CHECKOUT
from llm_proxy.stack.probe import free_port

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


def test_a_process_that_draws_many_ports_keeps_few_of_them() -> None:
    """More than a process may have files open."""
    assert len([free_port() for _ in range(2_000)]) == 2_000
