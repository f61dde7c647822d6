"""Alert rules and dashboards use only exported metrics and labels."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_proxy.console.pages import PAGES
from llm_proxy.ledger.request_filters import FILTERS
from llm_proxy.telemetry.metric_table import METRICS

DEPLOY = Path(__file__).parents[3] / "deploy"
NAME = re.compile(r"\bllm_proxy_[a-z_]+\b(?!:)")
RECORDED = re.compile(r"\bllm_proxy:[a-z0-9_:]+")
EXPORTERS = re.compile(r"\b(?:node_filesystem|kubelet_volume_stats|probe_ssl)_[a-z_]+")
"""Metrics of node_exporter, the kubelet and blackbox_exporter: what the gateway cannot know."""
SELECTOR = re.compile(r"\b(llm_proxy_[a-z_]+)\{([^}]*)\}")
SUFFIXES = ("_bucket", "_sum", "_count")


def rules() -> list[Any]:
    """Returns every rule, those that record and those that alert."""
    read: Any = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    return [rule for group in read["groups"] for rule in group["rules"]]


def alerts() -> list[Any]:
    """Returns the rules that alert."""
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[Any]:
    """Returns the panels of the dashboard that show series."""
    board: Any = json.loads((DEPLOY / "grafana" / "llm-proxy.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Returns every PromQL expression in `deploy/`."""
    return [rule["expr"] for rule in rules()] + [
        target["expr"] for panel in panels() for target in panel["targets"]
    ]


def situations() -> list[Any]:
    """Returns the situations of `make alerts`, the healthy one first."""
    files = (DEPLOY / name for name in ("alerts_test.yml", "alerts_slow_test.yml"))
    return [one for file in files for one in yaml.safe_load(file.read_text())["tests"]]


def metrics_behind(expression: str) -> set[str]:
    """Returns the gateway's metrics in an expression, and in what recorded the series that it reads."""
    found = set(NAME.findall(expression))
    for name in RECORDED.findall(expression):
        found |= {
            metric
            for rule in rules()
            if rule.get("record") == name
            for metric in metrics_behind(rule["expr"])
        }
    return found


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
    recorded = {rule.get("record") for rule in rules()}
    names = {exported(name) for name in NAME.findall(expression)}
    assert set(RECORDED.findall(expression)) <= recorded
    assert names or EXPORTERS.search(expression) or RECORDED.search(expression) or "vector(" in expression
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
            assert {label.strip() for label in group.split(",")} <= labels | {"le", "instance"}


def test_every_alert_is_tested_both_ways() -> None:
    """It fires in one situation; not in one that looks like it, and not in the healthy one."""
    healthy, *others = situations()
    fired: set[str] = set()
    held_back: dict[str, set[str]] = {}
    for one in others:
        firing = {
            re.findall(r'alertname="(\w+)"', sample["labels"])[0]
            for sample in one["promql_expr_test"][0]["exp_samples"]
        }
        fired |= firing
        if (name := re.match(r"not (\w+):", one["name"])) is not None:
            assert name[1] not in firing
            held_back.setdefault(name[1], set()).update(_metrics_in(one))
    assert healthy["promql_expr_test"][0]["exp_samples"] == []
    for rule in alerts():
        behind = metrics_behind(rule["expr"])
        assert rule["alert"] in fired
        assert behind & held_back[rule["alert"]] or EXPORTERS.search(rule["expr"]), rule["alert"]
        assert behind <= _metrics_in(healthy)


def _metrics_in(situation: Any) -> set[str]:
    return {NAME.findall(one["series"])[0] for one in situation["input_series"] if NAME.search(one["series"])}


def test_every_alert_says_what_to_do() -> None:
    """It has a severity, a summary that says what to do, and its own page."""
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "runbook_url"}
        assert re.search(r"[:?] \S", rule["annotations"]["summary"])
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"


def test_objectives_stand_in_one_place() -> None:
    """Each has a number and the two rates that the burn is made of; no alert repeats a number."""
    numbers = [rule for rule in rules() if rule.get("record") == "llm_proxy:objective:ratio"]
    objectives = {rule["labels"]["slo"]: float(rule["expr"][len("vector(") : -1]) for rule in numbers}
    assert objectives.keys() == {"availability", "latency", "records"}
    assert all(0.9 < number < 1 for number in objectives.values())
    for rate in ("llm_proxy:events:rate5m", "llm_proxy:failures:rate5m"):
        assert {one["labels"]["slo"] for one in rules() if one.get("record") == rate} == objectives.keys()
    assert not any(str(number) in rule["expr"] for number in objectives.values() for rule in alerts())


def test_links_of_the_dashboard_lead_to_pages_of_the_console() -> None:
    """To their paths, with filters that they have."""
    links = [one["url"] for panel in panels() for one in panel["fieldConfig"]["defaults"].get("links", ())]
    assert len(links) > 5
    for link in links:
        variable, _, rest = link.partition("/")
        path, _, query = rest.partition("?")
        assert variable == "${console}"
        assert f"/{path}" in {page.path for page in PAGES}
        names = [pair.partition("=")[0] for pair in query.split("&") if pair]
        assert {*names} <= {*FILTERS, "since", "until"}
