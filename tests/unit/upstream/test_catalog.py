"""The catalog: aliases, wildcards, fallbacks."""

from dataclasses import replace

import pytest

from llm_proxy.json_access import Json
from llm_proxy.upstream.catalog import parse_sidecar_catalog

CATALOG = parse_sidecar_catalog(
    {
        "groups": [
            {"name": "w/*", "deployments": [{"id": "any"}]},
            {"name": "*-x", "deployments": [{"id": "dash"}]},
            {"name": "w/longer*", "deployments": [{"id": "longer"}]},
            {"name": "dear", "deployments": [{"id": "w/dear"}, {"id": "dear-two"}]},
            {"name": "named", "deployments": [{"id": "named"}]},
        ]
    }
)


@pytest.mark.parametrize(
    ("name", "group"),
    [("w/foo", "w/*"), ("w/foo-x", "*-x"), ("w/longer-x", "w/longer*"), ("dear", "dear")],
)
def test_a_name_is_served_by_the_wildcard_litellm_chooses(name: str, group: str) -> None:
    """The longest as LiteLLM writes it, where a dash counts twice."""
    found = CATALOG.find_group(name)
    assert found is not None
    assert found.name == group


def test_a_deployment_id_is_served_as_its_group() -> None:
    """LiteLLM takes it for a name before any wildcard; the other id matches none."""
    found = CATALOG.find_group("w/dear")
    assert found is not None
    assert CATALOG.resolved("w/dear") == "dear"
    assert "w/dear" not in CATALOG.names
    assert CATALOG.find_group("dear-two") is None


def test_timeouts_of_the_file_are_those_of_every_attempt_and_fallback() -> None:
    """600 s three times with pauses between, then the fallback's own; a group without any has none."""
    slow = {"timeout_s": 600, "stream_timeout_s": 90, "attempts": 3}
    found = parse_sidecar_catalog(
        {
            "groups": [
                {"name": "slow", "deployments": [slow], "fallbacks": ["quick"]},
                {"name": "quick", "deployments": [{"timeout_s": 20, "attempts": 1}]},
                {"name": "plain", "deployments": [{"id": "plain"}]},
            ]
        }
    )
    assert found.stated_timeouts("slow") == (3 * 600 + 2 * 10 + 20 + 5, 90 + 5)
    assert found.stated_timeouts("quick") == (25, 5)
    assert found.stated_timeouts("plain") is None
    assert found.stated_timeouts("nobody's") is None


def test_a_group_is_native_if_every_deployment_a_call_may_reach_is() -> None:
    """Its own, and those of its fallbacks; of a wildcard and an alias too; never of an unknown sidecar's."""
    spoken = {"id": "a", "native": ["responses"]}
    chat: Json = {"id": "b", "native": []}
    document: Json = {
        "groups": [
            {"name": "all", "deployments": [spoken, {"id": "c", "native": ["messages", "responses"]}]},
            {"name": "some", "deployments": [spoken, chat]},
            {"name": "falls", "deployments": [spoken], "fallbacks": ["some"]},
            {"name": "falls-well", "deployments": [spoken], "fallbacks": ["all"]},
            {"name": "falls-nowhere", "deployments": [spoken], "fallbacks": ["unknown"]},
            {"name": "w/*", "deployments": [spoken]},
            {"name": "nickname", "alias_of": "all", "deployments": [spoken]},
            {"name": "empty", "deployments": []},
        ]
    }
    catalog = parse_sidecar_catalog(document)
    names = ("all", "some", "falls", "falls-well", "falls-nowhere", "w/x", "nickname", "empty", "nobody")
    native = {name for name in names if catalog.speaks_natively(name, "responses")}
    assert native == {"all", "falls-well", "w/x", "nickname"}
    assert not catalog.speaks_natively("all", "messages")
    assert not replace(catalog, is_ours=False, _native={}).speaks_natively("all", "responses")
