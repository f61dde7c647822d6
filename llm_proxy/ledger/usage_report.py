"""Rows of a usage answer as JSON, as CSV and as FOCUS 1.2 CSV.

Pure. Invariants: CSV has a column for every JSON field; money is exact in CSV and rounded to the nano-dollar
in JSON; no cell is read as a formula. FOCUS: every mandatory column is present and filled; columns without
a FOCUS name begin with `x_`; a call without a price costs 0 and is counted in `x_UnpricedRequests`.
Source: https://focus.finops.org/focus-specification/v1-2/.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from llm_proxy.errors import BadRequest
from llm_proxy.ledger.usage_names import group_columns
from llm_proxy.ledger.usage_query import TimeSpan, TimeUnit, UsageQuery, UsageRow, parse_span

COLUMNS = (
    "requests", "succeeded", "success_rate", "avg_latency_ms", "prompt_tokens", "completion_tokens",
    "total_tokens", "cached_tokens", "reasoning_tokens", "cache_hits", "cost_usd", "unpriced_requests",
    "estimated_requests",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row_as_json(line: UsageRow) -> dict[str, Any]:
    """One line as an object: its group, then its sums."""
    return {
        **{name: _plain(value) for name, value in line.group.items()},
        **{column: _as_number(getattr(line, column)) for column in COLUMNS},
    }


def spans_as_json(spans: Iterable[TimeSpan]) -> list[dict[str, str]]:
    """Spans of time as objects."""
    return [{"since": since.isoformat(), "until": until.isoformat()} for since, until in spans]


def rows_as_csv(lines: Iterable[UsageRow], by: Sequence[str]) -> str:
    """A header and the lines, comma-separated (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out)
    groups = group_columns(by)
    writer.writerow([*groups, *COLUMNS])
    for line in lines:
        group = [csv_cell(_plain(line.group[name])) for name in groups]
        writer.writerow([*group, *(_number(getattr(line, column)) for column in COLUMNS)])
    return out.getvalue()


def _as_number(value: object) -> object:
    if isinstance(value, Decimal):
        return round(float(value), 9)
    return round(value, 6) if isinstance(value, float) else value


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, (date, datetime)) else value


def csv_cell(value: object) -> object:
    """A value as no spreadsheet takes it for a formula."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _number(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    return "" if value is None else f"{value:f}" if hasattr(value, "as_tuple") else value


FOCUS_PERIODS: tuple[TimeUnit, ...] = ("hour", "day", "month")
FOCUS_GROUPS = ("tenant", "agent", "key", "model", "provider")
FOCUS_COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency",
    "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName",
    "PublisherName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName",
    "ServiceSubcategory", "SubAccountId", "SubAccountName", "x_Agent", "x_CacheHits", "x_CachedTokens",
    "x_CompletionTokens", "x_EstimatedRequests", "x_KeyId", "x_KeyName", "x_PromptTokens",
    "x_ReasoningTokens", "x_Requests", "x_Tenant", "x_UnpricedRequests",
)  # fmt: skip
_NOBODY = "unknown"
"""Whom a call was made at that reached no provider; FOCUS allows no empty name there."""


def focus_groups(question: UsageQuery) -> tuple[str, ...]:
    """What the lines are grouped by; raises `BadRequest` for groups that FOCUS has no rows for."""
    period, *more = question.group_by or ("day",)
    if more or period not in FOCUS_PERIODS:
        by, periods = ", ".join(FOCUS_GROUPS), ", ".join(FOCUS_PERIODS)
        why = f"Rows of FOCUS are by {by}; 'group_by' may be one of {periods}."
        raise BadRequest(why, param="group_by")
    return (period, *FOCUS_GROUPS)


def rows_as_focus_csv(lines: Iterable[UsageRow], question: UsageQuery) -> str:
    """A header and the lines, comma-separated, of a question grouped as `by_period` says."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(FOCUS_COLUMNS)
    for line in lines:
        row = _focus_row(line, question)
        writer.writerow([csv_cell(row[name]) for name in FOCUS_COLUMNS])
    return out.getvalue()


def _focus_row(line: UsageRow, question: UsageQuery) -> dict[str, Any]:
    group, cost, tokens = line.group, f"{line.cost_usd:f}", line.total_tokens
    charge, billing = _periods(line, question)
    provider = group["provider"] or _NOBODY
    return {
        "BilledCost": cost, "ContractedCost": cost, "EffectiveCost": cost, "ListCost": cost,
        "BillingAccountId": provider, "BillingAccountName": provider, "BillingCurrency": "USD",
        "BillingPeriodStart": _focus_time(billing[0]), "BillingPeriodEnd": _focus_time(billing[1]),
        "ChargePeriodStart": _focus_time(charge[0]), "ChargePeriodEnd": _focus_time(charge[1]),
        "ChargeCategory": "Usage", "ChargeClass": None, "ChargeFrequency": "Usage-Based",
        "ChargeDescription": f"Calls of {group['model']} at {provider}",
        "ConsumedQuantity": tokens, "ConsumedUnit": "Tokens",
        "PricingQuantity": tokens, "PricingUnit": "Tokens",
        "InvoiceIssuerName": provider, "ProviderName": provider, "PublisherName": provider,
        "ResourceId": group["model"], "ResourceName": group["model"], "ResourceType": "Model",
        "ServiceCategory": "AI and Machine Learning", "ServiceName": "Model inference",
        "ServiceSubcategory": "Generative AI",
        "SubAccountId": group["tenant"], "SubAccountName": group["tenant"],
        "x_Tenant": group["tenant"], "x_Agent": group["agent"],
        "x_KeyId": group["key"], "x_KeyName": group["key_name"],
        "x_Requests": line.requests, "x_UnpricedRequests": line.unpriced_requests,
        "x_EstimatedRequests": line.estimated_requests, "x_CacheHits": line.cache_hits,
        "x_PromptTokens": line.prompt_tokens, "x_CompletionTokens": line.completion_tokens,
        "x_CachedTokens": line.cached_tokens, "x_ReasoningTokens": line.reasoning_tokens,
    }  # fmt: skip


def _periods(line: UsageRow, question: UsageQuery) -> tuple[TimeSpan, TimeSpan]:
    """When the charge arose, within the range asked for, and the month it belongs to."""
    [unit] = question.time_units
    value = line.group[unit]
    text = value if isinstance(value, str) else value.isoformat()
    since, until = parse_span(unit, text, question.zone)
    month = since.astimezone(question.zone).strftime("%Y-%m")
    charge = max(since, question.since), min(until, question.until)
    return charge, parse_span("month", month, question.zone)


def _focus_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
