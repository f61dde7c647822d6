"""The providers of a process: their classes, and lists of them that another thread reads."""

import sys
import threading
from collections.abc import Iterator

import pytest

from llm_proxy_service import LLMProvider, ModelConfig, ProviderConfig
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


def test_a_class_of_provider_takes_its_own_kind_only() -> None:
    """Each kind has one class, whose name is in the error."""
    for kind in LLMProvider:
        fitting: list[str] = []
        for made in ProviderConfig.__subclasses__():
            try:
                made(ModelConfig(provider=kind, model_name="m"))
            except ValueError as error:
                assert f"{made.__name__} is for " in str(error)  # noqa: PT017 -- one of them raises nothing
            else:
                fitting.append(made.__name__.lower())
        assert fitting == [f"{kind.value}provider"]
