"""How the gateway begins and rests: from its start until it says it lives, and what memory it then holds."""

import statistics
import time
from dataclasses import dataclass

from bench import process_stats, subjects
from bench.stand import Stand
from llm_proxy.stack import probe, process
from llm_proxy.stack.probe import is_up

REST_S = 1.0
STARTS = 3


@dataclass(frozen=True, slots=True)
class Life:
    """Medians of a few starts.

    Attributes:
        cpu_s: CPU the start took; on a machine that is not busy, about `start_s`.
    """

    start_s: float
    cpu_s: float
    rss_mb: float


def lives(stand: Stand) -> Life:
    """Start the gateway with its stores a few times, let it rest, stop it."""
    seen = [_one(stand) for _ in range(STARTS)]
    start_s, cpu_s, rss_mb = (statistics.median(facts) for facts in zip(*seen, strict=True))
    return Life(start_s, cpu_s, rss_mb)


def _one(stand: Stand) -> tuple[float, float, float]:
    port = probe.free_port()
    program = subjects.gateway("started", port, stand.upstream_port, stand.folder, stand.stores)
    began = time.perf_counter()
    running = process.start(program, stand.folder / "logs")
    try:
        while not is_up(port, "/health/live"):
            if not running.is_alive() or time.perf_counter() - began > program.ready_timeout_s:
                raise RuntimeError("the gateway did not start")
            time.sleep(0.01)
        start_s, cpu_s = time.perf_counter() - began, process_stats.cpu_s(running.popen.pid)
        time.sleep(REST_S)
        return start_s, cpu_s, process_stats.rss_bytes(running.popen.pid) / 2**20
    finally:
        process.stop([running])
