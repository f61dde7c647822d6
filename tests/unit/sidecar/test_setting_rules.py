"""The lists of LiteLLM's settings: complete, without an idle word, and what they promise exists."""

import ast
import re
from pathlib import Path

import pytest

from llm_proxy.sidecar.known_keys import known_keys
from llm_proxy.sidecar.setting_outcomes import Outcome, SettingRule
from llm_proxy.sidecar.setting_rules import SETTING_RULES, find_rule, find_unhonoured

SECTIONS = (
    *("top", "general_settings", "litellm_settings", "router_settings"),
    *("litellm_params", "model_info", "prices", "cache_params"),
)
ROOT = Path(__file__).parents[3]
UNSEEN = "not seen here"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_of_the_pinned_release_is_listed(section: str) -> None:
    """A new key of LiteLLM's fails here until somebody says what becomes of it."""
    assert [key for key in sorted(known_keys(section)) if find_rule(section, key) is None] == []


@pytest.mark.parametrize("section", SECTIONS)
def test_every_name_of_the_list_is_a_setting(section: str) -> None:
    """A key that LiteLLM has dropped leaves the list."""
    decided: dict[SettingRule, list[str]] = {}
    for key in known_keys(section):
        rule = find_rule(section, key)
        assert rule is not None
        decided.setdefault(rule, []).append(key)
    idle = [
        name
        for rule in SETTING_RULES
        if rule.section == section
        for name in rule.names.split()
        if not any(re.fullmatch(name, key) for key in decided.get(rule, []))
    ]
    assert idle == []


@pytest.mark.parametrize(
    "seen", sorted({rule.instead for rule in SETTING_RULES if rule.outcome is Outcome.HONOURED})
)
def test_an_honoured_setting_is_seen_by_a_test_or_says_why_not(seen: str) -> None:
    """The test that the list names is there."""
    if seen.startswith(UNSEEN):
        return
    file, _, name = seen.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_a_replaced_setting_names_a_document_that_exists() -> None:
    """What to use instead is described somewhere."""
    named = {one for rule in SETTING_RULES for one in re.findall(r"docs/[a-z_]+\.md", rule.instead)}
    assert [one for one in sorted(named) if not (ROOT / one).is_file()] == []


def test_a_deployment_s_settings_are_told_by_its_name() -> None:
    """Once for all deployments of a group; what protects is marked."""
    params = {"model": "openai/m", "default_api_key_rpm_limit": 5, "vector_store_ids": ["v"], "rpm": 3}
    entry = {"model_name": "m", "litellm_params": params, "model_info": {"team_id": "t", "mode": "chat"}}
    found = {one.path: one.rule.protects for one in find_unhonoured({"model_list": [entry, entry]})}
    assert found == {
        "model_list.m.litellm_params.default_api_key_rpm_limit": True,
        "model_list.m.litellm_params.vector_store_ids": False,
        "model_list.m.model_info.team_id": True,
    }
