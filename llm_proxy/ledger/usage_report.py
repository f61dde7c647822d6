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
from llm_proxy.quantities import QUANTITY_OF_UNIT

SUM_COLUMNS = (
    "requests", "succeeded", "success_rate", "avg_latency_ms", "prompt_tokens", "completion_tokens",
    "total_tokens", "cached_tokens", "reasoning_tokens", "cache_hits", "cost_usd", "unpriced_requests",
    "estimated_requests", *QUANTITY_OF_UNIT, "p50_latency_ms", "p95_latency_ms", "latency_requests",
    "p50_ttft_ms", "p95_ttft_ms", "ttft_requests",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row_as_json(row: UsageRow) -> dict[str, Any]:
    """Returns a row as an object: its group, then its sums."""
    return {
        **{name: _plain(value) for name, value in row.group.items()},
        **{column: _json_number(getattr(row, column)) for column in SUM_COLUMNS},
    }


def spans_as_json(spans: Iterable[TimeSpan]) -> list[dict[str, str]]:
    """Returns spans of time as objects with `since` and `until`."""
    return [{"since": since.isoformat(), "until": until.isoformat()} for since, until in spans]


def rows_as_csv(rows: Iterable[UsageRow], group_by: Sequence[str]) -> str:
    """Returns a header and the rows, comma-separated (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out)
    groups = group_columns(group_by)
    writer.writerow([*groups, *SUM_COLUMNS])
    for row in rows:
        group = [csv_cell(_plain(row.group[name])) for name in groups]
        writer.writerow([*group, *(_csv_number(getattr(row, column)) for column in SUM_COLUMNS)])
    return out.getvalue()


def _json_number(value: object) -> object:
    if isinstance(value, Decimal):
        return round(float(value), 9)
    return round(value, 6) if isinstance(value, float) else value


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, (date, datetime)) else value


def csv_cell(value: object) -> object:
    """Returns a value for a CSV cell; quotes a text that a spreadsheet would take for a formula."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _csv_number(value: object) -> object:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return "" if value is None else round(value, 6) if isinstance(value, float) else value


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
    "x_ReasoningTokens", "x_Requests", "x_Tenant", "x_UnpricedRequests", "x_Images", "x_AudioSeconds",
    "x_Characters", "x_SearchUnits",
)  # fmt: skip
_NO_PROVIDER = "unknown"
"""The provider of a call that reached none; FOCUS requires a name."""


def focus_groups(query: UsageQuery) -> tuple[str, ...]:
    """Returns the dimensions to group by for FOCUS; raises `BadRequest` for groups it has no rows for."""
    period, *more = query.group_by or ("day",)
    if more or period not in FOCUS_PERIODS:
        by, periods = ", ".join(FOCUS_GROUPS), ", ".join(FOCUS_PERIODS)
        message = f"Rows of FOCUS are by {by}; 'group_by' may be one of {periods}."
        raise BadRequest(message, param="group_by")
    return (period, *FOCUS_GROUPS)


def rows_as_focus_csv(rows: Iterable[UsageRow], query: UsageQuery) -> str:
    """Returns a header and the rows, comma-separated, of a query grouped by `focus_groups`."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(FOCUS_COLUMNS)
    for row in rows:
        focus_row = _focus_row(row, query)
        writer.writerow([csv_cell(focus_row[name]) for name in FOCUS_COLUMNS])
    return out.getvalue()


def _focus_row(row: UsageRow, query: UsageQuery) -> dict[str, Any]:
    group, cost = row.group, f"{row.cost_usd:f}"
    consumed, unit = _consumed(row)
    charge, billing = _periods(row, query)
    provider = group["provider"] or _NO_PROVIDER
    return {
        "BilledCost": cost, "ContractedCost": cost, "EffectiveCost": cost, "ListCost": cost,
        "BillingAccountId": provider, "BillingAccountName": provider, "BillingCurrency": "USD",
        "BillingPeriodStart": _focus_time(billing[0]), "BillingPeriodEnd": _focus_time(billing[1]),
        "ChargePeriodStart": _focus_time(charge[0]), "ChargePeriodEnd": _focus_time(charge[1]),
        "ChargeCategory": "Usage", "ChargeClass": None, "ChargeFrequency": "Usage-Based",
        "ChargeDescription": f"Calls of {group['model']} at {provider}",
        "ConsumedQuantity": consumed, "ConsumedUnit": unit,
        "PricingQuantity": consumed, "PricingUnit": unit,
        "InvoiceIssuerName": provider, "ProviderName": provider, "PublisherName": provider,
        "ResourceId": group["model"], "ResourceName": group["model"], "ResourceType": "Model",
        "ServiceCategory": "AI and Machine Learning", "ServiceName": "Model inference",
        "ServiceSubcategory": "Generative AI",
        "SubAccountId": group["tenant"], "SubAccountName": group["tenant"],
        "x_Tenant": group["tenant"], "x_Agent": group["agent"],
        "x_KeyId": group["key"], "x_KeyName": group["key_name"],
        "x_Requests": row.requests, "x_UnpricedRequests": row.unpriced_requests,
        "x_EstimatedRequests": row.estimated_requests, "x_CacheHits": row.cache_hits,
        "x_PromptTokens": row.prompt_tokens, "x_CompletionTokens": row.completion_tokens,
        "x_CachedTokens": row.cached_tokens, "x_ReasoningTokens": row.reasoning_tokens,
        "x_Images": row.images, "x_AudioSeconds": row.audio_seconds,
        "x_Characters": row.characters, "x_SearchUnits": row.search_units,
    }  # fmt: skip


def _consumed(row: UsageRow) -> tuple[float, str]:
    """Returns what a row's calls consumed: tokens, or of a model that uses none its own unit."""
    other = (
        (row.images, "Images"),
        (row.audio_seconds, "Seconds"),
        (row.characters, "Characters"),
        (row.search_units, "Search Units"),
    )
    return next((one for one in other if one[0] and not row.total_tokens), (row.total_tokens, "Tokens"))


def _periods(row: UsageRow, query: UsageQuery) -> tuple[TimeSpan, TimeSpan]:
    """Returns the charge period of a row, within the query's range, and its billing month."""
    [unit] = query.time_units
    value = row.group[unit]
    text = value if isinstance(value, str) else value.isoformat()
    since, until = parse_span(unit, text, query.zone)
    month = since.astimezone(query.zone).strftime("%Y-%m")
    charge = max(since, query.since), min(until, query.until)
    return charge, parse_span("month", month, query.zone)


def _focus_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
