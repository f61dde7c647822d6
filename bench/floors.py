"""Where the floor lies: what nobody on this machine can be below, told from the facts of the same run."""

from typing import Any

from bench.house import DIRECT, FLOOR, GATEWAY, LEAST, NGINX, PLAIN, RELAY

Facts = Any

TRIED = """
Tried and not kept, for no difference in latency was seen: huge pages for the heap (glibc's `hugetlb`), a
processor of the gateway's own, processors kept from sleeping, composing the sidecar's request while the
limits store is asked, writing to that store without waiting for others to share the write, a distribution's
build of the interpreter in place of pyenv's, uvicorn's `zttp` protocol. A shorter script for the limits took
20 us off. All stages compiled with Cython as they stand cost a third more CPU a call, not less.
"""


def beyond(of: Facts, name: str, field: str) -> float:
    """How much more than the upstream itself a subject took."""
    more: float = of[name][field] - of[DIRECT][field]
    return more


def floors(facts: Facts) -> str:
    """The floors of latency and of refusals, and what was tried to come nearer."""
    return f"""
Where the floor lies, in this run:

{_latency(facts)}
{_refusals(facts)}
{TRIED}"""


def _latency(facts: Facts) -> str:
    calls, alone, by = facts["calls"]["16"], facts["calls"]["1"], facts["added"]["4"]

    def told_of(name: str) -> str:
        whole, first = beyond(by["json"], name, "p50_ms"), beyond(by["stream"], name, "first_p50_ms")
        return f"{whole:.2f} ms ({first:.2f} to the first frame)"

    def spent(name: str) -> str:
        return f"{calls[name]['cpu_us']:,.0f} us under load and {by['json'][name]['cpu_us']:,.0f} us here"

    others = [(RELAY, "a bare relay"), (FLOOR, "the same with one script call"), (PLAIN, "we without stores")]
    others += [(NGINX, "nginx, which is C"), (LEAST, "the least relay with one script call")]
    told = "; ".join(f"{what} {told_of(name)}" for name, what in others if name in by["json"])
    piece = facts["conditions"]["a piece of Python, us"]
    warm, cold = (f"{piece[when]:,.0f} us" for when in ("again and again", "after 15 ms asleep"))
    hurried = beyond(alone, GATEWAY, "p50_ms")
    return f"""\
* Latency, 4 callers. We add {told_of(GATEWAY)};
  {told}.
  The work is not what takes this long: call after call on one connection, to an upstream that answers at
  once, we add {hurried:.2f} ms. But a processor that has slept for a moment may come back cold, above all
  where machines are virtual and shared. Here one piece of Python takes {warm} again and again, and
  {cold} after 15 ms asleep; a call costs the bare relay {spent(RELAY)},
  and us {spent(GATEWAY)}. The least relay shows what is left when hardly any
  Python runs; a call of ours, admitted, composed, metered and recorded, has some 8,900 bytecodes."""


def _refusals(facts: Facts) -> str:
    refusals = facts["refusals"]
    return f"""\
* Refusals. uvicorn's own protocol takes {refusals["uvicorn"]:,.1f} us to say no to everybody without looking:
  head, body and system calls; our connection {refusals["connection"]:,.1f}. A 401 beyond that is the head's
  checks, the digest and its comparison, an id, the refusal's own words, the metric and the audit's count. A
  429 is that and the key's look-up; the body of a key at its limit is not read."""
