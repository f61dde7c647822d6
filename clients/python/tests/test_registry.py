"""The providers of a process, where figures are read in another thread than that of the calls."""

import sys
import threading
from collections.abc import Iterator

import pytest

from llm_proxy_service.registry import ProviderRegistry

MODELS = 2000


@pytest.fixture(autouse=True)
def _switching_often() -> Iterator[None]:
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


def test_providers_are_listed_while_calls_add_models() -> None:
    registry = ProviderRegistry("service", {"OPENAI_API_KEY": "sk-test"})

    def call() -> None:
        for number in range(MODELS):
            registry.stages(f"gpt-{number}", None, "chat", set(), failover=True)

    calls = threading.Thread(target=call)
    calls.start()
    while calls.is_alive():
        assert registry.names() == ["openai"]
        assert {place.name for place in registry.places("openai")} <= {"openai"}
    assert len(registry.places("openai")) == MODELS
