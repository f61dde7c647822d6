"""Gateway and sidecar together beside LiteLLM as it comes: calls, frames, embeddings, repeats, memory, start.

Invariants: each ratio is of the same load in the same rounds; a repeat counts only if the upstream saw none.
"""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from running_stack import MASTER_KEY
from sidecars import forked_sidecars_spec

from bench import process_stats
from bench.report import Json
from bench.rounds import Runs, in_turn, medians, ratio
from bench.testbed import (
    BOTH,
    CACHED_BOTH,
    CACHED_LITELLM,
    DIRECT,
    LITELLM,
    RELAY,
    REST_S,
    TRANSLATED,
    Testbed,
    body,
    embeddings_body,
    litellm_config,
    measure,
    still,
)
from bench.upstream import TWO_HUNDRED
from llm_proxy.stack.probe import free_port, is_up

AT_ONCE, HITS_AT_ONCE = 8, 16
BUSY_STREAMS = (AT_ONCE, 32)
"""Streams at once, 200 frames a second each: a process that is idle in between is woken for each frame."""
EIGHT, START_TIMEOUT_S = 8, 120
SHARE = "the sidecar's share"
ROUNDS_OF_REPEATS = 4
"""Of each round of the others: of one code, one second of repeats says 100 us or 180."""


def chain(bed: Testbed, rounds: int) -> Json:
    """Every ratio of the chain to LiteLLM as it comes, and what a repeat costs each part."""
    of = [bed.subjects[name] for name in (LITELLM, BOTH)]

    def beside(sent: str, figure: str, *, path: str = "", seconds: float = 1.0) -> float:
        asked = [replace(one, path=path or one.path) for one in of]
        run = partial(measure, sent=sent, connections=AT_ONCE, seconds=seconds)
        return ratio(in_turn(asked, rounds, run), BOTH, LITELLM, figure)

    vectors = partial(beside, figure="cpu_us", path="/v1/embeddings", seconds=1.5)
    return {
        "json": beside(body(), "cpu_us"),
        "frames": {str(count): _frames(bed, rounds, count) for count in BUSY_STREAMS},
        "translated": {
            wire: beside(body(f"bench-{provider}", stream=True), "cpu_us_frame", seconds=1.5)
            for wire, (provider, _) in TRANSLATED.items()
        },
        "embeddings": vectors(embeddings_body()),
        "embeddings_base64": vectors(embeddings_body(encoding_format="base64")),
        "repeat": _repeats(bed, rounds),
    }


def _frames(bed: Testbed, rounds: int, connections: int) -> Json:
    """Ratios to LiteLLM of a frame on OpenAI's wire: the chain's, and that of a bare relay."""
    of = [bed.subjects[name] for name in (LITELLM, RELAY, BOTH)]
    runs = in_turn(of, rounds, partial(measure, sent=body(stream=True), connections=connections, seconds=1.5))
    return {
        "chain": ratio(runs, BOTH, LITELLM, "cpu_us_frame"),
        "relay": ratio(runs, RELAY, LITELLM, "cpu_us_frame"),
    }


def _repeats(bed: Testbed, rounds: int) -> Json:
    """Repeats from the cache: LiteLLM's own hit, the chain's, and the sidecar's part of the chain's."""
    both = bed.subjects[CACHED_BOTH]
    _, sidecar_pid = both.pids
    of = [bed.subjects[CACHED_LITELLM], both, replace(both, name=SHARE, pids=(sidecar_pid,))]

    def repeated(sent: str) -> Runs:
        for one in of:
            measure(one, sent, connections=1, seconds=5, requests=3)
        with _unseen(bed):
            repeat = partial(measure, sent=sent, connections=HITS_AT_ONCE, seconds=1.0)
            return in_turn(of, rounds * ROUNDS_OF_REPEATS, repeat)

    found = {"whole": repeated(body()), "stream": repeated(body(TWO_HUNDRED, stream=True))}
    return {
        kind: {"ratio": ratio(runs, CACHED_BOTH, CACHED_LITELLM, "cpu_us"), "of": medians(runs)}
        for kind, runs in found.items()
    }


@contextmanager
def _unseen(bed: Testbed) -> Iterator[None]:
    """Raises `RuntimeError` if a call of the block reached the upstream."""
    url = f"http://127.0.0.1:{bed.subjects[DIRECT].port}/served"

    def served() -> int:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(json.load(answer))

    before = served()
    yield
    if missed := served() - before:
        raise RuntimeError(f"{missed} repeats were not answered from the cache")


def eight_sidecars(bed: Testbed) -> Json:
    """Eight sidecars of one parent: seconds until the first and the eighth are ready; memory."""
    stack, key = bed.stack, {"LITELLM_MASTER_KEY": MASTER_KEY}
    file = litellm_config(stack.folder, stack.url("upstream"))
    ports = [free_port() for _ in range(EIGHT)]
    stack.add("eight", forked_sidecars_spec(file, ports, key), ports[0])
    with still(bed.groups):
        began, ready_s = time.perf_counter(), dict[int, float]()
        stack.start("eight", wait=False)
        while len(ready_s) < EIGHT and time.perf_counter() - began < START_TIMEOUT_S:
            for port in set(ports) - ready_s.keys():
                if is_up(port, "/health/readiness"):
                    ready_s[port] = time.perf_counter() - began
            time.sleep(0.02)
        time.sleep(REST_S)
        pss_mb = process_stats.pss_bytes(stack.pid("eight")) / 2**20
        stack.stop("eight")
    return {"first_s": min(ready_s.values()), "eighth_s": max(ready_s.values()), "pss_mb": round(pss_mb, 1)}
