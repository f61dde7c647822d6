"""What the headers of an answer say."""

import pytest

from llm_proxy.dialects import Call
from llm_proxy.upstream.catalog import Catalog, Deployment
from llm_proxy.upstream.litellm_protocol import ProviderAttempt, parse_failure_headers, parse_routing_headers

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
    found = parse_routing_headers(TOLD, CALL, None, cached=True)
    assert (found.group, found.provider, found.provider_model, found.deployment) == (
        "other",
        "openai",
        "gpt",
        "one",
    )
    assert (found.cost_nano_usd, found.attempts, found.sidecar_ms, found.cache) == (2, 4, 4.5, "miss")


def test_our_sidecars_own_count_of_attempts_is_believed_first() -> None:
    """LiteLLM forgets the attempts before a fallback."""
    assert parse_routing_headers({**TOLD, b"x-llmp-attempts": b"5"}, CALL, None, cached=True).attempts == 5


def test_who_failed_is_known_from_the_catalogue() -> None:
    """And from nothing else: an unmodified LiteLLM names nobody, and its cost of 0 is no cost."""
    known = Deployment("one", "openai", "gpt")
    wild = Deployment("two", "openai", "*")
    catalog = Catalog(deployments={"one": known, "two": wild})
    told = {b"x-llmp-deployment": b"one", b"x-llmp-attempts": b"3", b"x-litellm-response-cost": b"0"}
    found = parse_failure_headers(told, CALL, catalog)
    assert (found.provider, found.provider_model, found.deployment, found.attempts) == (
        "openai",
        "gpt",
        "one",
        3,
    )
    assert (found.group, found.cost_nano_usd) == ("group", None)
    assert parse_failure_headers({**told, b"x-llmp-deployment": b"two"}, CALL, catalog).provider_model is None
    nobody = parse_failure_headers({b"x-litellm-response-cost": b"0"}, CALL, catalog)
    assert (nobody.provider, nobody.deployment, nobody.attempts) == (None, None, None)


def test_a_wildcards_model_is_the_one_that_was_called() -> None:
    """Not the pattern it is configured by."""
    wild = Catalog(deployments={"one": Deployment("one", "openai", "*")})
    assert parse_routing_headers(TOLD, CALL, wild, cached=True).provider_model == "gpt"


def test_nothing_said_is_unknown() -> None:
    """An unmodified LiteLLM behind something that strips headers."""
    found = parse_routing_headers({}, CALL, None, cached=False)
    assert (found.group, found.provider, found.provider_model, found.deployment) == (
        "group",
        None,
        None,
        None,
    )
    assert (found.cost_nano_usd, found.attempts, found.sidecar_ms, found.cache) == (None, 1, None, "off")


def test_an_answer_from_the_cache_cost_nothing() -> None:
    """Whatever its headers repeat of the call that filled it."""
    found = parse_routing_headers({**TOLD, b"x-litellm-cache-key": b"k"}, CALL, None, cached=True)
    assert (found.cost_nano_usd, found.attempts, found.cache) == (0, 0, "hit")


HOPS = b'[["a","one",401,"auth"],["b","two",200]]'


def test_every_attempt_is_known_by_name() -> None:
    """What refused our credentials is marked; a call answered at once needs no list."""
    found = parse_routing_headers(
        {**TOLD, b"x-llmp-attempts": b"2", b"x-llmp-hops": HOPS}, CALL, None, cached=True
    )
    assert found.hops == (
        ProviderAttempt("a", "one", 401, auth_rejected=True),
        ProviderAttempt("b", "two", 200),
    )
    assert found.fallback_from == "group"
    alone = parse_routing_headers({**TOLD, b"x-llmp-attempts": b"1"}, CALL, None, cached=True)
    assert alone.hops == (ProviderAttempt("other", "one", 200),)
    assert parse_failure_headers({b"x-llmp-hops": HOPS}, CALL, None).hops == found.hops


def test_a_failure_before_an_answer_from_the_cache_is_not_forgotten() -> None:
    """The fallback was answered from the cache, the wrong key was seen all the same."""
    told = {**TOLD, b"x-litellm-cache-key": b"k", b"x-llmp-hops": HOPS}
    found = parse_routing_headers(told, CALL, None, cached=True)
    assert (found.hops, found.attempts) == ((ProviderAttempt("a", "one", 401, auth_rejected=True),), 1)
    assert found.fallback_from == "group"


def test_an_unmodified_litellm_tells_of_a_fallback_alone() -> None:
    """By its count; who was tried stays unknown."""
    found = parse_routing_headers(TOLD, CALL, None, cached=True)
    assert (found.hops, found.fallback_from) == (None, "group")


@pytest.mark.parametrize("told", [b"", b"{}", b"[1]", b'[["a"]]', b"null", b'[["a","b","c"]]', b"[" * 9999])
def test_a_list_of_attempts_that_is_none_is_not_believed(told: bytes) -> None:
    """A sidecar that is broken, or not ours, stops no call."""
    assert not parse_routing_headers({**TOLD, b"x-llmp-hops": told}, CALL, None, cached=True).hops


@pytest.mark.parametrize("text", [b"", b"None", b"nan", b"-1", b"\xff"])
def test_a_number_that_is_none_is_not_said(text: bytes) -> None:
    """LiteLLM writes `None` where it does not know."""
    said = {name: text for name in TOLD if name.startswith(b"x-litellm-") and b"-model-" not in name}
    found = parse_routing_headers(said, CALL, None, cached=True)
    assert found.cost_nano_usd is None
    assert found.attempts == 1
