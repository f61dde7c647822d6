"""Alert rules and dashboards use only exported metrics and labels."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_proxy.console.pages import PAGES
from llm_proxy.ledger.request_filters import FILTERS
from llm_proxy.telemetry.metrics import METRICS

DEPLOY = Path(__file__).parents[3] / "deploy"
NAME = re.compile(r"\bllm_proxy_[a-z_]+")
SELECTOR = re.compile(r"\b(llm_proxy_[a-z_]+)\{([^}]*)\}")
SUFFIXES = ("_bucket", "_sum", "_count")


def expressions() -> list[str]:
    """Returns every PromQL expression in `deploy/`."""
    rules: Any = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    board: Any = json.loads((DEPLOY / "grafana" / "llm-proxy.json").read_text())
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return alerts + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def exported(name: str) -> str:
    """Returns the metric of a series."""
    for suffix in SUFFIXES:
        whole = name.removesuffix(suffix)
        if whole in METRICS and METRICS[whole].kind == "histogram":
            return whole
    return name


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_in_an_expression_is_exported(expression: str) -> None:
    """Histograms by their series; selectors use labels that the metric has."""
    names = {exported(name) for name in NAME.findall(expression)}
    assert names
    assert names <= METRICS.keys()
    for name, labels in SELECTOR.findall(expression):
        used = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", labels))
        assert used <= {*METRICS[exported(name)].labels, "le"}


def test_every_grouping_uses_existing_labels() -> None:
    """`sum by (x)` of a metric without `x` would add everything up."""
    for expression in expressions():
        groups = re.findall(r"by \(([^)]*)\)", expression)
        labels = {label for name in NAME.findall(expression) for label in METRICS[exported(name)].labels}
        for group in groups:
            assert {label.strip() for label in group.split(",")} <= labels | {"le"}


def test_every_alert_is_tested_both_ways() -> None:
    """`make alerts` has a situation in which it fires; the healthy situation has its metric."""
    rules: Any = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    situations: Any = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())
    healthy, *others = situations["tests"]
    fired = {
        re.findall(r'alertname="(\w+)"', sample["labels"])[0]
        for one in others
        for sample in one["promql_expr_test"][0]["exp_samples"]
    }
    quiet = {NAME.findall(series["series"])[0] for series in healthy["input_series"]}
    assert healthy["promql_expr_test"][0]["exp_samples"] == []
    for rule in rules["groups"][0]["rules"]:
        assert rule["alert"] in fired
        assert set(NAME.findall(rule["expr"])) <= quiet


def test_every_alert_says_what_to_do() -> None:
    """It has severity, summary and action."""
    rules: Any = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "action"}


def test_links_of_the_dashboard_lead_to_pages_of_the_console() -> None:
    """To their paths, with filters that they have."""
    board: Any = json.loads((DEPLOY / "grafana" / "llm-proxy.json").read_text())
    links = [
        one["url"] for panel in board["panels"] for one in panel["fieldConfig"]["defaults"].get("links", ())
    ]
    assert len(links) > 5
    for link in links:
        variable, _, rest = link.partition("/")
        path, _, query = rest.partition("?")
        assert variable == "${console}"
        assert f"/{path}" in {page.path for page in PAGES}
        names = [pair.partition("=")[0] for pair in query.split("&") if pair]
        assert {*names} <= {*FILTERS, "since", "until"}
