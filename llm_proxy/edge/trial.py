"""One small call to one model group, at an operator's wish, along the road every call takes.

Invariants: never answered from a cache or by another group, never more than a few tokens, on record like any
other; never made by itself: nobody is called to see whether he is well.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from llm_proxy.admission import Lease
from llm_proxy.dialects import Call
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest, Refused
from llm_proxy.identity import Caller
from llm_proxy.ledger import Exchange
from llm_proxy.pipeline import Stages, relay
from llm_proxy.telemetry import uuid7
from llm_proxy.upstream import Reply, interruption

MOST_TOKENS = 16
LONGEST_S = 60.0
OPERATOR = Caller("admin:test", "internal", key_prefix="admin:test", cache=False)
_SAID = "Answer with one word: yes."
_BODIES: dict[str, tuple[Endpoint, dict[str, Any]]] = {
    "chat": (
        "chat.completions",
        {"messages": [{"role": "user", "content": _SAID}], "max_tokens": MOST_TOKENS},
    ),
    "completion": ("completions", {"prompt": _SAID, "max_tokens": MOST_TOKENS}),
    "embedding": ("embeddings", {"input": _SAID}),
}


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of it; `refused` is None when it went well."""

    exchange: Exchange
    latency_ms: float
    refused: Refused | None


class Trial:
    """Makes such calls."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    async def __call__(self, group: str, mode: str) -> Tried:
        """Call a group; raises `BadRequest` for a mode no door of ours serves."""
        if mode not in _BODIES:
            raise BadRequest(f"A model of mode `{mode}` cannot be tested here.", param="id")
        door, body = _BODIES[mode]
        call = Call(
            door, "openai", group, group, {"model": group, **body, "disable_fallbacks": True},
            max_tokens=body.get("max_tokens"), prompt_bytes=len(_SAID),
        )  # fmt: skip
        exchange = Exchange(uuid7(), None)
        exchange.caller, exchange.call = OPERATOR, call
        refused = await self._run(exchange, call)
        return Tried(exchange, exchange.elapsed_ms(), refused)

    async def _run(self, exchange: Exchange, call: Call) -> Refused | None:
        stages = self._stages
        watch = stages.watches.open(float("inf"))
        watch.ends_at = asyncio.get_running_loop().time() + LONGEST_S
        try:
            await relay(stages, exchange, OPERATOR, call, watch=watch, deliver=_take)
        except Refused as refused:
            return refused
        except asyncio.CancelledError:
            if not watch.was_interrupted():
                raise
            return interruption(watch.why)
        finally:
            stages.watches.close(watch)
        return None


async def _take(reply: Reply, _lease: Lease, exchange: Exchange) -> None:
    _, exchange.usage = await reply.json()
    exchange.first_byte()
    exchange.status = 200
