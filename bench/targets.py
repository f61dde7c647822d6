"""The targets: what was measured, what it should be at most, and whether it is."""

from collections.abc import Iterator

from bench.chain import SHARE
from bench.report import Json
from bench.testbed import BOTH, DIRECT, GATEWAY, RELAY, SCRIPTED, SIDECAR

Row = tuple[str, str, str, str]
CHAIN = "gateway + our sidecar / LiteLLM"
ONE_SIDECAR_MB, PARENT_MB = 150, 400
"""What each of eight sidecars may have of its own, and what the parent that they share may have."""


def row(what: str, value: float, unit: str, most: float | None = None) -> Row:
    """One line of the table."""
    verdict = "" if most is None else "ok" if value <= most else "missed"
    shown = f"{value:.3f}" if unit == "x" and abs(value) < 0.1 else f"{value:.2f}"
    return what, f"{shown} {unit}", "" if most is None else f"<= {most:g} {unit}", verdict


def targets(facts: Json) -> Iterator[Row]:
    """Every line of what was measured."""
    if "chain" in facts:
        yield from _chain(facts["chain"])
    if "eight" in facts:
        yield from _eight(facts["eight"])
    if "ratios" in facts:
        yield from _gateway(facts)
    for callers, by in facts.get("added", {}).items():
        yield from _added(by, f"50 ms upstream, {callers} callers")
    yield from _bursts(facts.get("bursts", {}))
    for subject, apis in facts.get("other_apis", {}).items():
        for name, by in apis.items():
            for what, value in by.items():
                yield row(f"{subject}: {name} / chat: CPU a {what}", value, "x", 1.5)


def _gateway(facts: Json) -> Iterator[Row]:
    ratios = facts["ratios"]
    yield row(f"gateway / {SCRIPTED}: CPU a JSON call", ratios["json"], "x", 1.3)
    yield row(f"gateway / {RELAY}: CPU a stream frame", ratios["frame"], "x", 1.15)
    if "ferrogw" in ratios:
        yield row("gateway / ferrogw: CPU a JSON call", ratios["ferrogw"], "x")
    for name, most_us in (("uvicorn", None), ("401", 60), ("429", 120)):
        yield row(f"a rejection, {name}", facts["rejections"][name], "us", most_us)
    start_s, cpu_s, rss_mb = facts["starts"]
    yield row("start to live, wall", start_s, "s", 1.0)
    yield row("start to live, CPU", cpu_s, "s")
    yield row("memory at rest", rss_mb, "MB", 80)
    many = facts["thousand"]
    name = "1,000 streams at 20 frames/s in one worker"
    yield row(f"{name}: memory at most", many["peak_rss_mb"], "MB", 250)
    yield row(f"{name}: not served", many["not_served"], "", 0)
    yield row(f"{name}: CPU a frame", many["cpu_us_frame"], "us")
    yield row(f"{name}: the end is late, p99", many["late_p99_ms"], "ms")


def _chain(by: Json) -> Iterator[Row]:
    yield row(f"{CHAIN}: CPU a JSON call", by["json"], "x", 0.35)
    for count, frame in by["frames"].items():
        yield row(f"{CHAIN}: CPU a frame, OpenAI, {count} streams", frame["chain"], "x", 0.10)
        yield row("two bare relays in a row: the same", 2 * frame["relay"], "x")
    for wire, value in by["translated"].items():
        yield row(f"{CHAIN}: CPU a frame, {wire}", value, "x", 0.5)
    yield row(f"{CHAIN}: embeddings of 100 inputs", by["embeddings"], "x", 0.35)
    yield row(f"{CHAIN}: the same as base64", by["embeddings_base64"], "x")
    repeat = by["repeat"]
    yield row(f"{CHAIN}: a repeat from the cache", repeat["whole"]["ratio"], "x", 0.10)
    yield row(f"{CHAIN}: a repeated stream of 200 frames", repeat["stream"]["ratio"], "x", 0.02)
    yield row(f"a repeat: {SHARE}", repeat["whole"]["of"][SHARE]["cpu_us"], "us", 150)
    yield row(f"a repeated stream: {SHARE}", repeat["stream"]["of"][SHARE]["cpu_us"], "us")


def _eight(by: Json) -> Iterator[Row]:
    yield row("eight sidecars: the first is ready", by["first_s"], "s", 5)
    yield row("eight sidecars: the eighth is ready", by["eighth_s"], "s", 8)
    yield row("eight sidecars: memory (PSS)", by["pss_mb"], "MB", 8 * ONE_SIDECAR_MB + PARENT_MB)


def _added(by: Json, behind: str) -> Iterator[Row]:
    """Latency: the gateway beside the relay before one upstream; the chain over the sidecar alone."""
    for what, kind, figure in (
        ("added latency p50", "json", "p50_ms"),
        ("added time to first frame p50", "stream", "first_p50_ms"),
    ):
        of = by[kind]
        yield row(f"{what}, {behind}", beyond(of, GATEWAY, figure), "ms")
        yield row(f"the same / {SCRIPTED}", by["ratios"][kind], "x", 1.0)
        if BOTH in of:
            yield row("gateway + our sidecar: the same", beyond(of, BOTH, figure), "ms")
            yield row(
                "gateway + our sidecar: over our sidecar alone",
                of[BOTH][figure] - of[SIDECAR][figure],
                "ms",
            )


def _bursts(bursts: Json) -> Iterator[Row]:
    for subject, by in bursts.items():
        name = f"{subject}, {by['rate']} to {by['rate'] * 10:,} calls/s for 1 s"
        yield row(f"{name}: p99 before", by["before_p99_ms"], "ms")
        yield row(f"{name}: p99 of the burst", by["burst_p99_ms"], "ms")
        yield row(f"{name}: recovered after", by["recovery_ms"], "ms")
        yield row(f"{name}: failed", by["failed"], "", 0)


def beyond(of: Json, name: str, figure: str) -> float:
    """How much more than the upstream itself a subject took."""
    return float(of[name][figure] - of[DIRECT][figure])
