"""Reports in words: what a long run found, as a page of the docs. Pure."""

from typing import Any

Json = dict[str, Any]


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def soak_page(found: Json) -> str:
    """`docs/soak.md`."""
    account = found["account"] or {}
    slopes = [
        (name, f"{one['first']:g}", f"{one['last']:g}", f"{one['per_hour']:+g}", f"{one['spread']:g}")
        for name, one in found["slopes"].items()
    ]
    loads = [one["load"] for one in found["samples"]]
    first, last, calls = found["samples"][0], found["samples"][-1], max(1, found["calls"])
    cpu = {
        name: f"{1000 * (last[name]['cpu_s'] - first[name]['cpu_s']) / calls:.2f} ms"
        for name in ("gateway-1", "sidecar-1")
    }
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

{table(("curve", "first", "last", "an hour", "left over"), slopes)}

## What became of the calls

{found["calls"]} calls: {kinds}.

Errors, that is whatever a caller of that kind had no reason to expect:

{errors}

Each call carries a mark; callers' answers, the provider's calls and the records in Postgres are compared mark
by mark. {account.get("seen_by_provider")} calls reached the provider, {account.get("records")} records were
kept: {account.get("lost")} lost, {account.get("doubled")} doubled, {account.get("repeated")} calls repeated.

## Conditions

One machine of {found["cores"]} cores, shared with other work: the load of the whole machine was between
{min(loads):.1f} and {max(loads):.1f}, so that latencies say more about their stability than about their size.
Processor time a call, refusals included: gateway {cpu["gateway-1"]}, sidecar {cpu["sidecar-1"]}.
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
