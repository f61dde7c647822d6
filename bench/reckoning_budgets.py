"""Budgets of every scope: laid down before the calls of a reckoning, compared afterwards with what was used.

Invariant: what a budget has to hold is worked out from the price list and from what the provider says that it
stated; no figure of a gateway is taken for it, but for calls whose tokens nobody stated. Money: nano-dollars.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any

import aiohttp

from bench.reckoning_books import Case, Finding, nano, truth_of
from bench.reckoning_calls import AWAY
from bench.reckoning_house import ADMIN_KEY, KEY, House
from bench.reckoning_models import MODELS, NANO, SURE, cost_nano_usd
from bench.reckoning_plan import EXACT, LEAVING, POOR

Json = dict[str, Any]
SCOPES = ("key", "agent", "tenant", "tenant_group", "user_model", "provider", "global")
AMPLE_USD = "1000"
POOR_NANO_USD = 300_000
"""Enough for the first calls of the tenant `POOR`."""
BYTES_A_TOKEN = 4
AT_ONCE = 16
PATIENCE_S = 20.0
OFF = (0.5, 2.0)
"""What a caller left behind is an estimate: at least and at most these shares of the truth."""


@dataclass(slots=True)
class Audit:
    """What came of the budgets.

    Attributes:
        checked: By scope, how many budgets were compared.
        leaving: What callers who left are billed, and the truth.
        poor: What the tenant without money spent, of what.
    """

    checked: Counter[str] = field(default_factory=Counter[str])
    findings: list[Finding] = field(default_factory=list[Finding])
    leaving: tuple[int, int] = (0, 0)
    poor: tuple[int, int] = (0, POOR_NANO_USD)

    def report(self) -> Json:
        """The same as JSON."""
        return {
            "checked": dict(self.checked),
            "findings": [asdict(one) for one in self.findings[:200]],
            "leaving": self.leaving,
            "poor": self.poor,
        }

    def find(self, rule: str, subject: str, detail: object) -> None:
        """A rule was broken."""
        self.findings.append(Finding(rule, "budget", subject, "", str(detail)))


@dataclass(frozen=True, slots=True)
class Seat:
    """Whom a call acts for."""

    tenant: str
    agent: str
    user: str
    group: str

    def headers(self) -> dict[str, str]:
        """As a caller says it."""
        named = {"X-Tenant-Id": self.tenant, "X-Agent-Id": self.agent, "X-User-Id": self.user}
        return {"Authorization": f"Bearer {KEY}"} | named

    def subject(self, scope: str) -> tuple[str, ...]:
        """What of it a scope counts by."""
        return {
            "key": (self.tenant,),
            "tenant": (self.tenant,),
            "agent": (self.tenant, self.agent),
            "tenant_group": (self.tenant, self.group),
            "user_model": (self.tenant, self.user, self.group),
        }[scope]


async def lay_down(home: House) -> None:
    """A budget at every scope, ample but for one tenant's; raises `RuntimeError` if a rule is refused."""
    async with aiohttp.ClientSession() as session:
        for scope in SCOPES:
            await _rule(session, home, {"scope": scope}, Decimal(AMPLE_USD) * NANO)
        await _rule(session, home, {"scope": "tenant", "tenant": POOR}, Decimal(POOR_NANO_USD))
    await asyncio.sleep(1.5)  # a rule holds everywhere within a second


async def _rule(session: aiohttp.ClientSession, home: House, rule: Json, nano_usd: Decimal | int) -> None:
    usd = f"{Decimal(nano_usd) / NANO:.9f}"
    body = rule | {"budgets": [{"limit_usd": usd, "period": "total"}]}
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with session.put(f"{home.gateways[0]}/admin/limits", json=body, headers=headers) as reply:
        if reply.status != 200:
            raise RuntimeError(await reply.text())


async def audit(home: House, cases: Sequence[Case]) -> Audit:
    """Compare every budget with the provider's books."""
    found = Audit()
    async with aiohttp.ClientSession() as session:
        await _scopes_of_callers(found, session, home, cases)
        await _scopes_of_all(found, session, home, cases)
        await _left(found, session, home, cases)
        await _spent_up(found, session, home, cases)
    return found


def owed(case: Case) -> int:
    """What the provider bills for a call that stated its tokens; 0 where none was made."""
    hit = case.planned.is_again and any(row["cache"] == "hit" for row in case.rows)
    if case.told is None or hit or not case.rows:
        return 0
    return cost_nano_usd(case.served, case.told["usage"]) or 0


def _seat(case: Case) -> Seat:
    planned = case.planned
    return Seat(planned.tenant, planned.agent, planned.user, planned.group)


async def _scopes_of_callers(
    found: Audit, session: aiohttp.ClientSession, home: House, cases: Sequence[Case]
) -> None:
    """Tenants of whose calls the provider stated every token: each budget holds that to the nano-dollar.

    A fallback costs the group that was asked; in a counter that was made anew out of the ledger it costs the
    group that served.
    """
    spent, served = (defaultdict[str, Counter[tuple[str, ...]]](Counter) for _ in range(2))
    seats: dict[tuple[str, tuple[str, ...]], Seat] = {}
    for case in cases:
        if case.planned.tenant in EXACT:
            seat = _seat(case)
            for scope in SCOPES[:5]:
                spent[scope][seat.subject(scope)] += owed(case)
                served[scope][replace(seat, group=case.served).subject(scope)] += owed(case)
                seats[scope, seat.subject(scope)] = seat
    asked = list(dict.fromkeys(seats.values()))
    rows = dict(zip(asked, await _standings(session, home, asked), strict=True))
    for (scope, subject), seat in seats.items():
        [row] = (one for one in rows[seat] if one["scope"] == scope and one["kind"] == "budget")
        found.checked[scope] += 1
        least, most = sorted((spent[scope][subject], served[scope][subject]))  # alike but for fallbacks
        if not least <= _nano(row["used_usd"]) <= most:
            found.find(f"budget of a {scope}", "/".join(subject), f"{row['used_usd']}, not {least}..{most}")
        if _nano(row["held_usd"]):
            found.find("money held by no call", "/".join(subject), row)


async def _standings(session: aiohttp.ClientSession, home: House, seats: Iterable[Seat]) -> list[list[Json]]:
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(seat: Seat) -> list[Json]:
        async with places:
            return await _limits(session, home, seat)

    return await asyncio.gather(*map(ask, seats))


async def _limits(session: aiohttp.ClientSession, home: House, seat: Seat) -> list[Json]:
    url = f"{home.gateways[-1]}/v1/limits"
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get(url, params={"model": seat.group}, headers=seat.headers()) as reply:
                told: Json = await reply.json()
            if reply.status == 200:
                rows: list[Json] = told["limits"]
                return rows
            await asyncio.sleep(0.2)


async def _scopes_of_all(
    found: Audit, session: aiohttp.ClientSession, home: House, cases: Sequence[Case]
) -> None:
    """No caller is told what these hold: a budget of what was used refuses, a nano-dollar more does not."""
    provider = MODELS[SURE].provider
    sure = sum(owed(case) for case in cases if MODELS[case.served].provider == provider)
    await _between(found, session, home, {"scope": "provider", "subject": provider}, (sure, sure + 1))
    exact = sum(owed(case) for case in cases)
    unsure = [case for case in cases if case.told is None and case.seen]
    estimates = sum(max(truth_of(case)[2], *map(_recorded, case.rows), 0) for case in unsure)
    await _between(found, session, home, {"scope": "global"}, (exact, exact + 2 * estimates + 1))


def _recorded(row: Json) -> int:
    return nano(row["cost_usd"]) or 0


async def _between(
    found: Audit, session: aiohttp.ClientSession, home: House, rule: Json, bounds: tuple[int, int]
) -> None:
    scope, (low, high) = rule["scope"], bounds
    for limit, verdict in ((low, "refused"), (high, "admitted")):
        await _rule(session, home, rule, limit)
        told = await _verdict(session, home, verdict)
        found.checked[scope] += 1
        if told["verdict"] != verdict:
            found.find(f"budget of {scope}", str(rule), f"{told} at {limit}, bounds {bounds}")
    await _rule(session, home, rule, Decimal(AMPLE_USD) * NANO)


async def _verdict(session: aiohttp.ClientSession, home: House, wanted: str) -> Json:
    """What a call would be told, as soon as the gateway knows the rule."""
    seat = Seat(EXACT[0], "explained", "nobody", SURE)
    body = {"model": SURE, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    told: Json = {}
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(20):
            url = f"{home.gateways[0]}/v1/explain"
            async with session.post(url, json=body, headers=seat.headers()) as reply:
                told = await reply.json()
            if told.get("verdict") == wanted:
                break
            await asyncio.sleep(0.1)
    return told


async def _left(found: Audit, session: aiohttp.ClientSession, home: House, cases: Sequence[Case]) -> None:
    """Who leaves pays for about what was used, and nothing stays held."""
    left = [case for case in cases if case.planned.tenant == LEAVING and case.seen]
    if not left:
        return
    row = await _tenant(session, home, _seat(left[0]))
    billed, truth = _nano(row["used_usd"]), sum(truth_of(case)[2] for case in left)
    found.leaving = billed, truth
    found.checked["tenant, callers left"] += 1
    if _nano(row["held_usd"]):
        found.find("money held by no call", LEAVING, row)
    if not OFF[0] * truth <= billed <= OFF[1] * truth:
        found.find("callers who left", LEAVING, f"billed {billed}, used {truth}")


async def _tenant(session: aiohttp.ClientSession, home: House, seat: Seat) -> Json:
    rows = await _limits(session, home, seat)
    [found] = (row for row in rows if row["scope"] == "tenant" and row["kind"] == "budget")
    return found


async def _spent_up(found: Audit, session: aiohttp.ClientSession, home: House, cases: Sequence[Case]) -> None:
    """A budget that does not suffice: it and the stated overrun bound what was spent, and all is counted."""
    poor = [case for case in cases if case.planned.tenant == POOR]
    if not poor:
        return
    row = await _tenant(session, home, _seat(poor[0]))
    spent = sum(map(owed, poor))
    found.poor = spent, POOR_NANO_USD
    found.checked["tenant, spent up"] += 1
    if _nano(row["used_usd"]) != spent or _nano(row["held_usd"]):
        found.find("budget of a tenant", POOR, f"{row}, not {spent}")
    costs = [(owed(case), _reserved(case)) for case in poor if owed(case)]
    overrun = sum(max(0, cost - reserved) for cost, reserved in costs)
    overrun += max((cost for cost, _ in costs), default=0)
    if spent > POOR_NANO_USD + overrun:
        found.find("overspent", POOR, f"{spent} of {POOR_NANO_USD}, overrun {overrun}")
    for case in poor:
        if case.got.status not in {200, 429} and case.got.code != AWAY:
            found.find("status of a spent budget", POOR, case.got.status)


def _reserved(case: Case) -> int:
    """What a call reserves by the rule of the docs: four bytes a token, and its `max_tokens`."""
    stated = {
        "prompt_tokens": -(-len(case.planned.words.encode()) // BYTES_A_TOKEN),
        "completion_tokens": case.planned.play["completion_tokens"],
    }
    nothing = dict.fromkeys(("cached_tokens", "cache_write_tokens", "cache_write_1h_tokens"), 0)
    return cost_nano_usd(case.planned.group, stated | nothing | {"service_tier": "default"}) or 0


def _nano(usd: str | None) -> int:
    return int(Decimal(usd or 0) * NANO)


def lines(report: Json) -> Iterator[str]:
    """The report in words."""
    for scope, count in report["checked"].items():
        yield f"* {scope}: {count} budgets"
    billed, truth = report["leaving"]
    yield f"* callers who left: {billed} nano-dollars billed for {truth} used"
    spent, limit = report["poor"]
    yield f"* the budget that did not suffice: {spent} of {limit} nano-dollars spent"
