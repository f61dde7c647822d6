"""Which key a gateway seals with, by its settings."""

from typing import Any

from llm_proxy.app.stages import build_sealer
from llm_proxy.rotation import OldSecretUses
from llm_proxy.settings import Settings


def sealer_of(**given: Any) -> Any:
    """What a gateway with these settings seals with."""
    settings = Settings.model_validate({"llm_mode": "mock", **given})
    return build_sealer(settings, OldSecretUses(lambda _setting, _uses: None))


def test_workers_in_development_share_a_key() -> None:
    """Made of the sidecar's key, which all of them have; another stack's opens nothing."""
    one, other = (sealer_of(environment="development", litellm_api_key="sk-shared") for _ in range(2))
    token = one.seal("responses.id", b"x")
    assert other.open("responses.id", token) == b"x"
    stranger = sealer_of(environment="development", litellm_api_key="sk-else")
    assert stranger.open("responses.id", token) is None


def test_a_development_token_outlives_the_exchange_of_the_sidecar_s_key() -> None:
    """While both keys are set."""
    token = sealer_of(environment="development", litellm_api_key="sk-old").seal("responses.id", b"x")
    both = sealer_of(environment="development", litellm_api_key="sk-new,sk-old")
    assert both.open("responses.id", token) == b"x"


def test_stated_keys_count_first() -> None:
    """In development too."""
    keys = f"k1={'s' * 32}"
    assert sealer_of(environment="development", sealing_keys=keys).seal("p", b"x").startswith("k1.")


def test_without_a_key_production_seals_nothing() -> None:
    """Nothing is made up there."""
    assert sealer_of(environment="production") is None
