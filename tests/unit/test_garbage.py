"""Garbage is collected, and never in the middle of a change of a context variable."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llm_proxy import garbage

CHANGES_VARIABLES = """
import asyncio, contextvars, gc
from llm_proxy.garbage import IS_SAFE, collect_garbage

VARIABLES = [contextvars.ContextVar(str(number)) for number in range(41)]


class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        global found
        found += 1
        for one in VARIABLES:
            one.set(object())


async def change_variables():
    collect_garbage()
    for round in range(40):
        for objects in range(1, 12):
            for one in VARIABLES:
                one.set(object())
            Garbage()
            value = object()
            gc.set_threshold(gc.get_count()[0] + objects, 1000)
            VARIABLES[-1].set(value)
            VARIABLES[-1].set(value)
            gc.set_threshold(10)
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.3)


found = 0
asyncio.run(change_variables())
if IS_SAFE:
    gc.collect()  # CPython may not have come to the last ones
print(found)
"""
"""Without `collect_garbage` CPython 3.11 crashes in it: what is freed too early is overwritten at once."""


@pytest.fixture
def _usual_collections() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.enable()


def test_garbage_may_change_context_variables() -> None:
    """The garbage of each step is found all the same."""
    env = os.environ | {"PYTHONMALLOC": "debug"}
    ended = subprocess.run(
        [sys.executable, "-c", CHANGES_VARIABLES], env=env, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "440\n"), ended.stderr


@pytest.mark.usefixtures("_usual_collections")
@pytest.mark.skipif(garbage.IS_SAFE, reason="CPython collects by itself from 3.12 on")
def test_each_generation_is_collected_when_it_is_due() -> None:
    """The older two as seldom as CPython would, but never while something is allocated."""
    gc.collect()
    gc.set_threshold(1_000, 2, 2)

    def collections() -> list[int]:
        return [one["collections"] for one in gc.get_stats()]

    async def allocate() -> None:
        garbage.collect_garbage(every_s=0.001)
        assert not gc.isenabled()
        for _ in range(30):
            before = collections()
            kept: list[list[object]] = [[] for _ in range(2_000)]
            assert collections() == before
            await asyncio.sleep(0.005)
            del kept

    before = collections()
    asyncio.run(allocate())
    young, middle, old = (now - was for now, was in zip(collections(), before, strict=True))
    assert young > middle > old > 0
