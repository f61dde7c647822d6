"""Budgets at every scope: set before the calls of a billing audit, compared afterwards with what was used.

Invariant: what a budget has to hold is worked out from the price list and from what the provider says it
stated; a figure of a gateway bounds only calls whose tokens nobody stated. Money is nano-dollars.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import aiohttp
from billing.plan import CACHED, EXACT, LEAVING, MODELS, NANO, POOR, SURE, Json, cost_nano_usd
from billing.rules import STORE_DOWN, Case, Finding, nano
from running_stack import ADMIN_KEY, KEY

SCOPES = ("key", "agent", "tenant", "tenant_group", "user_model", "provider", "global")
AMPLE_NANO_USD = 1000 * 10**9
POOR_NANO_USD = 300_000
"""Enough for the first calls of the tenant `POOR`."""
BYTES_PER_TOKEN = 4
RUNNING = 16
TIMEOUT_S = 20.0
LEAVING_RATIO = (0.5, 2.0)
"""What a caller left behind is an estimate: at least and at most these shares of the truth."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a call acts for, and the group it asks."""

    tenant: str
    agent: str
    user: str
    group: str

    @staticmethod
    def of(case: Case) -> "Caller":
        """The caller of a call."""
        one = case.planned
        return Caller(one.tenant, one.agent, one.user, one.group)

    def headers(self) -> dict[str, str]:
        """The headers that say so."""
        named = {"X-Tenant-Id": self.tenant, "X-Agent-Id": self.agent, "X-User-Id": self.user}
        return {"Authorization": f"Bearer {KEY}"} | named

    def subject(self, scope: str) -> tuple[str, ...]:
        """What a scope counts by."""
        return {
            "key": (self.tenant,),
            "tenant": (self.tenant,),
            "agent": (self.tenant, self.agent),
            "tenant_group": (self.tenant, self.group),
            "user_model": (self.tenant, self.user, self.group),
        }[scope]


@dataclass(slots=True)
class BudgetAudit:
    """The budgets of one stack.

    Attributes:
        checked: By scope, how many budgets were compared.
        leaving: What callers who left are billed, and the truth.
        poor: What the tenant without money spent.
    """

    gateways: list[str]
    session: aiohttp.ClientSession
    checked: Counter[str] = field(default_factory=Counter[str])
    findings: list[Finding] = field(default_factory=list[Finding])
    leaving: tuple[int, int] = (0, 0)
    poor: int = 0

    async def set_budgets(self) -> None:
        """A budget at every scope, ample but for one tenant's; raises `RuntimeError` if one is rejected."""
        for scope in SCOPES:
            await self._set({"scope": scope}, AMPLE_NANO_USD)
        await self._set({"scope": "tenant", "tenant": POOR}, POOR_NANO_USD)
        await asyncio.sleep(1.5)  # a policy holds everywhere within a second

    async def check(self, cases: Sequence[Case]) -> None:
        """Compares every budget with the provider's books."""
        await self._scopes_of_callers([case for case in cases if case.planned.tenant in EXACT])
        await self._scopes_of_all(cases)
        await self._leaving([case for case in cases if case.planned.tenant == LEAVING and case.provider])
        await self._poor([case for case in cases if case.planned.tenant == POOR])

    def as_json(self) -> Json:
        """The report."""
        return {"checked": dict(self.checked), "leaving": self.leaving, "poor": [self.poor, POOR_NANO_USD]}

    def _find(self, rule: str, subject: str, detail: object) -> None:
        self.findings.append(Finding(rule, "budget", subject, "", str(detail)))

    async def _set(self, policy: Json, nano_usd: int) -> None:
        body = policy | {"budgets": [{"limit_usd": f"{Decimal(nano_usd) / NANO:.9f}", "period": "total"}]}
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        url = f"{self.gateways[0]}/admin/limits"
        async with self.session.put(url, json=body, headers=headers) as reply:
            if reply.status != 200:
                raise RuntimeError(await reply.text())

    async def _limits(self, caller: Caller) -> list[Json]:
        url = f"{self.gateways[-1]}/v1/limits"
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                params, headers = {"model": caller.group}, caller.headers()
                async with self.session.get(url, params=params, headers=headers) as reply:
                    found: Json = await reply.json()
                if reply.status == 200:
                    return [row for row in found["limits"] if row["kind"] == "budget"]
                await asyncio.sleep(0.2)

    async def _scopes_of_callers(self, cases: Sequence[Case]) -> None:
        """The provider stated every token of these: each budget holds that to the nano-dollar.

        A fallback costs the group that was asked; in a counter that was rebuilt from the ledger it costs the
        group that served.
        """
        spent, served = (defaultdict[str, Counter[tuple[str, ...]]](Counter) for _ in range(2))
        callers: dict[tuple[str, tuple[str, ...]], Caller] = {}
        for case in cases:
            caller = Caller.of(case)
            for scope in SCOPES[:5]:
                spent[scope][caller.subject(scope)] += case.owed_nano_usd()
                by_served = replace(caller, group=case.served).subject(scope)
                served[scope][by_served] += case.owed_nano_usd()
                callers[scope, caller.subject(scope)] = caller
        slots, rows = asyncio.Semaphore(RUNNING), dict[Caller, list[Json]]()

        async def fetch(caller: Caller) -> None:
            async with slots:
                rows[caller] = await self._limits(caller)

        await asyncio.gather(*map(fetch, set(callers.values())))
        for (scope, subject), caller in callers.items():
            [row] = (one for one in rows[caller] if one["scope"] == scope)
            self.checked[scope] += 1
            low, high = sorted((spent[scope][subject], served[scope][subject]))  # alike but for fallbacks
            if not low <= _nano(row["used_usd"]) <= high:
                self._find(f"budget of a {scope}", "/".join(subject), f"{row['used_usd']}, not {low}..{high}")
            if _nano(row["held_usd"]):
                self._find("money held by no call", "/".join(subject), row)

    async def _scopes_of_all(self, cases: Sequence[Case]) -> None:
        """No caller may read these: a budget of what was used rejects, a nano-dollar more does not."""
        provider = MODELS[SURE].provider
        sure = sum(case.owed_nano_usd() for case in cases if MODELS[case.served].provider == provider)
        await self._bounds({"scope": "provider", "subject": provider}, sure, sure + 1)
        exact = sum(case.owed_nano_usd() for case in cases)
        unsure = [case for case in cases if case.stating is None and case.provider]
        recorded = ([nano(row["cost_usd"]) or 0 for row in case.records] for case in unsure)
        most = sum(max(case.truth()[2], *rows, 0) for case, rows in zip(unsure, recorded, strict=True))
        await self._bounds({"scope": "global"}, exact, exact + 2 * most + 1)

    async def _bounds(self, policy: Json, low: int, high: int) -> None:
        scope = policy["scope"]
        for limit, verdict in ((low, "refused"), (high, "admitted")):
            await self._set(policy, limit)
            found = await self._verdict(verdict)
            self.checked[scope] += 1
            if found["verdict"] != verdict:
                self._find(f"budget of {scope}", str(policy), f"{found} at {limit}, bounds {low}..{high}")
        await self._set(policy, AMPLE_NANO_USD)

    async def _verdict(self, wanted: str) -> Json:
        """What a call would get, as soon as the gateway knows the policy."""
        body = {"model": SURE, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        headers = Caller(EXACT[0], "explained", "nobody", SURE).headers()
        found: Json = {}
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(20):
                url = f"{self.gateways[0]}/v1/explain"
                async with self.session.post(url, json=body, headers=headers) as reply:
                    found = await reply.json()
                if found.get("verdict") == wanted:
                    break
                await asyncio.sleep(0.1)
        return found

    async def _tenant_budget(self, case: Case) -> tuple[int, int]:
        """What a tenant's budget holds as used and as reserved."""
        [row] = (one for one in await self._limits(Caller.of(case)) if one["scope"] == "tenant")
        return _nano(row["used_usd"]), _nano(row["held_usd"])

    async def _leaving(self, cases: Sequence[Case]) -> None:
        """Who leaves pays for about what was used, and nothing stays reserved."""
        if not cases:
            return
        (billed, held), truth = await self._tenant_budget(cases[0]), sum(case.truth()[2] for case in cases)
        self.leaving = billed, truth
        self.checked["tenant, callers left"] += 1
        if held:
            self._find("money held by no call", LEAVING, held)
        if not LEAVING_RATIO[0] * truth <= billed <= LEAVING_RATIO[1] * truth:
            self._find("callers who left", LEAVING, f"billed {billed}, used {truth}")

    async def _poor(self, cases: Sequence[Case]) -> None:
        """A budget that is too small: it and the stated overrun bound what was spent, and all is counted."""
        if not cases:
            return
        (used, held), spent = await self._tenant_budget(cases[0]), sum(map(Case.owed_nano_usd, cases))
        self.poor = spent
        self.checked["tenant, spent up"] += 1
        if used != spent or held:
            self._find("budget of a tenant", POOR, f"used {used}, held {held}, not {spent}")
        costs = [(case.owed_nano_usd(), _reserved(case)) for case in cases if case.owed_nano_usd()]
        overrun = sum(max(0, cost - reserved) for cost, reserved in costs)
        overrun += max((cost for cost, _ in costs), default=0)
        if spent > POOR_NANO_USD + overrun:
            self._find("overspent", POOR, f"{spent} of {POOR_NANO_USD}, overrun {overrun}")
        for case in cases:
            if case.caller.status not in {200, 429} and case.caller.code != STORE_DOWN:
                self._find("status of a spent budget", POOR, case.caller.status)


def _reserved(case: Case) -> int:
    """What a call reserves as documented: four bytes a token, and its `max_tokens`."""
    tokens = {
        "prompt_tokens": -(-len(case.planned.text.encode()) // BYTES_PER_TOKEN),
        "completion_tokens": case.planned.script["completion_tokens"],
    }
    nothing: Json = dict.fromkeys(CACHED, 0) | {"service_tier": "default"}
    return cost_nano_usd(case.planned.group, tokens | nothing) or 0


def _nano(usd: str | None) -> int:
    return int(Decimal(usd or 0) * NANO)
