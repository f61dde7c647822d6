"""What the headers of an answer say."""

import pytest

from llm_proxy.dialects import Call
from llm_proxy.upstream.said import served

CALL = Call("chat.completions", "openai", "asked", "group", {})
TOLD = {
    b"x-litellm-model-id": b"one",
    b"x-litellm-model-group": b"other",
    b"x-litellm-model-name": b"openai/gpt",
    b"x-litellm-response-cost": b"0.0000000011",
    b"x-litellm-attempted-retries": b"2",
    b"x-litellm-attempted-fallbacks": b"1",
    b"x-litellm-overhead-duration-ms": b"4.5",
}


def test_everything_said_is_read() -> None:
    """Money is rounded up to a whole nano-dollar; attempts are the first and what followed."""
    found = served(TOLD, CALL, None, cached=True)
    assert (found.group, found.provider, found.physical, found.deployment) == (
        "other",
        "openai",
        "gpt",
        "one",
    )
    assert (found.cost_nano_usd, found.attempts, found.sidecar_ms, found.cache) == (2, 4, 4.5, "miss")


def test_nothing_said_is_unknown() -> None:
    """An unmodified LiteLLM behind something that strips headers."""
    found = served({}, CALL, None, cached=False)
    assert (found.group, found.provider, found.physical, found.deployment) == ("group", None, None, None)
    assert (found.cost_nano_usd, found.attempts, found.sidecar_ms, found.cache) == (None, 1, None, "off")


def test_an_answer_from_the_cache_cost_nothing() -> None:
    """Whatever its headers repeat of the call that filled it."""
    found = served({**TOLD, b"x-litellm-cache-key": b"k"}, CALL, None, cached=True)
    assert (found.cost_nano_usd, found.attempts, found.cache) == (0, 0, "hit")


@pytest.mark.parametrize("text", [b"", b"None", b"nan", b"-1", b"\xff"])
def test_a_number_that_is_none_is_not_said(text: bytes) -> None:
    """LiteLLM writes `None` where it does not know."""
    said = {name: text for name in TOLD if name.startswith(b"x-litellm-") and b"-model-" not in name}
    found = served(said, CALL, None, cached=True)
    assert found.cost_nano_usd is None
    assert found.attempts == 1
