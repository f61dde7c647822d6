"""Times the console's pages over a database as a busy installation leaves it, each as a browser gets it.

    .venv/bin/python -m bench.console postgresql://... --rows 10000000

Fills an empty database as `bench.usage_queries` does (about five minutes for ten million requests); delete it
afterwards. A page is timed as often as `REPEATS` says: the median of the times when it is read anew, and of
those that follow within the seconds that it is kept. Exits with 1 when a page that has a target is over it.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
from running_console import serve_console
from running_stack import ADMIN_KEY

from bench.usage_queries import fill
from llm_proxy import schema
from llm_proxy.console.result_cache import KEEP_S
from llm_proxy.ledger.usage_query import midnight

REPEATS = 5
PAGE_TARGET_MS, SEARCH_TARGET_MS = 100, 1000


@dataclass(frozen=True, slots=True)
class TimedPage:
    """A page to time.

    Attributes:
        target_ms: None for one that is only looked at.
    """

    name: str
    path: str
    target_ms: int | None = PAGE_TARGET_MS


PAGES = (
    TimedPage("overview, 24 hours", "/overview?since=today"),
    TimedPage("overview, 7 days (the start page)", "/overview"),
    TimedPage("overview, 7 days, one tenant", "/overview?tenant=tenant-3"),
    TimedPage("overview, 30 days", "/overview?since=30d"),
    TimedPage("overview, 30 days, one tenant", "/overview?since=30d&tenant=tenant-3"),
    TimedPage("usage, 7 days by agent", "/usage?by=agent"),
    TimedPage("overview, 90 days", "/overview?since=90d"),
    TimedPage("usage, 30 days by model", "/usage?by=model&since=30d"),
    TimedPage("usage, 30 days by agent, one tenant", "/usage?by=agent&since=30d&tenant=tenant-3"),
    TimedPage("usage, 90 days by agent", "/usage?by=agent&since=90d"),
    TimedPage("usage, 30 days by agent, days of Berlin", "/usage?by=agent&since=30d&tz=Europe/Berlin", None),
    TimedPage("requests, the newest", "/requests", SEARCH_TARGET_MS),
    TimedPage(
        "requests, failed ones of a key", "/requests?key=key-3&outcome=failed&since=7d", SEARCH_TARGET_MS
    ),
    TimedPage(
        "requests, above 8.9 s of a tenant",
        "/requests?tenant=tenant-9&min_ms=8900&since=30d",
        SEARCH_TARGET_MS,
    ),
)


async def prepare(dsn: str, rows: int) -> None:
    """Migrates and fills the database."""
    await schema.migrate(dsn)
    if rows:
        connection = await asyncpg.connect(dsn)
        await fill(connection, rows, midnight(datetime.now(UTC).date(), UTC))
        await connection.close()


async def time_ms(client: httpx.AsyncClient, path: str) -> float:
    """How long a page takes."""
    began = time.perf_counter()
    answer = await client.get(path)
    taken = (time.perf_counter() - began) * 1000
    if answer.status_code != 200:
        sys.exit(f"{path}: {answer.status_code}")
    return taken


async def measure(url: str, pages: Sequence[TimedPage]) -> int:
    """Prints a table; returns how many pages are over their target."""
    slow = 0
    anew: dict[str, list[float]] = {page.name: [] for page in pages}
    again: dict[str, list[float]] = {page.name: [] for page in pages}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await client.post("/sign-in", data={"key": ADMIN_KEY})
        for _ in range(REPEATS + 1):
            for page in pages:
                anew[page.name].append(await time_ms(client, page.path))
                again[page.name].append(await time_ms(client, page.path))
            await asyncio.sleep(KEEP_S)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| page | read anew, ms | kept, ms |\n|---|--:|--:|")
    for page in pages:
        first, kept = (statistics.median(times[page.name][1:]) for times in (anew, again))
        slow += page.target_ms is not None and first > page.target_ms
        print(f"| {page.name} | {first:.0f} | {kept:.0f} |", flush=True)
    return slow


def main(dsn: str, rows: int) -> int:
    """Fills, starts a console, measures."""
    asyncio.run(prepare(dsn, rows))
    with (
        tempfile.TemporaryDirectory() as folder,
        serve_console(Path(folder), dsn, "http://127.0.0.1:9") as console,
    ):
        slow = asyncio.run(measure(console.url, PAGES))
    print(f"\n{slow} pages are over their target")
    return 1 if slow else 0


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("dsn")
    flags.add_argument("--rows", type=int, default=1_000_000, help="0: only measure what is there")
    given = flags.parse_args()
    sys.exit(main(given.dsn, given.rows))
