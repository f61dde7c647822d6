"""The face without an event loop, at a provider in the place of a gateway: threads, the end, left streams."""

import gc
import inspect
import json
import logging
import threading
from collections.abc import Iterator

import pytest
import scripted_providers

from llm_proxy_service import LLMProxyError, LLMProxyService, SyncLLMProxyService, create_completion_request

SOON_S = 20
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""anyio leaves an attempt to connect behind when it is cancelled at its first step."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with scripted_providers.running(1) as (one,):
        yield one


def test_both_faces_are_made_with_the_same_arguments() -> None:
    assert inspect.signature(SyncLLMProxyService) == inspect.signature(LLMProxyService)
    assert "cache_ttl" in inspect.signature(SyncLLMProxyService).parameters


def run(threads: list[threading.Thread]) -> list[threading.Thread]:
    """Those that did not come to an end."""
    for one in threads:
        one.start()
    for one in threads:
        one.join(SOON_S)
    return [one for one in threads if one.is_alive()]


def test_a_stop_ends_every_call_of_every_thread(address: str) -> None:
    """Calls that run, calls that come later, and a second stop: each comes to an end."""
    for _ in range(5):
        service = SyncLLMProxyService(base_url=address, max_retries=0)
        service.start()
        codes: list[str | None] = []

        def ask_until_stopped(
            service: SyncLLMProxyService = service, codes: list[str | None] = codes
        ) -> None:
            while "stopped" not in codes[-1:]:
                try:
                    service.generate_completion(create_completion_request("Say hi", model="plain"))
                except LLMProxyError as error:
                    codes.append(error.code)

        callers = [threading.Thread(target=ask_until_stopped, daemon=True) for _ in range(4)]
        stops = [threading.Thread(target=service.stop, daemon=True) for _ in range(2)]
        assert run(callers[:2] + stops + callers[2:]) == []
        assert set(codes) <= {"stopped", "connection_broken"}
        with pytest.raises(LLMProxyError, match="was stopped"):
            service.health_check()


class Collecting(logging.Handler):
    """Has Python collect garbage wherever a line is logged: httpx does so in the loop's thread."""

    def emit(self, record: logging.LogRecord) -> None:
        del record
        gc.collect()


def test_a_forgotten_stream_does_not_block_the_service(address: str) -> None:
    """It is part of a cycle of objects, so that the collector ends it, in the thread of the calls."""
    log, collecting = logging.getLogger("httpx"), Collecting()
    slow = create_completion_request(json.dumps({"do": "slow", "gap_ms": 50, "frames": 400}), model="plain")

    def forget_and_go_on() -> None:
        gc.disable()
        chunks = service.generate_streaming_completion(slow)
        next(chunks)
        cycle: list[object] = [chunks]
        cycle.append(cycle)
        del chunks, cycle
        answered.append(service.generate_completion(create_completion_request("hi", model="plain")).content)

    answered: list[str] = []
    service = SyncLLMProxyService(base_url=address)
    log.setLevel(logging.INFO)
    log.addHandler(collecting)
    try:
        assert run([threading.Thread(target=forget_and_go_on, daemon=True)]) == []
    finally:
        gc.enable()
        log.removeHandler(collecting)
        log.setLevel(logging.NOTSET)
    assert answered[0]
    service.stop()
