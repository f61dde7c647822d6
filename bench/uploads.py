"""Uploads of large files at the same time: what gateway and sidecar hold of them in memory.

    python -m bench.uploads --uploads 20 --mib 100        writes its figures into docs/media.md

The provider reads and drops what it gets. Memory is the anonymous part, sampled fifty times a second.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from big_uploads import upload_together
from running_stack import KEY
from stack_processes import run_stack

from bench import ROOT, report
from bench.report import Json

MIB = 2**20
MODEL = "whisper-1"
MAX_GROWTH_MIB = 150
"""Of the gateway, and of the sidecar: far from what the files have."""
ANSWER = json.dumps({"text": "Hello.", "usage": {"type": "duration", "seconds": 9}}).encode()


async def _drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            left = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
            while left > 0:
                left -= len(await reader.read(min(left, MIB)))
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(ANSWER), ANSWER)
            )
    writer.close()


@contextmanager
def dropping_provider() -> Generator[str]:
    """A provider that keeps nothing; its address."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(_drop, "127.0.0.1", 0, limit=MIB))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def measure(uploads: int, mib: int, rounds: int) -> list[Json]:
    """Sends the uploads, a few rounds; returns a row for each round."""
    rows: list[Json] = []
    with dropping_provider() as provider:
        params = {"model": f"openai/{MODEL}", "api_base": f"{provider}/v1", "api_key": "sk-none"}
        config: Json = {"model_list": [{"model_name": MODEL, "litellm_params": params}]}
        with run_stack(config, settings={"LLM_PROXY__AGENT_RPM": "0"}) as stack:
            gateway, sidecar = stack.pid("gateway-1"), stack.pid("sidecar-1")
            for sizes in ([MIB], *[[mib * MIB] * uploads] * rounds):
                began = time.monotonic()
                statuses, grown = asyncio.run(
                    upload_together(stack.ports["gateway-1"], KEY, MODEL, sizes, (gateway, sidecar))
                )
                rows.append(
                    {
                        "uploads": len(sizes),
                        "mib": sizes[0] // MIB,
                        "seconds": round(time.monotonic() - began, 1),
                        "statuses": sorted(set(statuses)),
                        "gateway_mib": round(grown[gateway] / MIB),
                        "sidecar_mib": round(grown[sidecar] / MIB),
                    }
                )
    return rows


def main() -> int:
    """Measures, and writes the page."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--uploads", type=int, default=20)
    flags.add_argument("--mib", type=int, default=100)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--out", type=Path, default=ROOT / "docs")
    given = flags.parse_args()
    rows = measure(given.uploads, given.mib, given.rounds)
    head = ("uploads at once", "MiB each", "seconds", "the gateway grew by MiB", "the sidecar grew by MiB")
    keys = ("uploads", "mib", "seconds", "gateway_mib", "sidecar_mib")
    table = report.table(head, ([row[key] for key in keys] for row in rows))
    report.write("media", {"uploads": rows}, {"uploads": table}, given.out)
    print(table)
    flat = all(max(row["gateway_mib"], row["sidecar_mib"]) <= MAX_GROWTH_MIB for row in rows)
    return 0 if flat and all(row["statuses"] == [200] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
