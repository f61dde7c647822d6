"""The configuration LiteLLM gets."""

from typing import Any

import pytest

from llm_proxy.sidecar.config import (
    InvalidConfig,
    build_effective_config,
    is_served,
    redis_cache_params,
    unset_variables,
)

Json = dict[str, Any]


def one(name: str, model: str = "openai/m", **params: object) -> Json:
    """A deployment."""
    return {"model_name": name, "litellm_params": {"model": model, **params}}


def test_a_deployment_without_its_key_is_left_out_with_a_note() -> None:
    """The note has its model and each missing name once."""
    config = {
        "model_list": [one("a", api_key="os.environ/A"), one("b", api_key="os.environ/B", x=["os.environ/B"])]
    }
    found = build_effective_config(config, {"A": "1"})
    assert [deployment["model_name"] for deployment in found.config["model_list"]] == ["a"]
    assert found.notes == ("left out b (openai/m): B not set",)


def test_a_parameter_of_no_variable_leaves_the_deployment_where_it_is_optional() -> None:
    """As with LiteLLM, which reads nothing then."""
    config = {"model_list": [one("a", api_key="os.environ/A", organization="os.environ/NONE")]}
    [deployment] = build_effective_config(config, {"A": "1"}).config["model_list"]
    assert deployment["litellm_params"] == {"model": "openai/m", "api_key": "os.environ/A"}


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("claude-3-haiku-20240307", "anthropic/claude-3-haiku-20240307"),  # retired: not in LiteLLM's list
        ("os.environ/MODEL", "anthropic/claude-3-opus-20240229"),
        ("gpt-3.5-turbo-0301", "openai/gpt-3.5-turbo-0301"),
        ("gemini-1.5-pro", "vertex_ai/gemini-1.5-pro"),
        ("gpt-oss-120b", "gpt-oss-120b"),  # many serve it
        ("gpt-4o", "gpt-4o"),  # LiteLLM places it
        ("claude-3-5-sonnet@20240620", "claude-3-5-sonnet@20240620"),  # nobody knows: config check says so
        ("*", "*"),
    ],
)
def test_a_retired_model_without_a_provider_is_asked_of_its_maker(model: str, asked: str) -> None:
    """LiteLLM would leave it out."""
    found = build_effective_config({"model_list": [one("a", model)]}, {"MODEL": "claude-3-opus-20240229"})
    assert found.config["model_list"][0]["litellm_params"]["model"] == asked


def test_a_retired_gemini_with_a_key_is_asked_of_google_s_api() -> None:
    """Vertex has projects in place of keys."""
    found = build_effective_config({"model_list": [one("a", "gemini-1.5-flash", api_key="k")]}, {})
    assert found.config["model_list"][0]["litellm_params"]["model"] == "gemini/gemini-1.5-flash"


@pytest.mark.parametrize(("given", "retries"), [("5", 5), ("0", 0), ("", 1), ("many", 1)])
def test_the_number_of_retries_from_a_variable_wins_over_the_file(given: str, retries: int) -> None:
    """What is no number is ignored with a note."""
    found = build_effective_config({"router_settings": {"num_retries": 1}}, {"LLM_PROXY_MAX_RETRIES": given})
    assert found.config["router_settings"]["num_retries"] == retries
    assert len(found.notes) == (given == "many")


@pytest.mark.parametrize("params", [{}, {"type": "redis", "ttl": 60}, {"host": "os.environ/NONE"}])
def test_a_cache_without_an_address_is_off(params: Json) -> None:
    """LiteLLM would not start with it."""
    found = build_effective_config({"litellm_settings": {"cache": True, "cache_params": params}}, {})
    assert found.config["litellm_settings"]["cache"] is False
    assert "CACHE_REDIS_URL" in found.notes[0]


def test_shell_references_are_replaced_as_envsubst_does() -> None:
    """In models, credentials and addresses; a whole value becomes a reference of LiteLLM's own."""
    config = {
        "model_list": [
            one("a", api_key="${KEY}", api_base="http://${HOST}:${PORT:-80}/v1", x=["${NONE-}", "$KEY"]),
            one("b", api_base="http://${NONE}/v1"),
        ],
        "router_settings": {"redis_host": "${HOST}"},
        "credential_list": [{"credential_values": {"api_key": "${KEY:-no}"}}],
    }
    found = build_effective_config(config, {"KEY": "k", "HOST": "h"})
    [kept] = found.config["model_list"]
    assert kept["litellm_params"] == {
        "model": "openai/m",
        "api_key": "os.environ/KEY",
        "api_base": "http://h:80/v1",
        "x": ["", "$KEY"],
    }
    assert found.config["router_settings"]["redis_host"] == "os.environ/HOST"
    assert found.config["credential_list"] == [{"credential_values": {"api_key": "os.environ/KEY"}}]
    assert found.notes == ("left out b (openai/m): NONE not set",)


def test_names_of_a_left_out_group_are_removed() -> None:
    """Aliases, fallbacks from it and to it; a rule without targets is removed."""
    config = {
        "model_list": [one("a"), one("b", api_key="os.environ/B"), one("wild/*")],
        "router_settings": {
            "model_group_alias": {
                "to-a": "a",
                "to-b": "b",
                "hid": {"model": "b", "hidden": True},
                "w": "wild/x",
            },
            "fallbacks": [{"a": ["b", "wild/y"]}, {"b": ["a"]}, {"to-a": ["b"]}, {"*": ["a", "b"]}],
            "default_fallbacks": ["b", "a"],
        },
    }
    settings = build_effective_config(config, {}).config["router_settings"]
    assert settings["model_group_alias"] == {"to-a": "a", "w": "wild/x"}
    assert settings["fallbacks"] == [{"a": ["wild/y"]}, {"*": ["a"]}]
    assert settings["default_fallbacks"] == ["a"]


def test_the_file_s_values_win_over_defaults() -> None:
    """But not over required ones."""
    config: Json = {
        "model_list": [],
        "router_settings": {"num_retries": 7},
        "general_settings": {"master_key": "sk-1234", "cancel_on_disconnect": False, "x": 1},
    }
    found = build_effective_config(config, {}).config
    assert found["router_settings"]["num_retries"] == 7
    assert found["router_settings"]["routing_strategy"] == "simple-shuffle"
    assert found["general_settings"]["master_key"] == "os.environ/LITELLM_MASTER_KEY"
    assert found["general_settings"]["cancel_on_disconnect"] is True
    assert found["general_settings"]["x"] == 1


def test_no_database_is_configured() -> None:
    """With a note."""
    found = build_effective_config(
        {"model_list": [], "general_settings": {"database_url": "postgres://x"}}, {}
    )
    assert "database_url" not in found.config["general_settings"]
    assert "no database" in found.notes[0]


def test_the_cache_is_where_the_environment_says() -> None:
    """A file that turns the cache off keeps it off; its other settings stay, its address does not."""
    env = {"CACHE_REDIS_URL": "redis://r/1", "LLM_PROXY_SIDECAR_CACHE_TTL_S": "30"}
    given = {"cache_params": {"ttl": 5, "host": "h"}}
    found = build_effective_config({"model_list": [], "litellm_settings": given}, env).config[
        "litellm_settings"
    ]
    assert found["cache"] is True
    assert found["cache_params"]["url"] == "redis://r/1"
    assert found["cache_params"]["ttl"] == 5
    assert "host" not in found["cache_params"]
    off = build_effective_config({"model_list": [], "litellm_settings": {"cache": False}}, env).config[
        "litellm_settings"
    ]
    assert off["cache"] is False
    assert "cache_params" not in off
    assert "cache" not in build_effective_config({"model_list": []}, {}).config["litellm_settings"]


@pytest.mark.parametrize(
    ("ours", "litellm"),
    [
        ("ROUND_ROBIN", "simple-shuffle"),
        ("weighted", "simple-shuffle"),
        ("LEAST_LOADED", "least-busy"),
        ("FASTEST_RESPONSE", "latency-based-routing"),
        ("COST_OPTIMIZED", "cost-based-routing"),
        ("", "lar1"),
    ],
)
def test_load_balance_selects_the_strategy(ours: str, litellm: str) -> None:
    """The environment wins over the file."""
    config: Json = {"model_list": [], "router_settings": {"routing_strategy": "lar1"}}
    found = build_effective_config(config, {"LLM_PROXY_LOAD_BALANCE": ours}).config
    assert found["router_settings"]["routing_strategy"] == litellm


BROKEN: list[tuple[Any, str]] = [
    (None, "not a mapping"),
    ([], "not a mapping"),
    ({"model_list": "x"}, "not a list"),
    ({"model_list": [{}]}, "entry 1: model_name"),
    ({"model_list": [one("a"), {"model_name": "b"}]}, "entry 2 (b): litellm_params.model"),
    ({"model_list": [], "general_settings": ["x"]}, "general_settings is not"),
]


@pytest.mark.parametrize(("raw", "expected"), BROKEN)
def test_an_invalid_file_is_one_line(raw: object, expected: str) -> None:
    """With the entry it concerns."""
    with pytest.raises(InvalidConfig) as caught:
        build_effective_config(raw, {})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_section_is_accepted() -> None:
    """YAML makes null of a section with comments only."""
    found = build_effective_config({"model_list": None, "router_settings": None}, {}).config
    assert found["model_list"] == []
    assert found["router_settings"]["num_retries"] == 2


def test_the_parsed_file_is_not_modified() -> None:
    """It is used again at a reload."""
    config = {"model_list": [one("a", api_key="os.environ/A")]}
    build_effective_config(config, {})
    assert config == {"model_list": [one("a", api_key="os.environ/A")]}


def test_references_are_found_at_any_depth() -> None:
    """In mappings, lists and within texts."""
    value = {"a": ["os.environ/A", {"b": "x os.environ/B_1"}], "c": 3}
    assert unset_variables(value, {"A": ""}) == ["A", "B_1"]


def test_a_wildcard_serves_what_it_covers() -> None:
    """A name with a star is no pattern itself."""
    assert is_served("openai/x", {"openai/*"})
    assert not is_served("azure/x", {"openai/*"})
    assert not is_served("a*", {"ab"})


EVERY = ("acompletion", "atext_completion", "aresponses", "anthropic_messages", "agenerate_content")


@pytest.mark.parametrize(
    ("params", "cached", "left", "note"),
    [
        ({}, EVERY, ["aembedding"], ""),
        ({"supported_call_types": ["acompletion"]}, ("acompletion",), [], ""),
        ({"supported_call_types": ["aembedding"]}, (), ["aembedding"], ""),
        ({"type": "s3"}, EVERY, ["aembedding"], "ignored cache_params.type s3"),
        ({"mode": "default_off"}, EVERY, ["aembedding"], "default_off"),
    ],
)
def test_chats_are_cached_here_and_the_rest_by_litellm(
    params: Json, cached: tuple[str, ...], left: list[str], note: str
) -> None:
    """By the operator's call types; changes are notes."""
    config: Json = {"model_list": [], "litellm_settings": {"cache_params": params}}
    found = build_effective_config(config, {"CACHE_REDIS_URL": "redis://r/1"})
    assert found.cached_call_types == cached
    assert found.config["litellm_settings"]["cache_params"]["supported_call_types"] == left
    assert len(found.notes) == bool(note)
    assert all(note in line for line in found.notes)


def test_a_cache_outside_redis_stays_litellm_s() -> None:
    """Without our Redis it is the operator's; a note says what it cannot do."""
    settings = {"cache": True, "cache_params": {"type": "local"}}
    found = build_effective_config({"model_list": [], "litellm_settings": settings}, {})
    assert found.cached_call_types == ()
    assert found.config["litellm_settings"]["cache_params"] == {"type": "local"}
    assert "keeps no streams" in found.notes[0]


@pytest.mark.parametrize(
    ("litellm", "router", "env", "found"),
    [
        ({}, {}, {}, (2, 120, 120, 60)),
        ({"num_retries": 0, "request_timeout": 600}, {}, {}, (0, 600, None, None)),
        ({}, {"num_retries": 4, "timeout": 9, "stream_timeout": 3}, {}, (4, None, 9, 3)),
        ({"request_timeout": 600}, {"timeout": 9}, {}, (2, 600, 9, None)),
        ({"num_retries": 1}, {"num_retries": 3, "stream_timeout": 7}, {}, (3, 120, 120, 7)),
        ({}, {"default_litellm_params": {"stream_timeout": 5}}, {}, (2, 120, 120, None)),
        ({}, {}, {"REQUEST_TIMEOUT": "600"}, (2, None, None, None)),
    ],
)
def test_defaults_of_ours_hide_nothing_the_file_says(
    litellm: dict[str, Any],
    router: dict[str, Any],
    env: dict[str, str],
    found: tuple[int, int | None, int | None, int | None],
) -> None:
    """LiteLLM prefers some of them to the file's: `request_timeout` to the router's `timeout`, for one."""
    raw: dict[str, Any] = {"model_list": [], "litellm_settings": litellm, "router_settings": router}
    effective = build_effective_config(raw, env)
    at_router, everywhere = effective.config["router_settings"], effective.config["litellm_settings"]
    assert found == (
        at_router["num_retries"],
        everywhere.get("request_timeout"),
        at_router.get("timeout"),
        at_router.get("stream_timeout"),
    )
    assert effective.states_timeouts is ("timeout" in f"{litellm}{router}{env}".lower())


def test_a_deployment_s_timeout_holds_for_its_streams_too() -> None:
    """The router's `stream_timeout`, a default of ours, would win over it; one of the file's does."""
    params = {"model": "openai/m", "api_key": "none", "timeout": 600}
    raw: dict[str, Any] = {"model_list": [{"model_name": "m", "litellm_params": params}]}
    effective = build_effective_config(raw, {})
    assert effective.config["model_list"][0]["litellm_params"]["stream_timeout"] == 600
    assert effective.states_timeouts
    raw["router_settings"] = {"stream_timeout": 5}
    assert "stream_timeout" not in build_effective_config(raw, {}).config["model_list"][0]["litellm_params"]


def test_what_wins_over_the_file_is_told() -> None:
    """A Redis and a strategy of the environment; neither where the file says the same or nothing."""
    raw: dict[str, Any] = {
        "model_list": [],
        "litellm_settings": {"cache": True, "cache_params": {"type": "redis", "host": "h", "port": 1}},
        "router_settings": {"routing_strategy": "least-busy"},
    }
    env = {"CACHE_REDIS_URL": "redis://here:6379", "LLM_PROXY_LOAD_BALANCE": "WEIGHTED"}
    assert build_effective_config(raw, env).notes == (
        "ignored router_settings.routing_strategy least-busy: LLM_PROXY_LOAD_BALANCE is WEIGHTED",
        "ignored cache_params.host, port: CACHE_REDIS_URL names the Redis",
    )
    assert build_effective_config({"model_list": []}, env).notes == ()


def test_what_is_forced_is_told() -> None:
    """A file that says otherwise gets a note at the start."""
    raw: dict[str, Any] = {"model_list": [], "general_settings": {"background_health_checks": True}}
    found = build_effective_config(raw, {})
    assert found.config["general_settings"]["background_health_checks"] is False
    assert "ignored general_settings.background_health_checks True: always False here" in found.notes


def test_a_protection_that_litellm_does_not_get_is_told() -> None:
    """LiteLLM's own check would reject the gateway's calls."""
    raw: dict[str, Any] = {"model_list": [], "general_settings": {"custom_auth": "own.check"}}
    found = build_effective_config(raw, {})
    assert "custom_auth" not in found.config["general_settings"]
    assert any(
        note.startswith("ignored general_settings.custom_auth: replaced by ours") for note in found.notes
    )


def test_a_file_does_not_set_the_sidecar_s_own_variables() -> None:
    """Its master key would be a published one, and its database would be opened."""
    given = {
        "LITELLM_MASTER_KEY": "sk-1234",
        "DATABASE_URL": "x",
        "LITELLM_MODE": "DEV",
        "MINE": 1,
        "B": "os.environ/C",
    }
    found = build_effective_config({"model_list": [], "environment_variables": given}, {})
    assert found.variables == {"MINE": "1"}
    assert found.config["environment_variables"] == {"MINE": 1, "B": "os.environ/C"}
    assert len([note for note in found.notes if note.startswith("ignored environment_variables.")]) == 3


@pytest.mark.parametrize(
    ("url", "told"),
    [
        pytest.param("redis://:p@h:1/2", {"url": "redis://:p@h:1/2"}, id="server"),
        pytest.param("unix:///run/s", {"url": "unix:///run/s"}, id="socket"),
        pytest.param("rediss://:p@h?db=1", {"url": "rediss://:p@h?db=1&ssl_ca_certs=/ca.pem"}, id="tls"),
        pytest.param(
            "rediss://:p@h?ssl_ca_certs=/own.pem", {"url": "rediss://:p@h?ssl_ca_certs=/own.pem"}, id="own-ca"
        ),
        pytest.param(
            "redis+cluster://u:p%2Fw@h:1/0",
            {"username": "u", "password": "p/w", "redis_startup_nodes": [{"host": "h", "port": 1}]},
            id="cluster",
        ),
        pytest.param(
            "rediss://:p@a,b:2",
            {
                "password": "p",
                "ssl": True,
                "ssl_ca_certs": "/ca.pem",
                "redis_startup_nodes": [{"host": "a", "port": 6379}, {"host": "b", "port": 2}],
            },
            id="list",
        ),
        pytest.param(
            "redis+sentinel://:p@a,b:2/main?db=3&sentinel_password=s",
            {
                "password": "p",
                "sentinel_nodes": [["a", 26379], ["b", 2]],
                "sentinel_password": "s",
                "service_name": "main",
                "db": 3,
            },
            id="sentinel",
        ),
    ],
)
def test_litellm_is_told_of_a_redis_in_its_own_words(url: str, told: Json) -> None:
    """And of no other that the file names."""
    file = {"url": "redis://x", "host": "x", "sentinel_nodes": [["x", 1]], "service_name": "x", "ttl": 5}
    found = redis_cache_params(url, file, {"LLM_PROXY__CA_FILE": "/ca.pem"})
    ours = {"type", "namespace", "ttl", "supported_call_types", "max_messages"}
    ours |= {"socket_timeout", "socket_connect_timeout"}
    assert {name: value for name, value in found.items() if name not in ours} == told
    assert (found["type"], found["ttl"]) == ("redis", 5)
