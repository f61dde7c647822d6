"""Two gateways and two sidecars under steady mixed load, while one process after the other is taken away.

    make chaos          writes docs/chaos.md and docs/chaos.json; exits with 1 when a record is missing

Every fault touches the run's own processes only, and gives back what it took.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from running_stack import KEY
from stack_processes import PASSWORD, StackProcesses, run_stack

from bench import ROOT, report
from bench.report import Json
from bench.traffic import CONFIG, Account, Call, Kind, Traffic, account

SETTLE_S = 4.0
FAULT_TIMEOUT_S = 90
DISK_BYTES = 64 * 2**20
DRAINING = {"LLM_PROXY__DRAIN_DELAY_S": "2", "LLM_PROXY__DRAIN_TIMEOUT_S": "15", "LLM_PROXY__AGENT_RPM": "60"}
SIDECARS_DRAIN = {"LLM_PROXY_SIDECAR_LEAVE_S": "3", "LLM_PROXY_SIDECAR_DRAIN_S": "10"}


@dataclass(slots=True)
class Run:
    """What a fault may touch.

    Attributes:
        disk: A small file system for the gateways' spools; None without the right to mount one.
    """

    stack: StackProcesses
    traffic: Traffic
    disk: Path | None
    notes: list[str] = field(default_factory=list[str])


Fault = Callable[[Run], Awaitable[None]]


async def nothing(_: Run) -> None:
    """The load alone."""
    await asyncio.sleep(8)


def killed(name: str, away_s: float) -> Fault:
    """SIGKILL, and a new start later."""

    async def fault(run: Run) -> None:
        await run.stack.kill(name)
        await asyncio.sleep(away_s)
        await run.stack.restart(name)

    return fault


def frozen(name: str, seconds: float) -> Fault:
    """It accepts connections and answers nothing."""

    async def fault(run: Run) -> None:
        run.stack.signal(name, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        run.stack.signal(name, signal.SIGCONT)

    return fault


async def limits_flushed(run: Run) -> None:
    """The store of limits has forgotten every counter and script."""
    reader, writer = await asyncio.open_connection("127.0.0.1", run.stack.ports["limits"])
    writer.write(f"AUTH {PASSWORD}\r\nFLUSHALL\r\nSCRIPT FLUSH\r\n".encode())
    for _ in range(3):
        await reader.readline()
    writer.close()
    await asyncio.sleep(3)


def provider_script(script: Json) -> Fault:
    """The provider does this with every call that would be answered well."""

    async def fault(run: Run) -> None:
        usual = run.traffic.script_of

        def changed(kind: Kind) -> Json:
            return kind.script | script if kind.expected == (200,) else kind.script

        run.traffic.script_of = changed
        await asyncio.sleep(8)
        run.traffic.script_of = usual

    return fault


async def gateway_stopped(run: Run) -> None:
    """SIGTERM to one of two gateways, which drains; then it starts again."""
    run.stack.signal("gateway-1", signal.SIGTERM)
    code = await run.stack.exit_code("gateway-1")
    run.notes.append(f"A gateway that got SIGTERM ended with code {code}.")
    await run.stack.restart("gateway-1")


async def rolling_restart(run: Run) -> None:
    """Every sidecar and gateway in turn is stopped by SIGTERM and started again."""
    for name in ("sidecar-1", "sidecar-2", "gateway-1", "gateway-2"):
        run.stack.signal(name, signal.SIGTERM)
        await run.stack.exit_code(name)
        await run.stack.restart(name)
        await asyncio.sleep(1.5)


async def disk_full(run: Run) -> None:
    """No byte is left where records wait, and the database is away as well."""
    if run.disk is None:
        run.notes.append("No file system could be mounted: the disk was not filled.")
        return
    filler = run.disk / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
            file.flush()
    await asyncio.sleep(2)
    await killed("postgres", 5)(run)
    await asyncio.sleep(2)
    filler.unlink()


FAULTS: dict[str, tuple[str, Fault]] = {
    "nothing": ("no error", nothing),
    "sidecar kill -9": ("502 for calls that ran in it", killed("sidecar-1", 4)),
    "sidecar frozen": ("502 after ten seconds for calls that ran in it", frozen("sidecar-2", 16)),
    "limits Valkey killed": ("no error", killed("limits", 6)),
    "limits Valkey frozen": ("no error", frozen("limits", 6)),
    "limits Valkey flushed": ("no error", limits_flushed),
    "Postgres killed": ("no error", killed("postgres", 8)),
    "provider down": ("502 while it is away: nobody else has the model", killed("provider", 5)),
    "provider slow": ("no error", provider_script({"do": "slow-first", "first_ms": 3000})),
    "provider truncating": (
        "every answer: 502, or an error event in a stream",
        provider_script({"do": "cut"}),
    ),
    "gateway SIGTERM": ("no error", gateway_stopped),
    "rolling restart": ("no error", rolling_restart),
    "gateway kill -9": ("calls that ran in it", killed("gateway-2", 3)),
    "spool's disk full": ("no error", disk_full),
}
"""Name -> what callers may see, and the fault."""


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """A file system that can be filled to the last byte; None without the right to mount one."""
    folder, mount = Path(tempfile.mkdtemp(prefix="llm-proxy-disk-")), shutil.which("mount")
    words = ("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder))
    mounted = os.geteuid() == 0 and mount and not subprocess.run([mount, *words], check=False).returncode
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)  # noqa: S607 -- beside mount
        shutil.rmtree(folder, ignore_errors=True)


async def chaos(run: Run, only: str) -> Json:
    """Load, every fault whose name holds `only`, and the comparison of the books."""
    stop, began, phases = asyncio.Event(), 0.0, list[tuple[str, float, float]]()
    running = asyncio.create_task(run.traffic.run(stop))
    await asyncio.sleep(1)
    for name, (_, fault) in FAULTS.items():
        if only in name:
            began = run.traffic.now_s
            print(f"{began:6.1f} s  {name}", flush=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAULT_TIMEOUT_S):
                    await fault(run)
            await asyncio.sleep(SETTLE_S)
            phases.append((name, began, run.traffic.now_s))
    stop.set()
    await running
    found = await account(run.traffic.calls, run.stack.provider_record, run.stack.database_url)
    return {
        "seconds": round(phases[-1][2], 1),
        "faults": [fault_facts(*phase, run.traffic.calls, found) for phase in phases],
        "account": found.as_json(),
        "notes": run.notes,
        "holds": found.holds,
    }


def fault_facts(name: str, began_s: float, ended_s: float, calls: list[Call], found: Account) -> Json:
    """What callers saw in one fault's time; lost, doubled and repeated are of the calls that began in it."""
    own = {call.mark for call in calls if began_s <= call.began_s < ended_s}
    ended = [call for call in calls if began_s <= call.ended_s < ended_s]
    wrong = [call for call in ended if not call.expected]
    good = sorted(call.ended_s for call in ended if call.outcome == "ok")
    gaps = [later - earlier for earlier, later in itertools.pairwise(good)]
    return {
        "fault": name,
        "calls": len(own),
        "errors": dict(Counter(call.outcome for call in wrong)),
        "longest_stall_s": round(max(gaps, default=ended_s - began_s), 2),
        "last_error_s": round(max((call.ended_s - began_s for call in wrong), default=0.0), 2),
        "missing": [len(own & marks) for marks in (found.lost, found.doubled, found.repeated)],
    }


def parts(facts: Json) -> dict[str, str]:
    """The measured parts of the page."""
    head = ("fault", "calls", "errors", "to be expected", "longest stall, s", "last error after, s")
    rows = [
        (
            one["fault"],
            one["calls"],
            ", ".join(f"{count} {word}" for word, count in one["errors"].items()) or "none",
            FAULTS[one["fault"]][0],
            one["longest_stall_s"],
            one["last_error_s"],
            " / ".join(map(str, one["missing"])),
        )
        for one in facts["faults"]
    ]
    books = "{calls} calls, {at_provider} seen by the provider, {records} records, {unfinished} of them for \
calls that ran in a gateway when it was killed. Lost: {lost}. Doubled: {doubled}. Repeated: {repeated}."
    return {
        "faults": report.table((*head, "lost / doubled / repeated"), rows),
        "account": books.format_map(facts["account"]),
        "notes": report.bullets([f"{facts['seconds']} seconds in all.", *facts["notes"]]),
    }


def main() -> int:
    """Runs the chaos and writes its report."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--rate", type=float, default=15, help="calls a second")
    flags.add_argument("--only", default="", help="faults whose name holds this word")
    flags.add_argument("--out", type=Path, default=ROOT / "docs")
    given = flags.parse_args()
    with small_disk() as disk:
        settings = DRAINING | ({"LLM_PROXY__SPOOL_DIR": f"{disk}/spool-{{n}}"} if disk else {})
        with run_stack(
            CONFIG, gateways=2, sidecars=2, settings=settings, sidecar_env=SIDECARS_DRAIN, record=True
        ) as stack:
            print(f"running; logs in {stack.folder}/logs", flush=True)
            traffic = Traffic(stack.urls("gateway"), KEY, rate=given.rate)
            facts = asyncio.run(chaos(Run(stack, traffic, disk), given.only))
    report.write("chaos", facts, parts(facts), given.out)
    print("\n".join(parts(facts).values()))
    return 0 if facts["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
