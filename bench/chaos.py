"""Two gateways and two sidecars under steady mixed load, while one part after the other is taken away.

    make chaos

Takes less than six minutes. Writes `docs/chaos.json` and `docs/chaos.md` (or below `--out`): for each fault
the calls that began in it, the errors callers saw in it by kind, the longest time without a good answer, how
long after the fault the last error came, and records lost, doubled or calls repeated, compared call by call
with what the provider saw.
"""

import argparse
import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.account import Account, compare, records, seen
from bench.faults import FAULTS, House, scratch_disk
from bench.rig import KEY, rig, write_json
from bench.traffic import Made, Traffic
from bench.words import chaos_page

Json = dict[str, Any]
SETTLE_S = 4.0
NAMES = {"LLM_PROXY__DRAIN_DELAY_S": "2", "LLM_PROXY__DRAIN_TIMEOUT_S": "15"}


@dataclass(frozen=True, slots=True)
class Phase:
    """One fault and the time it was given, in seconds since the load began."""

    name: str
    expected: str
    began_s: float
    ended_s: float

    def holds(self, at_s: float) -> bool:
        """Whether something happened in it."""
        return self.began_s <= at_s < self.ended_s


async def play(house: House, only: str) -> list[Phase]:
    """Play every fault, each followed by a moment to settle."""
    phases: list[Phase] = []
    for name, expected, fault in FAULTS:
        if only not in name:
            continue
        began = time.monotonic() - house.traffic.began
        print(f"{began:6.1f} s  {name}", flush=True)
        await _bounded(fault, house)
        await asyncio.sleep(SETTLE_S)
        phases.append(Phase(name, expected, began, time.monotonic() - house.traffic.began))
    return phases


async def _bounded(fault: Callable[[House], Awaitable[None]], house: House) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(90):
            await fault(house)


def row(phase: Phase, made: list[Made], account: Account) -> Json:
    """What became of the calls that began in a phase."""
    calls = [one for one in made if phase.holds(one.began_s)]
    wrong = [one for one in made if not one.well and phase.holds(_ended_s(one))]
    good = sorted(_ended_s(one) for one in made if one.word == "ok" and phase.holds(_ended_s(one)))
    gaps = [later - earlier for earlier, later in itertools.pairwise(good)]
    marks = {one.mark for one in calls}
    return {
        "fault": phase.name,
        "expected": phase.expected,
        "seconds": round(phase.ended_s - phase.began_s, 1),
        "calls": len(calls),
        "errors": dict(Counter(one.word for one in wrong)),
        "moved": sum(one.moved for one in calls),
        "longest_stall_s": round(max(gaps, default=phase.ended_s - phase.began_s), 2),
        "slowest_s": round(max((one.seconds for one in calls if one.kind == "chat"), default=0.0), 2),
        "recovered_after_s": round(max((_ended_s(one) - phase.began_s for one in wrong), default=0.0), 2),
        "lost": len(marks & set(account.lost_marks)),
        "doubled": len(marks & set(account.doubled_marks)),
        "repeated": len(marks & set(account.repeated_marks)),
    }


def _ended_s(call: Made) -> float:
    return call.began_s + call.seconds


async def chaos(house: House, only: str = "") -> Json:
    """Load, faults, and the account."""
    stop = asyncio.Event()
    running = asyncio.create_task(house.traffic.run(stop))
    await asyncio.sleep(1)
    phases = await play(house, only)
    stop.set()
    await running
    await asyncio.sleep(3)
    kept = await records(house.rig.database_url, 40)
    account = compare(house.traffic.made, seen(house.rig.seen), kept)
    made = house.traffic.made
    return {
        "rate_per_s": house.rate,
        "gateways": 2,
        "sidecars": 2,
        "seconds": round(phases[-1].ended_s, 1),
        "phases": [row(phase, made, account) for phase in phases],
        "errors": dict(Counter(f"{one.kind}: {one.word}" for one in made if not one.well)),
        "account": account.as_json(),
        "notes": house.notes,
        "failed": [asdict(one) for one in made if not one.well],
    }


def main() -> None:
    """Run the chaos and write its report."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--rate", type=float, default=15, help="calls a second")
    flags.add_argument("--only", default="", help="faults whose name holds this word")
    flags.add_argument("--out", type=Path, default=Path("docs"))
    asked = flags.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with scratch_disk() as disk:
        names = NAMES | ({"LLM_PROXY__SPOOL_DIR": f"{disk}/spool-{{n}}"} if disk else {})
        with rig(gateways=2, sidecars=2, names=names) as running:
            print(f"running; logs in {running.folder}/logs", flush=True)
            traffic = Traffic(running.gateways, KEY, rate=asked.rate)
            found = asyncio.run(chaos(House(running, traffic, asked.rate, disk), asked.only))
    write_json(asked.out / "chaos.json", found)
    (asked.out / "chaos.md").write_text(chaos_page(found), encoding="utf-8")
    print(chaos_page(found))


if __name__ == "__main__":
    main()
