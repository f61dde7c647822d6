"""Replays attacks on a gateway with a real sidecar behind it: what did each reach, and what did it cost?

    make attack

Writes `docs/attack.json` and `docs/attack.md` (or below `--out`): for each request the status, whether the
sidecar was sent anything, and the processor time of the gateway. A relay between gateway and sidecar keeps
every byte that passes.
"""

import argparse
import asyncio
import json
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from raw_http import RecordingRelay, send_raw
from running_stack import KEY

from bench.attacks import CANARY, Attack, attacks
from bench.rig import MASTER_KEY, Rig, gateway_part, of_the_machine, rig, write_json
from bench.slow import slow_attacks
from bench.words import attack_page
from llm_proxy.stack import probe

Json = dict[str, Any]
TIMES = 3
POLLS = (b"GET /health/liveliness ", b"GET /llmp/catalog ")


@dataclass(slots=True)
class Front:
    """The gateway under attack, and the relay behind it."""

    port: int
    pid: int
    tap: RecordingRelay

    def cpu_ms(self) -> float:
        """Processor time of the gateway so far, all threads (proc(5), schedstat)."""
        files = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text(encoding="ascii").split()[0]) for file in files) / 1e6

    def sent(self) -> list[bytes]:
        """Heads of the requests that went to the sidecar, the gateway's own checks left out."""
        return [head for head in self.tap.heads() if not head.startswith(POLLS)]


def replay(front: Front, attack: Attack) -> Json:
    """Send one attack a few times."""
    statuses: set[int] = set()
    before, cpu, began = len(front.sent()), front.cpu_ms(), time.monotonic()
    for _ in range(TIMES):
        said = send_raw(front.port, attack.raw, wait_s=5)
        statuses |= set(said.statuses) or {0}
    passed = front.sent()[before:]
    canary = CANARY.encode() in front.tap.sent
    own = all(MASTER_KEY.encode() in head and b"host: 127.0.0.1" in head.lower() for head in passed)
    as_it_should = statuses <= attack.expected and (attack.passes or not passed) and own
    return {
        "family": attack.family,
        "attack": attack.name,
        "statuses": sorted(statuses),
        "sidecar": f"{len(passed)} requests of our own" if passed else "nothing",
        "canary_passed": canary and not attack.passes,
        "cpu_ms": round((front.cpu_ms() - cpu) / TIMES, 2),
        "seconds": round((time.monotonic() - began) / TIMES, 3),
        "as_it_should": as_it_should,
    }


def good_call(front: Front) -> float:
    """Milliseconds a good call takes now; raises when it is not answered."""
    body = json.dumps(
        {"model": "p/any", "messages": [{"role": "user", "content": f"{time.time()}"}]}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    began = time.monotonic()
    raw = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    said = send_raw(front.port, raw, wait_s=20)
    if said.statuses != [200]:
        raise RuntimeError(f"a good call was answered {said.statuses}")
    return (time.monotonic() - began) * 1000


def fronted(house: Rig) -> Front:
    """A gateway before the relay before the sidecar, started."""
    tap = RecordingRelay(house.at["sidecar-1"])
    house.at["gateway-1"] = probe.free_port()
    names = {
        "LLM_PROXY__LITELLM_PROXY_URL": f"http://127.0.0.1:{tap.port}",
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__BODY_TIMEOUT_S": "5",
        "LLM_PROXY__UNREAD_TIMEOUT_S": "5",
        "LLM_PROXY__MAX_CONNECTIONS": "600",
    }
    house.parts["gateway-1"] = gateway_part(house, of_the_machine(), 1, names)
    house.start("gateway-1")
    return Front(house.at["gateway-1"], house.pid("gateway-1"), tap)


def run(front: Front) -> Json:
    """Every attack, the quick ones and the slow ones, with good calls before and after."""
    usual = min(good_call(front) for _ in range(5))
    rows = [replay(front, attack) for attack in attacks()]
    rows += asyncio.run(slow_attacks(front, good_call))
    return {
        "times": TIMES,
        "usual_ms": round(usual, 1),
        "afterwards_ms": round(min(good_call(front) for _ in range(5)), 1),
        "rows": rows,
        "not_as_it_should": [row for row in rows if not row["as_it_should"]],
        "canary_seen_by_sidecar": CANARY.encode() in front.tap.sent,
    }


def main() -> None:
    """Run the attacks and write the report."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--out", type=Path, default=Path("docs"))
    asked = flags.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    socket.setdefaulttimeout(10)
    with rig(gateways=0, sidecars=1) as house:
        front = fronted(house)
        try:
            found = run(front)
        finally:
            front.tap.close()
    write_json(asked.out / "attack.json", found)
    (asked.out / "attack.md").write_text(attack_page(found), encoding="utf-8")
    bad = found["not_as_it_should"]
    print(f"{len(found['rows'])} attacks, {len(bad)} not as they should be")
    for row in bad:
        print(f"  {row['family']}: {row['attack']}: {row['statuses']}, sidecar saw {row['sidecar']}")


if __name__ == "__main__":
    main()
