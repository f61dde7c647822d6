"""Usage under the column names of FOCUS 1.2, the FinOps Open Cost and Usage Specification.

Pure. Invariants: every column that FOCUS makes mandatory is there, and filled where it must be; what it has
no column for stands in columns of `x_`; costs are exact, dates UTC, ends exclusive. A call nobody could
price costs 0 here and counts in `x_UnpricedRequests`. Source: https://focus.finops.org/focus-specification/v1-2/.
"""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from llm_proxy.errors import BadRequest
from llm_proxy.ledger.question import Line, Question
from llm_proxy.ledger.report import cell
from llm_proxy.ledger.zones import Span, Unit, span_of

PERIODS: tuple[Unit, ...] = ("hour", "day", "month")
BY = ("tenant", "agent", "key", "model", "provider")
COLUMNS = (
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


def by_period(question: Question) -> tuple[str, ...]:
    """What the lines are grouped by; raises `BadRequest` for groups that FOCUS has no rows for."""
    period, *more = question.by or ("day",)
    if more or period not in PERIODS:
        why = f"Rows of FOCUS are by {', '.join(BY)}; 'group_by' may be one of {', '.join(PERIODS)}."
        raise BadRequest(why, param="group_by")
    return (period, *BY)


def as_focus(lines: Iterable[Line], question: Question) -> str:
    """A header and the lines, comma-separated, of a question grouped as `by_period` says."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for line in lines:
        row = _row(line, question)
        writer.writerow([cell(row[name]) for name in COLUMNS])
    return out.getvalue()


def _row(line: Line, question: Question) -> dict[str, Any]:
    group, cost, tokens = line.group, f"{line.cost_usd:f}", line.total_tokens
    charge, billing = _periods(line, question)
    provider = group["provider"] or _NOBODY
    return {
        "BilledCost": cost, "ContractedCost": cost, "EffectiveCost": cost, "ListCost": cost,
        "BillingAccountId": provider, "BillingAccountName": provider, "BillingCurrency": "USD",
        "BillingPeriodStart": _text(billing[0]), "BillingPeriodEnd": _text(billing[1]),
        "ChargePeriodStart": _text(charge[0]), "ChargePeriodEnd": _text(charge[1]),
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


def _periods(line: Line, question: Question) -> tuple[Span, Span]:
    """When the charge arose, within the range asked for, and the month it belongs to."""
    [unit] = question.units
    value = line.group[unit]
    text = value if isinstance(value, str) else value.isoformat()
    since, until = span_of(unit, text, question.zone)
    month = since.astimezone(question.zone).strftime("%Y-%m")
    charge = max(since, question.since), min(until, question.until)
    return charge, span_of("month", month, question.zone)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
