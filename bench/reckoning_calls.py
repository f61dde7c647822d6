"""The callers of a reckoning: they make the planned calls through the gateways, and note what they got.

Invariants: at most so many at once; every other call goes through the other gateway; a caller who leaves
closes its connection, as a browser does.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from bench.reckoning_plan import Planned

PATIENCE_S = 60.0
AWAY = "store_unavailable"
MOST_TRIES, AGAIN_S = 40, 0.5
UNTIL_CACHED_S = 3.0
"""Between a call and the same call again: the answer is put by after it was given."""


@dataclass(slots=True)
class Got:
    """One call as its caller saw it.

    Attributes:
        status: 0 when there was none.
        request_id: As the gateway named it.
        whole: The answer came to its proper end.
        code: Of an error.
    """

    status: int = 0
    request_id: str = ""
    whole: bool = False
    left: bool = False
    broke: str = ""
    code: str = ""


class Callers:
    """So many callers at once."""

    def __init__(self, gateways: list[str], key: str, *, at_once: int) -> None:
        self.got: dict[str, Got] = {}
        self._gateways = gateways
        self._key = key
        self._at_once = at_once

    async def make(self, plans: list[Planned], on_done: Callable[[int], Awaitable[None]]) -> None:
        """Make every call; `on_done` hears how many have ended."""
        waiting = iter(plans)
        async with self._session() as session:

            async def caller() -> None:
                for one in waiting:
                    await self._one(session, one)
                    if one.again is not None:
                        await asyncio.sleep(UNTIL_CACHED_S)
                        await self._one(session, one.again)
                    await on_done(len(self.got))

            async with asyncio.TaskGroup() as group:
                for _ in range(self._at_once):
                    group.create_task(caller())

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        waits = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=waits) as session:
            yield session

    async def _one(self, session: aiohttp.ClientSession, call: Planned) -> None:
        """One call, made again while a budget of it is not known yet and Postgres is away."""
        for _ in range(MOST_TRIES):
            await self._once(session, call)
            if self.got[call.mark].code != AWAY:
                return
            await asyncio.sleep(AGAIN_S)

    async def _once(self, session: aiohttp.ClientSession, call: Planned) -> None:
        got = self.got[call.mark] = Got()
        url = self._gateways[len(self.got) % len(self._gateways)] + call.path
        key = "sk-somebody-elses" if call.play["do"] == "unknown key" else self._key
        headers = {"Authorization": f"Bearer {key}", "X-Request-Id": call.mark, "X-Agent-Id": call.agent}
        headers |= {"X-Tenant-Id": call.tenant, "X-User-Id": call.user}
        headers["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(call.leaves_s),
                session.post(url, data=call.body(), headers=headers) as reply,
            ):
                got.status, got.request_id = reply.status, reply.headers.get("x-request-id", "")
                await _read(reply, call, got)
        except TimeoutError:
            got.left, got.broke = call.leaves_s is not None, "" if call.leaves_s else "timeout"
        except (aiohttp.ClientError, OSError) as problem:
            got.broke = type(problem).__name__


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


async def _read(reply: aiohttp.ClientResponse, call: Planned, got: Got) -> None:
    if reply.status != 200:
        got.code = _code(await reply.read())
        return
    if not call.kind.stream:
        await reply.read()
        got.whole = True
        return
    text, frames = b"", 0
    async for chunk in reply.content.iter_any():
        text = (text + chunk)[-2000:]
        frames += chunk.count(b"\n\n")
        if call.leaves_frames is not None and frames >= call.leaves_frames:
            got.left = True
            reply.close()
            return
    got.whole = text.endswith(b"data: [DONE]\n\n")
