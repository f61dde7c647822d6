"""The catalog: aliases, wildcards, fallbacks."""

import pytest

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
