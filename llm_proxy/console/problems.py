"""What is wrong now, and what to do about it, from the gateway's own health and admin API and the usage.

Invariants: what does not answer is a problem of its own, never an error page; a tenant's admin and the holder
of a key learn of their own budgets and calls alone.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from llm_proxy.console.access import GLOBAL, READERS, Viewer
from llm_proxy.console.gateway_api import GatewayRejected
from llm_proxy.console.rendering import UNKNOWN
from llm_proxy.console.usage_view import UsageView
from llm_proxy.json_access import Json
from llm_proxy.ledger.request_filters import parse_filters
from llm_proxy.ledger.request_search import RequestSearch, RequestSearcher
from llm_proxy.ledger.usage_store import PostgresUsage

MAX_BUDGETS = 8
_SERVING = ("healthy", "degraded")
"""What `/health` says while calls are served."""
_RECENT, _LATELY = timedelta(hours=24), timedelta(hours=1)
_FAILING_SHARE, _FAILING_CALLS = 0.2, 5
_ADVICE = {
    "gateway": "It finishes its calls and stops. Start it again, or wait for the new one.",
    "unknown": "Check whether the gateway and its stores run: until they answer, budgets are unknown.",
    "sidecars": "See the sidecars' logs; `llm-proxy reload` starts new ones.",
    "limits": "Start the Valkey of LIMITS_REDIS_URL, or correct its address: until then limits are kept as"
    " the settings of a failed store say.",
    "database": "Start the Postgres of DATABASE_URL, or correct what it rejects: records wait in the spool.",
    "background": "See the gateway's log for these names.",
    "spool": "Let the gateway write to LLM_PROXY__SPOOL_DIR: what waits in memory is lost when it is killed.",
}
_EVENTS = {
    "provider.credentials_refused": "Put a valid key of this provider into .keys/, then `llm-proxy reload`.",
    "sidecar.lost": "See the sidecars' logs for why it ended.",
    "credentials.refused": "See the audit page for the addresses: a client has an old key, or guesses keys.",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong now.

    Attributes:
        kind: `bad` (calls fail) or `warn`.
        advice: What to do.
        href: Where more is to be seen; empty for nowhere.
    """

    kind: str
    text: str
    advice: str
    href: str = ""


async def find_problems(
    viewer: Viewer, usage: PostgresUsage, searcher: RequestSearcher, now: datetime
) -> list[Problem]:
    """Returns what is wrong for a viewer, the worst first."""
    reads = [_components(viewer), _budgets(viewer), _failing_models(viewer, usage, now)]
    if viewer.may(*READERS):
        reads.append(_stopped_runs(viewer))
    if viewer.may(*GLOBAL):
        reads += [_events(viewer, now), _rejected_by_providers(searcher, now)]
    found = [one for problems in await asyncio.gather(*map(_or_unknown, reads)) for one in problems]
    return sorted(dict.fromkeys(found), key=lambda one: one.kind != "bad")


async def _or_unknown(asked: Awaitable[Sequence[Problem]]) -> Sequence[Problem]:
    """Returns the answer; that it is not known, where the gateway does not give one."""
    try:
        return await asked
    except GatewayRejected as fault:
        return [Problem("bad", f"Not everything is known now: {fault.message}", _ADVICE["unknown"])]


async def _components(viewer: Viewer) -> list[Problem]:
    """Returns the parts that fail; to a tenant's admin and a key's holder only that calls do."""
    health = await viewer.api.health()
    if not viewer.may(*GLOBAL):
        serves = health.get("status") in _SERVING
        return [] if serves else [Problem("bad", "The gateway cannot serve calls now.", "Try again later.")]
    return [
        Problem(
            "bad" if part["state"] == "down" else "warn",
            f"{part['part']}: {part['state']} ({part['detail'] or 'no detail'})",
            _ADVICE.get(part["part"], ""),
        )
        for part in health.get("parts", [])
        if part["state"] != "ok"
    ]


async def _events(viewer: Viewer, now: datetime) -> list[Problem]:
    """Returns what operators were notified of in the last day, each kind and subject once."""
    rows = (await viewer.api.get("/admin/notifications", limit=100))["data"]
    latest: dict[str, Problem] = {}
    for row in rows:
        kind, text = row["type"], row["data"]["message"]
        if kind in _EVENTS and now - datetime.fromisoformat(row["timestamp"]) < _RECENT:
            latest.setdefault(text, Problem("warn", text, _EVENTS[kind], "/notifications"))
    return [*latest.values()]


async def _rejected_by_providers(searcher: RequestSearcher, now: datetime) -> list[Problem]:
    """Returns deployments whose calls failed lately because their provider rejects its key."""
    search = RequestSearch(now - _LATELY, now, parse_filters([("cause", "provider_auth")]))
    deployments = sorted({str(row["deployment"]) for row in (await searcher.find_page(search)).rows})
    return [
        Problem(
            "bad",
            f"The provider of {deployment} rejects the gateway's key.",
            _EVENTS["provider.credentials_refused"],
            "/requests?" + urlencode({"cause": "provider_auth", "since": "1h"}),
        )
        for deployment in deployments
    ]


async def _stopped_runs(viewer: Viewer) -> list[Problem]:
    """Returns the runs that the loop guard has stopped."""
    rows = (await viewer.api.get("/admin/runs/quarantined"))["data"]
    return [
        Problem(
            "warn",
            f"The run {row['run']} is stopped: {row['reason']}",
            "Look at it, then release it.",
            "/runs",
        )
        for row in rows
    ]


async def _budgets(viewer: Viewer) -> list[Problem]:
    """Returns budgets that do not last."""
    if viewer.role == "key":
        rows = _own_budgets(await viewer.api.get("/v1/limits"))
    else:
        rows = (await viewer.api.get("/admin/budgets", limit=100))["data"]
    ending = [row for row in rows if row["runs_out_at"]]
    problems = [_budget_problem(row) for row in ending[:MAX_BUDGETS]]
    if len(ending) > MAX_BUDGETS:
        problems.append(
            Problem("warn", f"{len(ending) - MAX_BUDGETS} more budgets end early.", "", "/overview/budgets")
        )
    return problems


def _own_budgets(limits: Json) -> list[Json]:
    return [
        {
            **row,
            "runs_out_at": row["exhausted_at"],
            "spent_usd": row.get("used_usd"),
            "spent": row.get("used"),
        }
        for row in limits["limits"]
        if row["kind"] == "budget" and "exhausted_at" in row
    ]


def _budget_problem(row: Json) -> Problem:
    spent, limit = budget_amount(row, "spent"), budget_amount(row, "limit")
    at = datetime.fromisoformat(row["runs_out_at"])
    ended = at <= datetime.now(UTC)
    when = "is used up" if ended else f"runs out on {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    text = f"The budget of {row['subject']} {when}: {spent} of {limit} a {row['period']}."
    return Problem("bad" if ended else "warn", text, "Raise it, or find what spends it.", "/overview/budgets")


def budget_amount(row: Json, name: str) -> str:
    """Returns a figure of a budget for people."""
    if row.get(f"{name}_usd") is not None:
        return f"${float(row[f'{name}_usd']):,.2f}"
    value = row.get(name)
    return UNKNOWN if value is None else f"{value:,} {str(row.get('unit', '')).replace('_', ' ')}".strip()


async def _failing_models(viewer: Viewer, usage: PostgresUsage, now: datetime) -> Sequence[Problem]:
    """Returns models of which many calls failed since the last full hour but one."""
    since = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    filters = {} if viewer.scope.tenant is None else {"tenant": viewer.scope.tenant}
    view = UsageView({}, since, since + timedelta(hours=3), (since, since), UTC, filters, viewer)
    rows = (await usage.query(replace(view.query("model"), top=50), now)).rows
    failing = [
        row for row in rows if row.requests >= _FAILING_CALLS and 1 - row.success_rate >= _FAILING_SHARE
    ]
    return [
        Problem(
            "warn",
            f"Model {row.group['model']}: {row.requests - row.succeeded} of {row.requests} calls failed"
            f" since {since:%H:%M} UTC.",
            "See why these calls failed.",
            "/requests?" + urlencode({"model": row.group["model"], "since": "2h", "outcome": "error"}),
        )
        for row in failing
    ]
