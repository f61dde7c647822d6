"""The pages in `docs/runbooks/`: one for each alert, and the commands in them exist."""

import re
from pathlib import Path

import pytest
import yaml
from command_words import unknown_words

from llm_proxy.edge.auth import ROUTE_ACCESS
from llm_proxy.setting_sources import names_of
from llm_proxy.settings import Settings
from llm_proxy.sidecar import recycle_limits
from llm_proxy.stack import process_specs
from llm_proxy.telemetry.metric_table import METRICS

ROOT = Path(__file__).parents[3]
RUNBOOKS = ROOT / "docs" / "runbooks"
PAGES = sorted(path.name for path in RUNBOOKS.glob("LlmProxy*.md"))
HEADINGS = ["## Look here", "## Do this", "## It is over when"]
COMMAND = re.compile(r"(?:^|`)llm-proxy ([^`\n#]+)", re.MULTILINE)
METRIC = re.compile(r"llm_proxy_[a-z_]*[a-z]")
SETTING = re.compile(r"\b(?:LLM_PROXY_|LLM_PROXY__|DATABASE_|LIMITS_)[A-Z_]+\b")


def text_of(page: str) -> str:
    """Returns a page's text."""
    return (RUNBOOKS / page).read_text(encoding="utf-8")


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    """By name."""
    read = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())
    names = {rule["alert"] for group in read["groups"] for rule in group["rules"] if "alert" in rule}
    assert {f"{name}.md" for name in names} == {*PAGES}
    assert sorted(path.name for path in RUNBOOKS.iterdir()) == sorted([*PAGES, "README.md"])


def test_every_alert_is_fired_on_purpose() -> None:
    """By `make alarms`; but the one on a disk, of which only an exporter knows."""
    fired = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "alarms").glob("*.py"))
    assert {page.removesuffix(".md") for page in PAGES} - {*re.findall(r'"(LlmProxy\w+)"', fired)} == {
        "LlmProxyDatabaseDisk"
    }


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_has_its_parts(page: str) -> None:
    """What it means, who notices, where to look with commands, what to do, when it is over."""
    text = text_of(page)
    assert text.startswith(f"# {page.removesuffix('.md')}\n\n")
    assert "**Who notices:** " in text
    assert re.findall(r"^## .*", text, re.MULTILINE) == HEADINGS
    assert "```sh\n" in text
    assert len(text.splitlines()) < 40


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_exist(page: str) -> None:
    """With these options; words in capitals stand for names."""
    unknown = {words: unknown_words(words.split()) for words in COMMAND.findall(text_of(page))}
    assert not any(unknown.values()), unknown


@pytest.mark.parametrize("page", PAGES)
def test_metrics_settings_and_routes_of_a_page_exist(page: str) -> None:
    """Each by its full name; a metric that is searched for may be the beginning of several."""
    text = text_of(page)
    settings = {name for field in Settings.model_fields for name in names_of(Settings, field)}
    settings |= {
        str(one)
        for place in (process_specs, recycle_limits)
        for one in vars(place).values()
        if isinstance(one, str)
    }
    assert {name for name in SETTING.findall(text) if name not in settings} == set()
    for name in METRIC.findall(text):
        assert any(metric.startswith(name) or name.startswith(metric) for metric in METRICS), name
    for path in re.findall(r"\$GATEWAY(/admin/[a-z/-]+)", text):
        assert any(route == path for _, route in ROUTE_ACCESS), path
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (RUNBOOKS / link).resolve().is_file(), link
