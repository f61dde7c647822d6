"""How far each budget is spent, and whether it lasts to the end of its period at the present pace.

Invariants: which budgets there are, and whose, is decided by the code of admission (`PolicyResolver`) for
every key and for every spender. Spend is that of the roll-ups, and what an import brought; a key's is also
that of the keys below it. The pace is that of the last seven days, of a budget of a day that of the last 24
hours; who began later, since then. Raises: `DatabaseUnavailable`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from llm_proxy.admission import reset_time
from llm_proxy.admission.limiter import LimitCheck
from llm_proxy.admission.policy_resolver import PolicyResolver, ServedModels
from llm_proxy.identity import Caller
from llm_proxy.identity.authenticator import INTERNAL_KEY_ID_PREFIX
from llm_proxy.identity.caller import BudgetUnit, ScopeKind
from llm_proxy.identity.postgres_store import Connection, Pool
from llm_proxy.ledger.budget_spend import spender_columns
from llm_proxy.ledger.usage_query import NAME_COLUMNS, TimeUnit, UsageQuery, UsageRow
from llm_proxy.ledger.usage_sql import read_snapshot, run_query
from llm_proxy.money import NANO_PER_USD
from llm_proxy.schema.database import db_deadline

RECENT_DAYS = 7
MAX_SPENDERS = 500
"""The number of a scope's spenders, by cost, whose budgets are forecast beside those of all keys."""
_DEADLINE_S = 10.0
_MAX_ROWS = 1_000_000
_RowsBySpender = dict[tuple[str, ...], list[UsageRow]]
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_RESOLVED_AT_ONCE = 50
_DIMENSIONS = {column: name for name, column in NAME_COLUMNS.items()}
_SPENDERS: Mapping[ScopeKind, tuple[str, ...]] = {
    "key": ("tenant", "key"),
    "agent": ("tenant", "agent"),
    "tenant": ("tenant",),
    "tenant_group": ("tenant", "model"),
    "user_model": ("tenant", "user", "model"),
    "provider": ("model",),
}
"""The dimensions by which a scope's spenders differ; none for `global`."""
_OPENING = """
    SELECT given.place, sum(o.cost_usd) AS cost_usd
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
        WITH ORDINALITY AS given (scope, subject, tenant, model_group, since, place)
    JOIN opening_spend AS o ON o.scope = given.scope AND o.subject = given.subject
        AND o.tenant IN (given.tenant, '*') AND o.model_group IN (given.model_group, '*')
        AND o.period_start >= given.since
    GROUP BY 1"""

_KEYS_ABOVE = "SELECT key_id, ancestors FROM api_keys WHERE key_id = ANY($1) AND ancestors <> '{}'"


@dataclass(frozen=True, slots=True)
class Spender:
    """A caller whose budgets are forecast.

    Attributes:
        group: The model group it calls; empty for none.
        scope: The only scope whose budgets are meant; None for all.
    """

    caller: Caller
    group: str = ""
    scope: ScopeKind | None = None


@dataclass(frozen=True, slots=True)
class BudgetForecast:
    """A budget of the present period; amounts in the budget's unit, money in nano-dollars.

    Attributes:
        per_day: The present pace.
        expected: What is spent when the period ends; None for a budget that never ends.
        runs_out_at: None if not before the period ends.
    """

    check: LimitCheck
    spent: int
    per_day: int
    expected: int | None
    runs_out_at: datetime | None

    @property
    def share(self) -> float:
        """What is spent of the limit; 1 for a limit of 0."""
        return self.spent / self.check.limit if self.check.limit else 1.0


def forecast_budget(check: LimitCheck, spent: int, per_day: float, now: datetime) -> BudgetForecast:
    """Returns how a budget ends if its spender goes on like this."""
    ends, expected, runs_out_at = reset_time(check), None, None
    if ends is not None:
        expected = spent + round(per_day * max((ends - now) / _DAY, 0.0))
    if spent >= check.limit:
        runs_out_at = now
    elif per_day > 0 and (check.limit - spent) / per_day < timedelta.max.days // 1000:
        at = now + (check.limit - spent) / per_day * _DAY
        runs_out_at = at if ends is None or at < ends else None
    return BudgetForecast(check, spent, round(per_day), expected, runs_out_at)


def pace_per_day(used: Mapping[datetime, int], now: datetime) -> float:
    """Returns the use a day of recent times, since the first one with any; of at least one day."""
    times = [begin for begin, amount in used.items() if amount]
    return sum(used.values()) / max((now - min(times)) / _DAY, 1.0) if times else 0.0


class BudgetForecasts:
    """Forecasts the budgets of keys, and of all spenders."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def fetch(
        self,
        keys: Sequence[Caller],
        resolver: PolicyResolver,
        served: ServedModels | None,
        now: datetime,
        tenant: str | None = None,
    ) -> list[BudgetForecast]:
        """Returns the forecasts: what runs out first, then what is spent furthest.

        Args:
            keys: The callers of all keys whose budgets are wanted.
            resolver: Today's policies.
            served: What the sidecar serves; None while unknown.
            now: The time.
            tenant: The only tenant; without it, budgets that tenants share are forecast too.
        """
        async with db_deadline(_DEADLINE_S), self._pool.acquire() as connection, read_snapshot(connection):
            sums = _SpendSums(connection, now, tenant)
            spenders = [Spender(caller) for caller in keys]
            for scope in _scopes_with_budgets(resolver):
                spenders += await sums.spenders(scope)
            checks = await _budgets(spenders, resolver, served, now)
            if tenant is not None:
                checks = [check for check in checks if not check.is_shared]
            forecasts = [
                await _forecast(sums, check, brought, now)
                for check, brought in zip(checks, await sums.opening_spend(checks), strict=True)
            ]
        never = datetime.max.replace(tzinfo=UTC)
        return sorted(forecasts, key=lambda one: (one.runs_out_at or never, -one.share, one.check.key))


def _scopes_with_budgets(resolver: PolicyResolver) -> list[ScopeKind]:
    stated = {policy.scope for policy in resolver.snapshot.policies if policy.budgets}
    scopes: list[ScopeKind] = [*_SPENDERS, "global"]
    return [scope for scope in scopes if scope in stated]


async def _budgets(
    spenders: Iterable[Spender], resolver: PolicyResolver, served: ServedModels | None, now: datetime
) -> list[LimitCheck]:
    """Returns the budgets that cover these spenders, each once."""
    found: dict[str, LimitCheck] = {}
    now_ms = int(now.timestamp() * 1000)
    for number, one in enumerate(spenders, 1):
        for check in resolver.resolve(one.caller, one.group, now_ms, served).checks:
            if check.kind == "budget" and one.scope in {None, check.scope}:
                found[check.key] = check
        if number % _RESOLVED_AT_ONCE == 0:
            await asyncio.sleep(0)  # calls are served between
    return [*found.values()]


async def _forecast(sums: "_SpendSums", check: LimitCheck, brought: int, now: datetime) -> BudgetForecast:
    columns = spender_columns(check.scope, check.spender_id, check.spender_tenant, check.spender_group)
    spender = {_DIMENSIONS[column]: value for column, value in columns.items()}
    period = await sums.used(spender, check.period_start or now, check.unit)
    recent = await sums.used(
        spender, _recent_since(check, now), check.unit, "hour" if check.period == "day" else "day"
    )
    return forecast_budget(check, sum(period.values()) + brought, pace_per_day(recent, now), now)


def _recent_since(check: LimitCheck, now: datetime) -> datetime:
    this_hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return (
        this_hour - 23 * _HOUR
        if check.period == "day"
        else this_hour.replace(hour=0) - (RECENT_DAYS - 1) * _DAY
    )


class _SpendSums:
    """Sums of one snapshot; each is read once, for all spenders of its kind together."""

    def __init__(self, connection: Connection, now: datetime, tenant: str | None) -> None:
        self._connection = connection
        self._now = now
        self._tenant = tenant
        self._until = datetime.combine(now.astimezone(UTC).date() + _DAY, time(), UTC)
        self._rows: dict[tuple[datetime, TimeUnit | None, tuple[str, ...]], _RowsBySpender] = {}

    async def spenders(self, scope: ScopeKind) -> list[Spender]:
        """Returns the spenders of a scope with the highest cost in the last 31 days."""
        by = _SPENDERS.get(scope, ())
        if not by:
            return [Spender(Caller("", "internal"), scope=scope)]
        rows = await self._query(self._until - 32 * _DAY, by, top=MAX_SPENDERS)
        return [
            Spender(
                Caller(
                    row.group.get("key") or "",
                    "internal",
                    row.group["tenant"] if "tenant" in by else None,
                    row.group.get("agent"),
                    row.group.get("user"),
                ),
                row.group.get("model") or "",
                scope,
            )
            for row in rows
            if scope != "key" or row.group["key"].startswith(INTERNAL_KEY_ID_PREFIX)
        ]

    async def _query(
        self, since: datetime, by: tuple[str, ...], top: int | None = None
    ) -> Sequence[UsageRow]:
        filters = {"tenant": self._tenant} if self._tenant is not None and "tenant" in by else {}
        query = UsageQuery(since, self._until, by, filters, top=top, max_rows=_MAX_ROWS)
        return (await run_query(self._connection, query, self._now)).rows

    async def used(
        self, spender: Mapping[str, str], since: datetime, unit: BudgetUnit, time_unit: TimeUnit | None = None
    ) -> dict[datetime, int]:
        """Returns a spender's use since a time, by the beginnings of hours or days (UTC), or in one sum."""
        by = tuple(sorted(spender))
        known = self._rows.get((since, time_unit, by))
        if known is None:
            known = self._rows[since, time_unit, by] = {}
            rows = await self._query(since, (*by, time_unit) if time_unit else by)
            above = await self._keys_above({row.group["key"] or "" for row in rows} if "key" in by else set())
            for row in rows:
                for key_id in (row.group.get("key"), *above.get(row.group.get("key"), ())):
                    names = {**row.group, "key": key_id}
                    known.setdefault(tuple(names[name] or "" for name in by), []).append(row)
        found: dict[datetime, int] = {}
        for row in known.get(tuple(spender[name] for name in by), ()):
            at = _begin(row.group[time_unit]) if time_unit else since
            found[at] = found.get(at, 0) + _amount(row, unit)
        return found

    async def _keys_above(self, ids: set[str]) -> Mapping[str | None, Sequence[str]]:
        """Returns the ids of the keys above each of these that is a child key."""
        if not ids:
            return {}
        rows = await self._connection.fetch(_KEYS_ABOVE, list(ids))
        return {row["key_id"]: row["ancestors"] for row in rows}

    async def opening_spend(self, checks: Sequence[LimitCheck]) -> list[int]:
        """Returns what each budget's spender had spent before the first call here; zeros for other units."""
        found = [0] * len(checks)
        given = [
            [check.scope for check in checks],
            [check.spender_id for check in checks],
            [check.spender_tenant or "" for check in checks],
            [check.spender_group for check in checks],
            [check.period_start for check in checks],
        ]
        for row in await self._connection.fetch(_OPENING, *given):
            place = int(row["place"]) - 1
            if checks[place].unit == "usd":
                found[place] = int(row["cost_usd"] * NANO_PER_USD)
        return found


def _begin(label: date) -> datetime:
    """Returns the beginning of an hour or a day (UTC)."""
    return label if isinstance(label, datetime) else datetime.combine(label, time(), UTC)


def _amount(row: UsageRow, unit: BudgetUnit) -> int:
    if unit == "usd":
        return int(row.cost_usd * NANO_PER_USD)
    if unit == "requests":
        return row.requests
    return row.total_tokens if unit == "tokens" else row.quantities.of_unit(unit)
