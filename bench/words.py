"""Reports in words: what a long run found, as a page of the docs. Pure."""

import statistics
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


BUSY = (("below 5", 0.0, 5.0), ("5 to 9", 5.0, 9.0), ("above 9", 9.0, 1e9))


def by_load(found: Json) -> list[tuple[object, ...]]:
    """How a soak fared in the minutes in which the whole machine was this busy."""
    loads: dict[int, float] = {int(one["minute"]): one["load"] for one in found["samples"]}
    rows: list[tuple[object, ...]] = []
    for name, least, most in BUSY:
        minutes = [
            one
            for one in found["by_minute"]
            if least <= loads.get(one["minute"], 0.0) < most and one["chat_ms"]["p50"]
        ]
        if minutes:
            middle = statistics.median(one["chat_ms"]["p50"] for one in minutes)
            high = statistics.median(one["chat_ms"]["p99"] for one in minutes)
            errors = sum(sum(one["errors"].values()) for one in minutes)
            rows.append((name, len(minutes), f"{middle:.0f}", f"{high:.0f}", errors))
    return rows


def slope_rows(slopes: Json) -> list[tuple[object, ...]]:
    """A row for each fitted line."""
    return [
        (name, f"{one['first']:g}", f"{one['last']:g}", f"{one['per_hour']:+g}", f"{one['spread']:g}")
        for name, one in slopes.items()
    ]


def soak_page(found: Json) -> str:
    """`docs/soak.md`."""
    account = found["account"] or {}
    fitted = ("curve", "first", "last", "an hour", "left over")
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(found["kinds"].items()))
    errors = "\n".join(f"* {count} {name}" for name, count in found["errors"].items()) or "None."
    return f"""# {found["minutes"]:g} minutes of steady load

`make soak MINUTES={found["minutes"]:g}` starts one gateway and one sidecar with a real Postgres and two real
Valkeys behind them, and a scripted provider; then makes {found["rate_per_s"]:g} calls a second in the
open loop and looks at /proc every ten seconds. Raw figures: [`soak.json`](soak.json).

![curves](soak.svg)

## What grew

A straight line by least squares through every sample after the first {found["warm_minutes"]:.3g} minutes;
its rise an hour, and the standard deviation of what it leaves over. Memory is resident memory in MiB.

{table(fitted, slope_rows(found["slopes"]))}

The same through the second half alone:

{table(fitted, slope_rows(found["slopes_of_the_second_half"]))}

## What became of the calls

{found["calls"]} calls: {kinds}.

Errors, that is whatever a caller of that kind had no reason to expect:

{errors}

Each call carries a mark; callers' answers, the provider's calls and the records in Postgres are compared mark
by mark. {account.get("seen_by_provider")} calls reached the provider, {account.get("records")} records were
kept: {account.get("lost")} lost, {account.get("doubled")} doubled, {account.get("repeated")} calls repeated.

{_soak_conditions(found)}"""


def _soak_conditions(found: Json) -> str:
    loads = [one["load"] for one in found["samples"]]
    first, last, calls = found["samples"][0], found["samples"][-1], max(1, found["calls"])
    cpu = {
        name: f"{1000 * (last[name]['cpu_s'] - first[name]['cpu_s']) / calls:.2f} ms"
        for name in ("gateway-1", "sidecar-1")
    }
    starved = any("timeout" in error for error in found["errors"])
    why = (
        "Where the machine gave the sidecar less than it needed, calls queued at it, "
        "and callers gave up after thirty seconds (`timeout`). "
    )
    return f"""## Conditions

One machine of {found["cores"]} cores, its load between {min(loads):.1f} and {max(loads):.1f}.
Processor time a call, refusals included: gateway {cpu["gateway-1"]}, sidecar {cpu["sidecar-1"]}.
{why if starved else ""}Whole chat answers by the load of the machine:

{table(("load", "minutes", "median of p50, ms", "median of p99, ms", "errors"), by_load(found))}
"""


def chaos_page(found: Json) -> str:
    """`docs/chaos.md`."""
    rows = [
        (
            one["fault"],
            one["calls"],
            ", ".join(f"{count} {word}" for word, count in one["errors"].items()) or "none",
            one["expected"],
            one["longest_stall_s"],
            one["recovered_after_s"],
            f"{one['lost']} / {one['doubled']} / {one['repeated']}",
        )
        for one in found["phases"]
    ]
    head = ("fault", "calls", "errors", "to be expected", "longest stall, s", "last error after, s")
    account = found["account"]
    notes = "\n".join(f"* {note}" for note in found["notes"]) or "Nothing to add."
    return f"""# Chaos

`make chaos` runs {found["gateways"]} gateways and {found["sidecars"]} sidecars before a scripted provider,
with a real Postgres and two real Valkeys, makes {found["rate_per_s"]:g} calls a second (whole answers,
streams, embeddings, refusals, callers who leave), and takes one part after the other away:
{found["seconds"]:g} seconds in all. Raw figures: [`chaos.json`](chaos.json).

{table((*head, "lost / doubled / repeated"), rows)}

* An error is whatever its caller had no reason to expect; it belongs to the fault in which its caller saw it.
* The longest stall is the longest time in which no call at all ended well.
* The last error: how long after the fault began.
* Callers see the gateways as behind a load balancer: one that is not ready gets no calls, and a refused
  connection goes to the other.

## Nothing lost, nothing twice

Each call carries a mark; what its caller got, what the provider saw and what Postgres holds in the end are
compared mark by mark. {account["made"]} calls were made, {account["seen_by_provider"]} reached the
provider, {account["records"]} records were kept, {account["unfinished"]} of them for calls that ran in a
gateway when it was killed (`outcome = 'lost'`). Lost: {account["lost"]}. Doubled: {account["doubled"]}. Sent
to the provider twice: {account["repeated"]}.

## Notes

{notes}
"""


def attack_page(found: Json) -> str:
    """`docs/attack.md`."""
    families: dict[str, list[Json]] = {}
    for row in found["rows"]:
        families.setdefault(row["family"], []).append(row)
    rows = [
        (
            family,
            len(many),
            ", ".join(_status(one) for one in sorted({code for row in many for code in row["statuses"]})),
            "nothing" if all(row["sidecar"] == "nothing" for row in many) else "requests of our own",
            f"{max(row['cpu_ms'] for row in many):.1f}",
            f"{sum(row['as_it_should'] for row in many)} of {len(many)}",
        )
        for family, many in families.items()
    ]
    costly = sorted(found["rows"], key=lambda row: -row["cpu_ms"])[:10]
    dear = [(row["attack"], row["cpu_ms"], ", ".join(map(_status, row["statuses"]))) for row in costly]
    slow = [
        (row["attack"], row["seconds"], row["cpu_ms"], row["meanwhile_ms"])
        for row in found["rows"]
        if "meanwhile_ms" in row
    ]
    head = ("family", "attacks", "answered", "the sidecar saw", "most processor ms one cost", "as it should")
    return f"""# Attacks replayed

`make attack` sends each to a gateway with a real sidecar behind it; a relay between the two keeps every byte
that passes. Single requests are sent {found["times"]} times; processor time is the gateway's own, for one of
them. Every request with its outcome: [`attack.json`](attack.json).

{table(head, rows)}

What was meant to be seen further on (`canary-of-the-attacker` in fields and headers) reached the sidecar:
{"yes" if found["canary_seen_by_sidecar"] else "never"}. A good call took {found["usual_ms"]:g} ms before and
{found["afterwards_ms"]:g} ms after all of it.

## The dearest

{table(("attack", "processor ms", "answered"), dear)}

## Slow and many

{table(("attack", "seconds until all were ended", "processor ms each", "a good call meanwhile, ms"), slow)}
"""


def _status(code: int) -> str:
    return str(code) if code else "closed"
