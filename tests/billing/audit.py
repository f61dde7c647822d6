"""A billing audit: planned calls, whose every token and nano-dollar is compared with the provider's own.

Two gateways and a real LiteLLM stand before a scripted provider that states its own tokens; Postgres is
killed meanwhile. `rules` and `budgets` hold what must be true, `plan` the calls and prices.
"""

import asyncio
import json
import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import aiohttp
import asyncpg
from billing.budgets import BudgetAudit
from billing.plan import MODELS, Json, PlannedCall, every, plan
from billing.rules import STORE_DOWN, CallerView, Comparison, cases
from endpoint_errors import error_code
from running_stack import KEY
from stack_processes import StackProcesses

MARK = re.compile(r"mark-[0-9a-f]{16}")
TIMEOUT_S = 60.0
UNTIL_CACHED_S = 3.0
"""Between a call and the same call again: the answer is cached after it was given."""
SETTINGS = {"LLM_PROXY__AGENT_RPM": "20"}
PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
    "image_generation": "/v1/images/generations",
    "rerank": "/v1/rerank",
    "audio_speech": "/v1/audio/speech",
}
ENDS = {
    "responses": b"event: response.completed\n",
    "messages": b"event: message_stop\n",
    "image_generation": b"event: image_generation.completed\n",
    "audio_speech": b"",
}
STORE_SAID = b"is not known right now"
"""In the message of that error, which has no code in Anthropic's envelope."""
OVERLOADED, RECORDED_AS = 529, 503
TABLES = ("requests", "llm_calls", "virtual_keys", "usage_daily")


@dataclass(frozen=True, slots=True)
class Size:
    """How large an audit is.

    Attributes:
        kills: Postgres is killed after these shares of the calls.
    """

    calls: int = 5000
    seed: int = 7
    running: int = 24
    kills: tuple[float, ...] = (1 / 3, 2 / 3)
    away_s: float = 4.0


class Callers:
    """Makes the planned calls, so many at once, every other one through the other gateway."""

    def __init__(self, gateways: list[str]) -> None:
        self.views: dict[str, CallerView] = {}
        self._gateways = gateways
        self._session: aiohttp.ClientSession

    async def make(
        self, plans: list[PlannedCall], running: int, on_done: Callable[[int], Awaitable[None]]
    ) -> None:
        """Makes every call; `on_done` gets the number of those that have ended."""
        waiting = iter(plans)

        async def caller() -> None:
            for one in waiting:
                await self._call(one)
                if one.again is not None:
                    await asyncio.sleep(UNTIL_CACHED_S)
                    await self._call(one.again)
                await on_done(len(self.views))

        timeout, connector = aiohttp.ClientTimeout(total=TIMEOUT_S), aiohttp.TCPConnector(limit=0)
        session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        async with session as self._session, asyncio.TaskGroup() as group:
            for _ in range(running):
                group.create_task(caller())

    async def _call(self, call: PlannedCall) -> None:
        """One call, made again while a budget of it is not known yet and Postgres is down."""
        for _ in range(40):
            await self._send(call)
            if self.views[call.mark].code != STORE_DOWN:
                return
            await asyncio.sleep(0.5)

    async def _send(self, call: PlannedCall) -> None:
        view = self.views[call.mark] = CallerView()
        url = self._gateways[len(self.views) % len(self._gateways)]
        key = "sk-somebody-elses" if call.script["do"] == "unknown key" else KEY
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        headers |= {"X-Request-Id": call.mark, "X-Agent-Id": call.agent}
        headers |= {"X-Tenant-Id": call.tenant, "X-User-Id": call.user}
        try:
            async with (
                asyncio.timeout(call.leaves_s),
                self._session.post(url + PATHS[call.api], data=call.body(), headers=headers) as reply,
            ):
                view.status = RECORDED_AS if reply.status == OVERLOADED else reply.status
                view.request_id = reply.headers.get("x-request-id", "")
                await _read(reply, call, view)
        except TimeoutError:
            view.fault = "" if call.leaves_s else "timeout"
        except (aiohttp.ClientError, OSError) as fault:
            view.fault = type(fault).__name__


async def _read(reply: aiohttp.ClientResponse, call: PlannedCall, view: CallerView) -> None:
    if reply.status != 200:
        said = await reply.read()
        view.code = STORE_DOWN if STORE_SAID in said else error_code(said)
        return
    text, frames = b"", 0
    async for chunk in reply.content.iter_any():
        text = (text + chunk)[-20_000:]
        frames += chunk.count(b"\n\n")
        if call.leaves_frames is not None and frames >= call.leaves_frames:
            reply.close()  # as a browser leaves
            return
    view.complete = not call.kind.stream or ENDS.get(call.api, b"data: [DONE]\n\n") in text


async def audit(stack: StackProcesses, size: Size) -> Json:
    """Makes the calls and compares the books; returns the report."""
    plans = plan(size.calls, size.seed)
    planned, since, began = list(every(plans)), datetime.now(UTC), time.monotonic()
    callers = Callers(stack.urls("gateway"))
    async with aiohttp.ClientSession() as session:
        budgets = BudgetAudit(stack.urls("gateway"), session)
        await budgets.set_budgets()
        await _make(stack, callers, plans, size)
        seconds = time.monotonic() - began
        answered = {mark for mark, view in callers.views.items() if view.status == 200}
        records, log = await _settled(stack.database_url, answered)
        caught_up_s = time.monotonic() - began - seconds
        calls = await _provider_calls(stack, session)
        books, of_calls = Comparison(), cases(planned, callers.views, calls, records, log)
        for case in of_calls:
            books.check(case)
        await budgets.check(of_calls)
    findings = books.findings + budgets.findings
    strangers = Counter(row["client_request_id"] for row in records)
    strangers.subtract(one.mark for one in planned)
    facts = {
        "calls": len(planned), "streams": sum(one.kind.stream for one in planned), "seed": size.seed,
        "kills": len(size.kills), "seconds": round(seconds, 1), "caught_up_s": round(caught_up_s, 1),
        "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
        "records": len(records), "log_rows": len(log), "strangers": (+strangers).total(),
        "kinds": {name: [count, books.exact[name]] for name, count in sorted(books.kinds.items())},
        "apis": {name: books.exact[f"api {name}"] for name in PATHS},
        "groups": {name: books.exact[f"group {name}"] for name in MODELS},
        "exact": sum(books.exact[kind] for kind in books.kinds), "inexact": len(books.estimates),
        "notes": dict(sorted(books.notes.items())), "errors": books.errors(), "budgets": budgets.as_json(),
        "rules_broken": dict(Counter(one.rule for one in findings)),
        "first_findings": [asdict(one) for one in findings[:50]],
        "role": await _role(stack.call_log_url), "reconcile": await _reconcile(stack, since),
    }  # fmt: skip
    records, log = await _settled(stack.database_url, answered)
    after = Comparison()
    for case in cases(planned, callers.views, calls, records, log):
        after.check(case)
    return facts | {"errors_after": after.errors(), "findings_after": len(after.findings)}


async def _make(stack: StackProcesses, callers: Callers, plans: list[PlannedCall], size: Size) -> None:
    due, kills, alone = (
        [int(share * size.calls) for share in size.kills],
        list[asyncio.Task[None]](),
        asyncio.Lock(),
    )

    async def kill_postgres() -> None:
        async with alone:
            await stack.kill("postgres")
            await asyncio.sleep(size.away_s)
            await stack.restart("postgres")

    async def on_done(ended: int) -> None:
        if due and ended >= due[0]:
            due.pop(0)
            kills.append(asyncio.create_task(kill_postgres()))

    await callers.make(plans, size.running, on_done)
    await asyncio.gather(*kills)


async def _provider_calls(stack: StackProcesses, session: aiohttp.ClientSession) -> list[Json]:
    async with session.get(f"{stack.url('provider')}/_calls") as reply:
        calls: list[Json] = (await reply.json())["calls"]
    for one in calls:
        mark = MARK.search(json.dumps(one["body"]))
        one["mark"] = mark.group() if mark else ""
    return calls


async def _settled(url: str, owed: set[str], quiet_s: float = 3) -> tuple[list[Json], list[Json]]:
    """Records and log, once all that are owed are there and no more come in."""
    counts = "SELECT (SELECT count(*) FROM requests), (SELECT count(*) FROM llm_calls)"
    there = """SELECT count(*) FROM requests AS r WHERE client_request_id = ANY($1) AND (outcome <> 'ok'
               OR cache = 'hit' OR EXISTS (SELECT FROM llm_calls AS l WHERE l.call_id = r.request_id))"""
    connection = await asyncpg.connect(url)
    try:
        count, since, end = None, time.monotonic(), time.monotonic() + TIMEOUT_S
        while time.monotonic() < min(end, since + quiet_s):
            now = await connection.fetchrow(counts)
            if now != count or await connection.fetchval(there, list(owed)) < len(owed):
                count, since = now, time.monotonic()
            await asyncio.sleep(0.3)
        records = await connection.fetch("SELECT * FROM requests")
        log = await connection.fetch("SELECT * FROM llm_calls")
    finally:
        await connection.close()
    return [dict(row) for row in records], [dict(row) for row in log]


async def _role(url: str) -> Json:
    """The role that writes the sidecars' log, and what it may do to the tables that matter."""
    query = "SELECT to_regclass($1) IS NOT NULL AND has_table_privilege($1, $2)"
    actions = [
        (one, table) for table in TABLES for one in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
    ]
    connection = await asyncpg.connect(url)
    try:
        may = [
            f"{action} {table}"
            for action, table in actions
            if await connection.fetchval(query, table, action)
        ]
        return {"name": await connection.fetchval("SELECT current_user"), "may": may}
    finally:
        await connection.close()


async def _reconcile(stack: StackProcesses, since: datetime) -> Json:
    """What `llm-proxy reconcile` lists, and what of it nothing explains; then the same with `--apply`.

    A gateway's own estimate may differ from the log; nothing else may.
    """
    until = datetime.now(UTC).isoformat()
    words = ("reconcile", "--since", since.isoformat(), "--until", until, "--limit", "100000", "--json")
    code, printed = await stack.command(*words)
    if not printed.startswith("{"):
        raise RuntimeError(printed[-500:])
    before: list[Json] = json.loads(printed)["differences"]
    after = json.loads((await stack.command(*words, "--apply"))[1])
    unexplained = [
        one for one in before if one["usage_source"] not in {"estimated", "unknown"} or one["outcome"] == "ok"
    ]
    kinds = Counter(f"{'+'.join(one['kinds'])}: {one['usage_source']}, {one['outcome']}" for one in before)
    return {
        "exit_code": code, "differences": len(before), "by_kind": dict(kinds),
        "unexplained": unexplained[:20], "applied": after["enriched"], "left": len(after["differences"]),
    }  # fmt: skip
