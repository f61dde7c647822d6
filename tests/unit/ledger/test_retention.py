"""The table of retention says what the settings say, and the page says what the table says."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from llm_proxy.ledger.retention import RETENTION, RetainedTable, days_kept
from llm_proxy.settings import RetentionDays, load

PAGE = (Path(__file__).parents[3] / "docs/retention.md").read_text(encoding="utf-8")
SETTABLE = RetentionDays.model_fields


def row(table: RetainedTable) -> str:
    """The line of a table on the page."""
    setting = f"`LLM_PROXY__{table.setting.upper()}`" if table.setting else ""
    setting = f"`{table.name}`, at least {table.least}" if table.least is not None else setting
    kept = {None: "for ever", 0: "till its time"}.get(table.days, f"{table.days} days")
    kept = "" if table.how in {"follows", "stays"} else kept
    return f"| `{table.name}` | {kept} | {setting} | {table.ends} |"


def test_defaults_are_those_of_the_settings() -> None:
    assert days_kept(load()) == {one.name: one.days for one in RETENTION if one.days is not None}


@pytest.mark.parametrize("table", RETENTION, ids=lambda table: table.name)
def test_a_table_stands_on_the_page(table: RetainedTable) -> None:
    assert row(table) in PAGE


@pytest.mark.parametrize(
    "table", [one for one in RETENTION if one.least is not None], ids=lambda one: one.name
)
def test_a_time_can_be_set_and_has_a_bound(table: RetainedTable) -> None:
    assert table.least is not None
    kept = days_kept(load(retention_days={table.name: 500}))
    assert kept[table.name] == 500
    with pytest.raises(ValidationError):
        RetentionDays.model_validate({table.name: table.least - 1})


def test_each_time_that_can_be_set_is_of_a_table() -> None:
    assert set(SETTABLE) == {one.name for one in RETENTION if one.least is not None}
    with pytest.raises(ValidationError):
        RetentionDays.model_validate({"erasures": 30})


def test_an_erasure_finds_a_persons_requests_for_as_long_as_they_are_kept() -> None:
    settings = load(retention_days={"usage_user_days": 40})
    assert days_kept(settings)["usage_user_days"] == settings.requests_retention_days
