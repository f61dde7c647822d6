"""What gateway and sidecar say beside the call: cache keys, added fields, routing headers."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects import Call
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import Forbidden
from llm_proxy.identity import AccessPolicy, Caller, KillSwitch, PolicySnapshot, PolicyWatcher
from llm_proxy.telemetry.privacy import PayloadPolicy
from llm_proxy.uploads import UnnamedFile, UploadedFile
from llm_proxy.upstream.catalog import Catalog, Deployment, ModelGroup, parse_sidecar_catalog
from llm_proxy.upstream.litellm_protocol import (
    LiteLLMControls,
    ProviderAttempt,
    cache_key_patterns,
    cache_namespace,
    parse_failure_headers,
    parse_routing_headers,
)
from llm_proxy.upstream.model_info import parse_model_info

NAMES = st.one_of(
    st.none(), st.text(min_size=1, max_size=12), st.sampled_from(["a", "a:b", "*", "a*", "model=m"])
)


def key(tenant: str | None, group: str, key_id: str = "k") -> str:
    """The key of a cached answer."""
    return f"{cache_namespace(Caller(key_id, 'virtual', tenant=tenant), group)}:{'0' * 64}"


@given(
    NAMES,
    st.text(min_size=1, max_size=12),
    NAMES,
    NAMES,
)
def test_a_purge_matches_exactly_what_it_names(
    tenant: str | None, group: str, of_tenant: str | None, of_group: str | None
) -> None:
    """Whatever is in the names: separators, wildcards, other scripts."""
    matched = any(fnmatchcase(key(tenant, group), one) for one in cache_key_patterns(of_tenant, of_group))
    meant = (of_tenant is None or of_tenant == tenant) and (of_group is None or of_group == group)
    assert matched is meant


def test_callers_share_within_a_tenant_and_nowhere_else() -> None:
    """A key without a tenant is alone, also when its id is a tenant's name."""
    assert key("t", "m", "one") == key("t", "m", "other")
    assert len({key("t", "m"), key(None, "m", "t"), key(None, "m", "u"), key("t", "n"), key("u", "m")}) == 5


CATALOG = parse_sidecar_catalog(
    {
        "groups": [
            {"name": "a", "fallbacks": ["b"]},
            {"name": "b", "fallbacks": ["nickname"]},
            {"name": "nickname", "alias_of": "c"},
            {"name": "c", "fallbacks": ["a"]},
            {"name": "alone"},
            {"name": "wild/*"},
            {"name": "plain"},
        ],
        "fallback_rules": {"bare": ["b"], "wild/whole": ["b"], "vendor/plain": ["b"]},
    }
)
UNTOLD = parse_model_info({"data": [{"model_name": "a", "model_info": {"id": "1"}}]})


def caller(*models: str) -> Caller:
    """A caller who may use these models."""
    return Caller("k", "virtual", tenant="t", models=models or None)


def disables_fallbacks(
    who: Caller, group: str, catalog: Catalog | None, controls: LiteLLMControls | None = None
) -> bool:
    """Whether the sidecar is told not to fall back."""
    call = Call("chat.completions", "openai", group, group, {"model": group})
    controls = controls or LiteLLMControls()
    cached = controls.uses_cache(call, who, catalog)
    body: dict[str, Any] = controls.body(call, who, catalog, cached=cached)
    return body.get("disable_fallbacks") is True


@pytest.mark.parametrize(
    ("models", "group", "switched_off"),
    [
        (("a", "b", "c"), "a", False),
        (("*",), "a", False),
        (("a", "b"), "a", True),
        (("a", "b", "nickname"), "a", False),
        (("a",), "a", True),
        (("c", "a"), "nickname", True),
        (("alone",), "alone", False),
        (("wild/*",), "wild/x", False),
        (("wild/*",), "wild/bare", True),
        (("wild/*",), "wild/whole", True),
        (("plain",), "plain", True),
        (("plain", "a", "b", "c"), "plain", False),
        ((), "a", False),
    ],
)
def test_a_call_falls_back_only_to_models_its_caller_may_use(
    models: tuple[str, ...], group: str, *, switched_off: bool
) -> None:
    """Fallbacks of fallbacks too, and groups of aliases."""
    assert disables_fallbacks(caller(*models), group, CATALOG) is switched_off


@pytest.mark.parametrize("catalog", [None, UNTOLD])
def test_unknown_fallbacks_are_only_for_callers_that_may_use_everything(
    catalog: Catalog | None,
) -> None:
    """An unmodified LiteLLM does not list them."""
    assert disables_fallbacks(caller("a"), "a", catalog)
    assert disables_fallbacks(caller(), "a", catalog)
    assert not disables_fallbacks(caller("*"), "a", catalog)
    assert not disables_fallbacks(Caller("s", "internal"), "a", catalog)


def test_no_call_falls_back_to_a_disabled_model() -> None:
    """A kill switch stops the model, whatever led to it."""
    watcher = PolicyWatcher()
    watcher.snapshot = PolicySnapshot(kill_switches=frozenset({KillSwitch("model", "c")}))
    controls = LiteLLMControls(access=AccessPolicy(watcher, None, ()))
    assert disables_fallbacks(caller("*"), "a", CATALOG, controls)
    assert not disables_fallbacks(caller("*"), "alone", CATALOG, controls)


WHO = Caller(
    "key-1",
    "virtual",
    tenant="acme",
    agent="agent:sofia",
    user="u",
    session="s",
    channel="c",
    run="r",
    tags=("nightly",),
)
CALL = Call("chat.completions", "openai", "a", "a", {"model": "a"})


@pytest.mark.parametrize(
    ("mode", "providers", "cached"),
    [
        ("chat", ["local"], False),
        ("chat", ["local", "openai"], True),
        ("chat", ["ollama"], True),
        ("embedding", ["local"], True),
    ],
)
def test_a_wrong_answer_of_the_test_model_is_not_repeated(
    mode: str, providers: list[str], *, cached: bool
) -> None:
    """Another model's is; the test model's embeddings are the same each time."""
    deployments = tuple(Deployment(f"d{number}", one, "m") for number, one in enumerate(providers))
    catalog = Catalog(groups={"m": ModelGroup("m", mode, deployments=deployments)}, is_ours=True)
    endpoint: Endpoint = "chat.completions" if mode == "chat" else "embeddings"
    call = Call(endpoint, "openai", "m", "m", {"model": "m"})
    assert LiteLLMControls().uses_cache(call, Caller("k", "virtual"), catalog) is cached


def test_the_caller_is_named_only_to_langfuse() -> None:
    """Tags are in a field that LiteLLM does not choose deployments by; an unmodified LiteLLM gets none."""
    tags = ["tenant:acme", "agent:sofia", "channel:c", "run:r", "key:key-1", "nightly"]
    whose = {"session_id": "s", "trace_user_id": "u", "llm_proxy_tags": tags}
    controls = LiteLLMControls()
    for catalog, metadata in (
        (parse_sidecar_catalog({"groups": [], "watched": True}), whose),
        (parse_sidecar_catalog({"groups": []}), None),
        (UNTOLD, None),
        (None, None),
    ):
        assert controls.body(CALL, WHO, catalog, cached=False).get("metadata") == metadata


@pytest.mark.parametrize(
    ("words", "shown"), [(("off",), False), (("full",), True), (("acme",), True), (("zeta",), False)]
)
def test_only_text_that_may_be_kept_is_shown_to_langfuse(words: tuple[str, ...], *, shown: bool) -> None:
    """And only where Langfuse is configured."""
    controls = LiteLLMControls(payload_policy=PayloadPolicy(words))
    assert controls.shows_text(WHO, parse_sidecar_catalog({"groups": [], "watched": True})) is shown
    assert not controls.shows_text(WHO, parse_sidecar_catalog({"groups": []}))
    assert not controls.shows_text(WHO, None)


ROUTED_CALL = Call("chat.completions", "openai", "asked", "group", {})
TOLD = {
    b"x-litellm-model-id": b"one",
    b"x-litellm-model-group": b"other",
    b"x-litellm-model-name": b"openai/gpt",
    b"x-litellm-response-cost": b"0.0000000011",
    b"x-litellm-attempted-retries": b"2",
    b"x-litellm-attempted-fallbacks": b"1",
    b"x-litellm-overhead-duration-ms": b"4.5",
}


def test_every_header_is_parsed() -> None:
    """Money is rounded up to a whole nano-dollar; attempts are the first and the retries."""
    found = parse_routing_headers(TOLD, ROUTED_CALL, None, cached=True)
    assert (found.group, found.provider, found.provider_model, found.deployment) == (
        "other",
        "openai",
        "gpt",
        "one",
    )
    assert (found.cost_nano_usd, found.attempts, found.sidecar_ms, found.cache) == (2, 4, 4.5, "miss")


def test_equal_headers_are_read_for_each_call_and_catalog() -> None:
    """Who answered is kept from call to call; what differs between calls, and in the catalog, is not."""
    served = {"one": Deployment("one", "azure", "gpt-5")}
    asked = ROUTED_CALL._replace(group="alias")
    found = [
        parse_routing_headers(headers, call, catalog, cached=cached)
        for headers, call, catalog, cached in (
            (TOLD, ROUTED_CALL, None, True),
            (TOLD | {b"x-litellm-response-cost": b"1", b"x-litellm-overhead-duration-ms": b"7"},
             ROUTED_CALL, Catalog(deployments=served), False),
            (TOLD | {b"x-litellm-attempted-retries": b"0"}, asked, Catalog(), True),
        )
    ]  # fmt: skip
    assert [(one.provider, one.provider_model) for one in found] == [
        ("openai", "gpt"), ("azure", "gpt-5"), ("openai", "gpt")
    ]  # fmt: skip
    assert [one.cost_nano_usd for one in found] == [2, 10**9, 2]
    assert [(one.sidecar_ms, one.cache, one.attempts) for one in found] == [
        (4.5, "miss", 4), (7, "off", 4), (4.5, "miss", 2)
    ]  # fmt: skip
    assert [one.fallback_from for one in found] == ["group", "group", "alias"]


def test_an_unmodified_litellm_s_cost_of_speech_is_no_cost() -> None:
    """It leaves out the spaces; our sidecar states none, or a right one."""
    spoken = ROUTED_CALL._replace(endpoint="audio.speech")
    assert parse_routing_headers(TOLD, spoken, None, cached=False).cost_nano_usd is None
    ours = Catalog(is_ours=True)
    assert parse_routing_headers(TOLD, spoken, ours, cached=False).cost_nano_usd == 2


def test_our_sidecars_own_count_of_attempts_comes_first() -> None:
    """LiteLLM forgets the attempts before a fallback."""
    assert (
        parse_routing_headers({**TOLD, b"x-llmp-attempts": b"5"}, ROUTED_CALL, None, cached=True).attempts
        == 5
    )


def test_a_failed_provider_is_known_from_the_catalog() -> None:
    """Of an unmodified LiteLLM nothing is known, and its cost of 0 is no cost."""
    known = Deployment("one", "openai", "gpt")
    wild = Deployment("two", "openai", "*")
    catalog = Catalog(deployments={"one": known, "two": wild})
    disables_fallbacks = {
        b"x-llmp-deployment": b"one",
        b"x-llmp-attempts": b"3",
        b"x-litellm-response-cost": b"0",
    }
    found = parse_failure_headers(disables_fallbacks, ROUTED_CALL, catalog)
    assert (found.provider, found.provider_model, found.deployment, found.attempts) == (
        "openai",
        "gpt",
        "one",
        3,
    )
    assert (found.group, found.cost_nano_usd) == ("group", None)
    assert (
        parse_failure_headers(
            {**disables_fallbacks, b"x-llmp-deployment": b"two"}, ROUTED_CALL, catalog
        ).provider_model
        is None
    )
    nobody = parse_failure_headers({b"x-litellm-response-cost": b"0"}, ROUTED_CALL, catalog)
    assert (nobody.provider, nobody.deployment, nobody.attempts) == (None, None, None)


def test_a_wildcards_model_is_the_one_that_was_called() -> None:
    """Not the pattern it is configured by."""
    wild = Catalog(deployments={"one": Deployment("one", "openai", "*")})
    assert parse_routing_headers(TOLD, ROUTED_CALL, wild, cached=True).provider_model == "gpt"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_are_our_sidecars_utf_8_or_litellms_latin_1(encoding: str) -> None:
    """Such as `modèle`."""
    headers = {**TOLD, b"x-litellm-model-group": "modèle".encode(encoding)}
    assert parse_routing_headers(headers, ROUTED_CALL, None, cached=True).group == "modèle"


def test_a_missing_header_is_none() -> None:
    """An unmodified LiteLLM behind something that strips headers."""
    found = parse_routing_headers({}, ROUTED_CALL, None, cached=False)
    assert (found.group, found.provider, found.provider_model, found.deployment) == (
        "group",
        None,
        None,
        None,
    )
    assert (found.cost_nano_usd, found.attempts, found.sidecar_ms, found.cache) == (None, 1, None, "off")


def test_a_cached_answer_costs_nothing() -> None:
    """Whatever its headers repeat of the call that filled it."""
    found = parse_routing_headers({**TOLD, b"x-litellm-cache-key": b"k"}, ROUTED_CALL, None, cached=True)
    assert (found.cost_nano_usd, found.attempts, found.cache) == (0, 0, "hit")


HOPS = b'[["a","one",401,"auth"],["b","two",200]]'


def test_every_attempt_is_parsed() -> None:
    """Rejected credentials are marked; a call answered at once needs no list."""
    found = parse_routing_headers(
        {**TOLD, b"x-llmp-attempts": b"2", b"x-llmp-hops": HOPS}, ROUTED_CALL, None, cached=True
    )
    assert found.hops == (
        ProviderAttempt("a", "one", 401, auth_rejected=True),
        ProviderAttempt("b", "two", 200),
    )
    assert found.fallback_from == "group"
    alone = parse_routing_headers({**TOLD, b"x-llmp-attempts": b"1"}, ROUTED_CALL, None, cached=True)
    assert alone.hops == (ProviderAttempt("other", "one", 200),)
    assert parse_failure_headers({b"x-llmp-hops": HOPS}, ROUTED_CALL, None).hops == found.hops


def test_a_failure_before_a_cached_answer_is_kept() -> None:
    """The fallback was cached, the rejected key was seen."""
    disables_fallbacks = {**TOLD, b"x-litellm-cache-key": b"k", b"x-llmp-hops": HOPS}
    found = parse_routing_headers(disables_fallbacks, ROUTED_CALL, None, cached=True)
    assert (found.hops, found.attempts) == ((ProviderAttempt("a", "one", 401, auth_rejected=True),), 1)
    assert found.fallback_from == "group"


def test_an_unmodified_litellm_reports_only_that_there_was_a_fallback() -> None:
    """By its count; the attempts stay unknown."""
    found = parse_routing_headers(TOLD, ROUTED_CALL, None, cached=True)
    assert (found.hops, found.fallback_from) == (None, "group")


@pytest.mark.parametrize("listed", [b"", b"{}", b"[1]", b'[["a"]]', b"null", b'[["a","b","c"]]', b"[" * 9999])
def test_an_invalid_list_of_attempts_is_ignored(listed: bytes) -> None:
    """A sidecar that is broken, or not ours, fails no call."""
    assert not parse_routing_headers({**TOLD, b"x-llmp-hops": listed}, ROUTED_CALL, None, cached=True).hops


@pytest.mark.parametrize("text", [b"", b"None", b"nan", b"-1", b"\xff"])
def test_an_invalid_number_is_none(text: bytes) -> None:
    """LiteLLM writes `None` where it does not know."""
    said = {name: text for name in TOLD if name.startswith(b"x-litellm-") and b"-model-" not in name}
    found = parse_routing_headers(said, ROUTED_CALL, None, cached=True)
    assert found.cost_nano_usd is None
    assert found.attempts == 1


def test_a_form_never_falls_back_to_a_forbidden_group(tmp_path: Path) -> None:
    """An unmodified LiteLLM reads the field as text, and falls back all the same."""
    stored = UnnamedFile(tmp_path)
    stored.close()
    files = (UploadedFile("file", "a", "audio/wav", 1, b"x", stored),)
    call = Call("audio.transcriptions", "openai", "a", "a", {"model": "a"}, files=files)
    restricted, free = Caller("k", "virtual", models=("a",)), Caller("k", "virtual", models=("*",))
    body = LiteLLMControls().body(call, restricted, CATALOG, cached=False)
    assert body == {"model": "a", "disable_fallbacks": True}
    assert LiteLLMControls().body(call, free, None, cached=False) == {"model": "a"}
    with pytest.raises(Forbidden):
        LiteLLMControls().body(call, restricted, None, cached=False)
