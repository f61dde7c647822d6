"""Alert rules and dashboards name what is really exported."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_proxy.telemetry.metrics import METRICS

DEPLOY = Path(__file__).parents[3] / "deploy"
NAME = re.compile(r"\bllm_proxy_[a-z_]+")
SELECTOR = re.compile(r"\b(llm_proxy_[a-z_]+)\{([^}]*)\}")
SUFFIXES = ("_bucket", "_sum", "_count")


def expressions() -> list[str]:
    """Every PromQL expression shipped."""
    rules: Any = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    board: Any = json.loads((DEPLOY / "grafana" / "llm-proxy.json").read_text())
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return alerts + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def exported(name: str) -> str:
    """The metric a series belongs to."""
    for suffix in SUFFIXES:
        whole = name.removesuffix(suffix)
        if whole in METRICS and METRICS[whole].kind == "histogram":
            return whole
    return name


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_named_is_exported(expression: str) -> None:
    """A histogram by its buckets, a label only where the metric has it."""
    names = {exported(name) for name in NAME.findall(expression)}
    assert names
    assert names <= METRICS.keys()
    for name, labels in SELECTOR.findall(expression):
        used = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", labels))
        assert used <= {*METRICS[exported(name)].labels, "le"}


def test_every_grouping_is_by_labels_that_exist() -> None:
    """`sum by (x)` of a metric without `x` would draw one line and hide the rest."""
    for expression in expressions():
        groups = re.findall(r"by \(([^)]*)\)", expression)
        labels = {label for name in NAME.findall(expression) for label in METRICS[exported(name)].labels}
        for group in groups:
            assert {label.strip() for label in group.split(",")} <= labels | {"le"}


def test_every_alert_is_tested_both_ways() -> None:
    """By `make alerts`: it fires in one situation at least, and the healthy one has its metric."""
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
    """Severity, summary, action."""
    rules: Any = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "action"}
