"""Files for those who contribute: their commands, targets and links exist."""

import json
import re
from pathlib import Path

import pytest
import yaml
from command_words import make_targets

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("CONTRIBUTING.md", "SECURITY.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_make_targets_exist(page: str) -> None:
    """Both pages name files of this tree only."""
    text = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links
    assert [one for one in links if not (ROOT / one).exists()] == []
    named = {word for line in re.findall(r"(?m)make ([a-z -]+)", text) for word in line.split()[:1]}
    assert named
    assert named <= make_targets()


def test_issue_templates_are_forms() -> None:
    """With a name, a description and questions, as GitHub reads them."""
    forms = [one for one in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if one.stem != "config"]
    assert forms
    for form in forms:
        document = yaml.safe_load(form.read_text("utf-8"))
        assert {"name", "description", "body"} <= document.keys()
        assert all(one["type"] == "markdown" or one["attributes"]["label"] for one in document["body"])


def test_the_devcontainer_makes_the_development_environment() -> None:
    """By the same target as CONTRIBUTING.md."""
    document = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert document["postCreateCommand"] == "make setup-dev"
    assert document["postCreateCommand"] in (ROOT / "CONTRIBUTING.md").read_text("utf-8")
