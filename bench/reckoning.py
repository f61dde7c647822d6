"""Every token and every nano-dollar of some thousand calls, reckoned three times and compared call by call.

    make reckoning CALLS=5000

Two gateways and a real LiteLLM before a scripted provider that states its own tokens; Postgres is killed
twice in between. Writes `docs/reckoning.json` and `docs/reckoning.md` (or below `--out`); ends with 1 if a
rule broke.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from bench.reckoning_books import Books, Estimate, cases
from bench.reckoning_budgets import audit, lay_down
from bench.reckoning_calls import Callers
from bench.reckoning_house import KEY, House, house
from bench.reckoning_page import page
from bench.reckoning_plan import Planned, every, plan

Json = dict[str, Any]
MARK = re.compile(r"mark-[0-9a-f]{16}")
QUIET_S = 3.0
PATIENCE_S = 60.0
AWAY_S = 4.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a reckoning is.

    Attributes:
        kills: Postgres is killed after these shares of the calls.
    """

    calls: int
    seed: int = 7
    sidecars: int = 1
    at_once: int = 24
    kills: tuple[float, ...] = (1 / 3, 2 / 3)
    away_s: float = AWAY_S


async def reckon(home: House, shape: Shape) -> Json:
    """Make the calls and compare the books; the report."""
    plans = plan(shape.calls, shape.seed)
    planned = list(every(plans))
    began, since = time.monotonic(), datetime.now(UTC)
    callers = Callers(home.gateways, KEY, at_once=shape.at_once)
    await lay_down(home)
    await _make(home, callers, plans, shape)
    seconds = time.monotonic() - began
    answered = {mark for mark, got in callers.got.items() if got.status == 200}
    rows, log = await _settled(home.database_url, answered)
    caught_up_s = time.monotonic() - began - seconds
    calls = seen(home)
    books = Books()
    of_calls = cases(planned, callers.got, calls, rows, log)
    for case in of_calls:
        books.compare(case)
    budgets = await audit(home, of_calls)
    books.findings += budgets.findings
    strangers = Counter(row["client_request_id"] for row in rows) - Counter(one.mark for one in planned)
    found = _report(books, planned, shape, seconds)
    found["budgets"] = budgets.report()
    found["caught_up_s"] = round(caught_up_s, 1)
    found |= {"records": len(rows), "log_rows": len(log), "strangers": sum(strangers.values())}
    found["role"] = await role(home.calls_url)
    found["reconciled"] = await reconciled(home, since)
    rows, log = await _settled(home.database_url, answered)
    after = Books()
    for case in cases(planned, callers.got, calls, rows, log):
        after.compare(case)
    return found | {"errors_after": errors(after.estimates), "findings_after": len(after.findings)}


async def _make(home: House, callers: Callers, plans: list[Planned], shape: Shape) -> None:
    due = [int(share * shape.calls) for share in shape.kills]
    kills: list[asyncio.Task[None]] = []
    one_at_a_time = asyncio.Lock()

    async def kill() -> None:
        async with one_at_a_time:
            await home.kill_postgres(shape.away_s)

    async def on_done(ended: int) -> None:
        if due and ended >= due[0]:
            due.pop(0)
            kills.append(asyncio.create_task(kill()))

    await callers.make(plans, on_done)
    await asyncio.gather(*kills)


def seen(home: House) -> list[Json]:
    """The provider's calls, each with its mark."""
    with urllib.request.urlopen(f"{home.provider}/_calls", timeout=60) as reply:
        calls: list[Json] = json.load(reply)["calls"]
    for one in calls:
        found = MARK.search(json.dumps(one["body"]))
        one["mark"] = found.group() if found else ""
    return calls


async def _settled(url: str, owed: set[str]) -> tuple[list[Json], list[Json]]:
    """Records and log, once all that are owed are there and no more come in."""
    counts = "SELECT (SELECT count(*) FROM requests), (SELECT count(*) FROM llm_calls)"
    there = """SELECT count(*) FROM requests AS r WHERE client_request_id = ANY($1) AND (outcome <> 'ok'
               OR cache = 'hit' OR EXISTS (SELECT FROM llm_calls AS l WHERE l.call_id = r.request_id))"""
    connection = await asyncpg.connect(url)
    try:
        count, since, end = None, time.monotonic(), time.monotonic() + PATIENCE_S
        while time.monotonic() < min(end, since + QUIET_S):
            now = await connection.fetchrow(counts)
            if now != count or await connection.fetchval(there, list(owed)) < len(owed):
                count, since = now, time.monotonic()
            await asyncio.sleep(0.3)
        rows = await connection.fetch("SELECT * FROM requests")
        log = await connection.fetch("SELECT * FROM llm_calls")
    finally:
        await connection.close()
    return [dict(row) for row in rows], [dict(row) for row in log]


async def role(url: str) -> Json:
    """Who wrote the sidecars' log, and what else that role may do."""
    connection = await asyncpg.connect(url)
    tables = ("requests", "llm_calls", "virtual_keys", "usage_daily")
    question = "SELECT to_regclass($1) IS NOT NULL AND has_table_privilege($1, $2)"
    try:
        may = [
            f"{deed} {table}"
            for table in tables
            for deed in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
            if await connection.fetchval(question, table, deed)
        ]
        return {"name": await connection.fetchval("SELECT current_user"), "may": may}
    finally:
        await connection.close()


async def reconciled(home: House, since: datetime) -> Json:
    """What `llm-proxy reconcile` lists, and what of it nothing explains; then the same with `--apply`."""
    now = datetime.now(UTC)
    words = (
        "reconcile",
        "--since",
        since.isoformat(),
        "--until",
        now.isoformat(),
        "--limit",
        "100000",
        "--json",
    )
    code, said = await asyncio.to_thread(home.command, *words)
    if not said.startswith("{"):
        raise RuntimeError(said[-500:])
    before = json.loads(said)["differences"]
    _, said = await asyncio.to_thread(home.command, *words, "--apply")
    after = json.loads(said)
    return {
        "exit_code": code,
        "differences": len(before),
        "by_kind": dict(
            Counter(f"{'+'.join(one['kinds'])}: {one['usage_source']}, {one['outcome']}" for one in before)
        ),
        "unexplained": [one for one in before if not explained(one)][:20],
        "enriched": after["enriched"],
        "left": len(after["differences"]),
    }


def explained(difference: Json) -> bool:
    """A gateway's own estimate may be off; nothing else may."""
    return difference["usage_source"] in {"estimated", "unknown"} and difference["outcome"] != "ok"


def _report(books: Books, planned: list[Planned], shape: Shape, seconds: float) -> Json:
    streams, asked = sum(one.kind.stream for one in planned), Counter(one.group for one in planned)
    return {
        "calls": len(planned),
        "seed": shape.seed,
        "sidecars": shape.sidecars,
        "at_once": shape.at_once,
        "kills_of_postgres": len(shape.kills),
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "streams": streams,
        "groups": {name: [count, books.groups[name]] for name, count in asked.items()},
        "kinds": {name: [count, books.exact[name]] for name, count in books.kinds.items()},
        "exact": sum(books.exact.values()),
        "inexact": len(books.estimates),
        "notes": dict(books.notes),
        "findings": len(books.findings),
        "by_rule": dict(Counter(one.rule for one in books.findings)),
        "first_findings": [asdict(one) for one in books.findings[:200]],
        "errors": errors(books.estimates),
    }


def errors(estimates: list[Estimate]) -> list[Json]:
    """Of what is not exact: by kind and source, how many, and what was said against the truth."""
    found: list[Json] = []
    for kind, source in sorted({(one.kind, one.source) for one in estimates}):
        these = [one for one in estimates if (one.kind, one.source) == (kind, source)]
        line: Json = {"kind": kind, "source": source, "calls": len(these)}
        for at, name in enumerate(("prompt_tokens", "completion_tokens", "nano_usd")):
            known = [one for one in these if one.said[at] is not None]
            line[name] = {
                "known": len(known),
                "said": sum(one.said[at] or 0 for one in known),
                "truth": sum(one.truth[at] for one in known),
                "missed": sum(one.truth[at] for one in these if one.said[at] is None),
            }
        found.append(line)
    return found


def main() -> None:
    """Run a reckoning and write it down."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--calls", type=int, default=5000)
    flags.add_argument("--seed", type=int, default=7)
    flags.add_argument("--sidecars", type=int, default=1)
    flags.add_argument("--at-once", type=int, default=24)
    flags.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    asked = flags.parse_args()
    shape = Shape(asked.calls, asked.seed, asked.sidecars, asked.at_once)
    with house(sidecars=shape.sidecars) as home:
        found = asyncio.run(reckon(home, shape))
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "reckoning.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (asked.out / "reckoning.md").write_text(page(found), encoding="utf-8")
    print(page(found))
    sys.exit(1 if found["findings"] or found["reconciled"]["unexplained"] else 0)


if __name__ == "__main__":
    main()
