"""The scripted provider for long runs: every call becomes one line of a file, none stays in memory.

    python bench/played.py --port 20001 --lines calls.jsonl

What it plays is in `tests/scripted/script.py`. A line is written as soon as the call has arrived, so that a
provider that is killed forgets nothing: `{"at": seconds since 1970, "mark": ..., "do": ...}`.
"""

import argparse
import asyncio
import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import scripted_provider

MARK = re.compile(r"mark-[0-9a-f-]+")


class Lines:
    """A list of calls that keeps none: it counts them and writes them down."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._count = 0

    def append(self, seen: scripted_provider.Seen) -> None:
        """A call has arrived."""
        self._count += 1
        found = MARK.search(json.dumps(seen.body))
        line = {"at": seen.at, "mark": found.group() if found else None, "do": seen.do}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def clear(self) -> None:
        """Nothing to forget."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(())


async def serve(port: int, file: TextIO) -> None:
    """Listen on the loopback interface until SIGTERM."""
    log, loop, stop = scripted_provider.CallLog(), asyncio.get_running_loop(), asyncio.Event()
    log.calls = cast("list[scripted_provider.Seen]", Lines(file))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await loop.create_server(lambda: scripted_provider.Connection(log), "127.0.0.1", port, backlog=1024)
    await stop.wait()


def main() -> None:
    """Run the provider."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--port", type=int, required=True)
    flags.add_argument("--lines", type=Path, required=True)
    asked = flags.parse_args()
    with asked.lines.open("a", encoding="utf-8") as file:
        asyncio.run(serve(asked.port, file))


if __name__ == "__main__":
    main()
