"""Forms of keys and limits <-> bodies of the admin API.

Invariants: pure. A text that is not a number is sent as it is, so that the API's error stands at it; an
empty field is null; what a form does not have is not sent. Money stays text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast, get_args

import orjson
from starlette.datastructures import FormData

from llm_proxy.dialects.request.strict_json import reject_duplicates
from llm_proxy.errors import APIError, BadRequest
from llm_proxy.identity.caller import BudgetUnit, Period
from llm_proxy.json_access import Json, as_object, as_objects

LIMITS = ("rpm", "tpm", "parallel")
BUDGET_UNITS: tuple[BudgetUnit, ...] = get_args(BudgetUnit)
BUDGET_PERIODS: tuple[Period, ...] = get_args(Period)
_COUNTS = frozenset({*LIMITS, "max_tokens_cap", "overlap_s", "duration_s"})
_LISTS = frozenset({"models", "tags"})
_BUDGET_PARTS = ("limit", "unit", "period", "zone")
_BUDGET_FIELDS = frozenset({"budgets", "zone", "period", *(f"limit_{unit}" for unit in BUDGET_UNITS)})
FURTHER = "further"
"""The field that has what a form has no field for."""
EMPTY_BUDGETS = 2
"""Empty rows below the budgets that are there: a form needs no script to take more."""


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A row of the budgets in a form, as text."""

    limit: str = ""
    unit: str = "usd"
    period: str = "month"
    zone: str = ""


@dataclass(frozen=True, slots=True)
class FormState:
    """What a form shows: texts by field, budgets, and the error of the API at its field.

    Attributes:
        error: The message; empty for none.
        error_field: The field at fault; empty for the form as a whole.
    """

    values: Mapping[str, str] = field(default_factory=dict[str, str])
    budgets: tuple[BudgetRow, ...] = ()
    error: str = ""
    error_field: str = ""

    def value(self, name: str) -> str:
        """Returns a field's text."""
        return self.values.get(name, "")

    def error_at(self, name: str) -> str:
        """Returns the error of a field; empty for none."""
        return self.error if name == self.error_field else ""

    @property
    def budget_rows(self) -> tuple[BudgetRow, ...]:
        """The budgets, and empty rows for more."""
        return (*self.budgets, *(BudgetRow() for _ in range(EMPTY_BUDGETS)))

    def error_elsewhere(self, fields: Iterable[str]) -> str:
        """Returns the error, unless it is at one of these fields."""
        return "" if self.error_field in {*fields} else self.error


def state_of(document: Mapping[str, object]) -> FormState:
    """Returns a form that shows a document of the API."""
    values = {name: _text(value) for name, value in document.items() if name != "budgets"}
    return FormState(values, tuple(_budget_row(one) for one in as_objects(document.get("budgets"))))


def state_of_sent(form: FormData, error: APIError | None = None) -> FormState:
    """Returns a form that shows what was sent, with the error that the API gave."""
    values = {name: value for name, value in form.items() if isinstance(value, str)}
    message, param = (error.message, error.param or "") if error is not None else ("", "")
    parts = [part for part in param.replace("[", ".").split(".") if part != "body"]
    at = "budgets" if any(part in _BUDGET_FIELDS for part in parts) else (parts or [""])[0]
    return FormState(values, tuple(_sent_budgets(form)), message, at)


def document_of(form: FormData, fields: Iterable[str]) -> Json:
    """Returns the fields of a sent form as a document of the API; `budgets` if it is one of the fields."""
    found: Json = {}
    for name in fields:
        if name == "budgets":
            found[name] = [_budget_document(one) for one in _sent_budgets(form)]
        elif name == "cache":
            found[name] = form.get(name) == "on"
        else:
            text = str(form.get(name) or "").strip()
            found[name] = _value(name, text) if text else None
    return found


def further_fields(document: Mapping[str, object], known: Iterable[str]) -> str:
    """Returns the fields for which a form has no field of its own, as JSON; empty without any."""
    names = {*known}
    found = {name: value for name, value in document.items() if name not in names and value is not None}
    return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() if found else ""


def parse_further_fields(text: str) -> Json:
    """Returns the fields that `further_fields` showed, as they were sent; raises `BadRequest`."""
    found: object = parse_json(text, FURTHER) if text.strip() else {}
    if not isinstance(found, dict):
        raise BadRequest("This is not a JSON object.", param=FURTHER)
    return as_object(cast("object", found))


def parse_json(text: str, name: str) -> object:
    """Returns what the JSON in a form's field says; raises `BadRequest` naming the field."""
    try:
        found: object = orjson.loads(text)
        reject_duplicates(text)
    except orjson.JSONDecodeError as fault:
        raise BadRequest(f"This is not JSON: {fault}.", param=name) from None
    except BadRequest as fault:
        raise BadRequest(fault.message, param=name, code=fault.code) from None
    return found


def set_fields(document: Mapping[str, object]) -> Json:
    """Returns a document without the fields that are null or empty: for what is created."""
    return {name: value for name, value in document.items() if value not in (None, [], ())}


def changed_fields(document: Mapping[str, object], current: Mapping[str, object]) -> Json:
    """Returns the fields of a document that differ from the current one."""
    return {name: value for name, value in document.items() if value != _comparable(name, current)}


def _comparable(name: str, current: Mapping[str, object]) -> object:
    value = current.get(name)
    return None if name in _LISTS and value == [] else value


def _value(name: str, text: str) -> object:
    if name in _COUNTS:
        return int(text) if text.isascii() and text.isdigit() else text
    if name in _LISTS:
        return [part.strip() for line in text.splitlines() for part in line.split(",") if part.strip()]
    return text


def _text(value: object) -> str:
    if value is None or value == []:
        return ""
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    if isinstance(value, bool):
        return "on" if value else ""
    return str(value)


def _budget_row(document: Json) -> BudgetRow:
    [unit] = [one for one in BUDGET_UNITS if f"limit_{one}" in document]
    return BudgetRow(
        str(document[f"limit_{unit}"]), unit, str(document["period"]), str(document.get("zone") or "")
    )


def _sent_budgets(form: FormData) -> list[BudgetRow]:
    columns = [[str(one).strip() for one in form.getlist(f"budget_{part}")] for part in _BUDGET_PARTS]
    return [BudgetRow(*row) for row in zip(*columns, strict=False) if row[0]]


def _budget_document(row: BudgetRow) -> Json:
    is_count = row.unit != "usd" and row.limit.isascii() and row.limit.isdigit()
    limit: object = int(row.limit) if is_count else row.limit
    return {f"limit_{row.unit}": limit, "period": row.period, **({"zone": row.zone} if row.zone else {})}
