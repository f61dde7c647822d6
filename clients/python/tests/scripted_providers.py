"""Scripted providers as processes, and what they saw, for the tests of both modes."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

PROGRAM = Path(__file__).parents[3] / "tests" / "scripted_provider.py"
VARIABLE = "SCRIPTED_PROVIDERS"


@contextmanager
def running(count: int, cast: dict[str, str] | None = None) -> Generator[list[str]]:
    """The addresses of so many providers, until the block ends; `cast` says what some models play."""
    env = {**os.environ, "SCRIPTED_CAST": json.dumps(cast or {})}
    started = [
        subprocess.Popen([sys.executable, PROGRAM], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        yield [f"http://127.0.0.1:{(one.stdout or sys.stdin).readline().strip()}" for one in started]
    finally:
        for one in started:
            one.terminate()
        for one in started:
            one.communicate()


def addresses() -> list[str]:
    """The providers' addresses, as the test that started this process passed them on."""
    found: list[str] = json.loads(os.environ[VARIABLE])
    return found


def reset() -> None:
    """Let every provider forget its calls."""
    for address in addresses():
        httpx.post(f"{address}/_reset").raise_for_status()


def calls(number: int) -> list[dict[str, Any]]:
    """The calls that a provider saw."""
    return seen_by(addresses()[number])


def seen_by(address: str) -> list[dict[str, Any]]:
    """The calls that the provider at an address saw."""
    seen: list[dict[str, Any]] = httpx.get(f"{address}/_calls").json()["calls"]
    return seen


def counts() -> list[int]:
    """How many calls each provider saw."""
    return [len(calls(number)) for number in range(len(addresses()))]
