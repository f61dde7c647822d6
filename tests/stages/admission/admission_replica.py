"""A gateway's admission in a process of its own: `python admission_replica.py URL TENANT AGENT CLIENTS`.

So many clients ask at once for a place, each twice; prints how many were admitted and how many refused.
"""

import asyncio
import sys
from uuid import uuid4

import uvloop

from llm_proxy.admission import AdmissionController
from llm_proxy.dialects import Call
from llm_proxy.errors import RateLimited
from llm_proxy.identity import AccessPolicy, Caller, PolicyWatcher
from llm_proxy.settings import Settings


async def run(url: str, tenant: str, agent: str, clients: int) -> None:
    """Runs the clients, and counts the results."""
    settings = Settings.model_validate(
        {"limits_redis_url": url, "database_url": None, "store_timeout_ms": 5_000}
    )
    watcher = PolicyWatcher()
    admission = AdmissionController(settings, watcher, AccessPolicy(watcher, None, ()))
    await admission.start()
    sys.stdin.readline()
    caller = Caller("internal:test", "internal", tenant=tenant, agent=agent)
    call = Call("chat.completions", "openai", "m", "m", {}, prompt_bytes=100)
    admitted = rejected = 0

    async def client() -> None:
        nonlocal admitted, rejected
        for _ in range(2):
            try:
                lease = await admission.admit(caller, call, uuid4())
            except RateLimited:
                rejected += 1
            else:
                admitted += 1
                lease.settle(10, None)

    await asyncio.gather(*(client() for _ in range(clients)))
    sys.stdout.write(f"{admitted} {rejected}\n")
    await admission.stop()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
