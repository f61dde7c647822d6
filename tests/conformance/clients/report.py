"""One client's checks, told as one JSON object on standard output; standard library only.

A client's program runs in that client's own environment against a running gateway. `BASE_URL` and `API_KEY`
are all a client is given; `PROVIDER_URL` is for looking behind: what the scripted provider was asked.
"""

import asyncio
import inspect
import json
import os
import time
import urllib.request
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

BASE_URL = os.environ["BASE_URL"]
API_KEY = os.environ["API_KEY"]
PROVIDER_URL = os.environ["PROVIDER_URL"]
CITY = '{"city": "Oslo"}'
PATIENCE_S = 40
SEEN_S = 4.0

Check = Callable[[], Awaitable[object] | object]

ROUTER_CALLS = 2
"""A failing provider is tried twice by the sidecar's router; see `conformance.py`."""


def play(**directive: Any) -> str:
    """A user's message that tells the provider what to answer; `do` comes first."""
    return "please " + json.dumps({"do": "ok"} | directive)


def calls() -> list[dict[str, Any]]:
    """The calls the provider was sent since the last check began."""
    with urllib.request.urlopen(f"{PROVIDER_URL}/_calls", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["calls"]
    return found


def forget() -> None:
    """Wipes the provider's memory."""
    urllib.request.urlopen(
        urllib.request.Request(f"{PROVIDER_URL}/_reset", method="POST"), timeout=10
    ).close()


def left_by_the_caller() -> bool:
    """Whether the provider sees, soon, that its caller hung up in the middle of an answer."""
    end = time.monotonic() + SEEN_S
    while time.monotonic() < end:
        if any(call["client_left_s"] is not None for call in calls()):
            return True
        time.sleep(0.1)
    return False


def expect(truth: object, otherwise: str) -> None:
    """Fails the check with these words unless it holds."""
    if not truth:
        raise AssertionError(otherwise)


def once(check: Check) -> Check:
    """The same check, after which the provider must have been called as often as the router says, no more."""

    async def checked() -> None:
        found = check()
        if inspect.isawaitable(found):
            await found
        expect(len(calls()) == ROUTER_CALLS, f"{len(calls())} calls at the provider")

    return checked


def raises(
    kind: type[BaseException] | tuple[type[BaseException], ...], call: Callable[[], object]
) -> BaseException:
    """The exception a call must end in; wrappers are looked through to their cause."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 -- which one it is, is the question
        return _as(kind, error)
    raise AssertionError("no exception")


async def araises(
    kind: type[BaseException] | tuple[type[BaseException], ...], call: Callable[[], Awaitable[object]]
) -> BaseException:
    """The same for a coroutine function."""
    try:
        await call()
    except Exception as error:  # noqa: BLE001 -- the same
        return _as(kind, error)
    raise AssertionError("no exception")


def _as(kind: type[BaseException] | tuple[type[BaseException], ...], error: BaseException) -> BaseException:
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, kind):
            return found
        found = found.__cause__ or found.__context__
    raise AssertionError(f"{type(error).__module__}.{type(error).__name__}: {str(error)[:200]}")


def tell(client: str, package: str, checks: dict[str, Check]) -> None:
    """Runs the checks of an installed package one after the other and prints what came of them."""
    tell_version(client, metadata.version(package), checks)


def tell_version(client: str, version: str, checks: dict[str, Check]) -> None:
    """The same for what is no package."""
    results = {name: _run(check) for name, check in checks.items()}
    print(json.dumps({"client": client, "version": version, "checks": results}))


def _run(check: Check) -> str:
    """An empty text when it holds, else what was wrong."""
    forget()
    try:
        found = check()
        if inspect.isawaitable(found):
            asyncio.run(_within(found))
    except AssertionError as wrong:
        return str(wrong)[:300] or "not as expected"
    except Exception as error:  # noqa: BLE001 -- any exception is a failed check
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


async def _within(found: Awaitable[object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await found
