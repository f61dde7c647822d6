"""The claims of idempotency keys in the limits store, and the sealed answers in the cache's Redis.

Invariants: a claim holds digests and ids, no text; which call was made is noted beside its answer too, for a
limits store that loses its claims; an answer is only ever added to in the order of its
segments, so that a part of it is never taken for the whole; every answer ends by itself. A claim that was
given too late, to a caller who no longer waits, ends with its lease. Raises LimiterUnavailable.
"""

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast
from uuid import UUID

from llm_proxy.admission.idempotency import ClaimReply, ClaimState, IdempotentRequest, Verdict
from llm_proxy.admission.redis.script import Script, open_store

TIMEOUT_S = 1.0
"""Of every command: a call with an idempotency key waits rather than fails when a store is slow."""
BATCH_SEGMENTS = 64
_SCAN_KEYS = 1000
_ORDER, _SIZES = "lp:{answers}:order", "lp:{answers}:sizes"
_NOBODY = "-"
_MADE = b":made"
_ERASED_MS = 86_400_000
"""Time for which no answer is kept of a call that began before its person was erased."""


class ClaimStore:
    """The claims, in the limits store."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None, clock: str | None = None) -> None:
        self.store = open_store(url, "claims", timeout_s=TIMEOUT_S, tls=tls)
        self._script = Script(self.store, "idempotency", clock)

    async def claim(self, wanted: IdempotentRequest, call: str, lease_ms: int) -> ClaimReply:
        """Claims a key for a call; see `idempotency.claim`."""
        return await self._run(wanted, "claim", call, lease_ms)

    async def listen(self, wanted: IdempotentRequest, call: str) -> ClaimReply:
        """Notes for the call that holds the claim that a caller waits for its answer."""
        return await self._run(wanted, "listen", call)

    async def renew(self, wanted: IdempotentRequest, call: str, lease_ms: int) -> ClaimReply:
        """Renews the lease of a running call."""
        return await self._run(wanted, "renew", call, lease_ms)

    async def finish(self, wanted: IdempotentRequest, call: str, keep_ms: int, state: ClaimState) -> None:
        """Notes what became of the answer."""
        await self._run(wanted, "finish", call, keep_ms, state)

    async def release(self, wanted: IdempotentRequest, call: str) -> None:
        """Lets the next call with this key run anew."""
        await self._run(wanted, "release", call)

    async def _run(
        self, wanted: IdempotentRequest, step: str, call: str, span_ms: int = 0, state: str = ""
    ) -> ClaimReply:
        key = f"lp:idempotency:{wanted.claim}"
        verdict, held_by, left_ms, heard_ms = await self._script.run(
            (key,), (step, call, span_ms, wanted.fingerprint, state)
        )
        return ClaimReply(cast("Verdict", verdict.decode()), held_by.decode(), left_ms, heard_ms)


@dataclass(frozen=True, slots=True)
class AnswerName:
    """Names one answer.

    Attributes:
        person: A digest of the person whose answer it is; None for a caller without a user.
        call: The call that it answers.
    """

    person: str | None
    claim: str
    call: str

    @property
    def began_ms(self) -> int:
        """When its call began, as its id says."""
        return UUID(self.call).int >> 80

    @property
    def made_key(self) -> str:
        """The key that says which call was made for the claim; erased with its person's answers."""
        return f"lp:{{answers}}:{self.person or _NOBODY}:{self.claim}{_MADE.decode()}"

    @property
    def key(self) -> str:
        """Its key; all answers lie in one slot of a cluster, for their common bound."""
        return f"lp:{{answers}}:{self.person or _NOBODY}:{self.claim}:{self.call}"


class MadeCall(NamedTuple):
    """A call that was made for a claim, as the answers' store remembers it.

    Attributes:
        fingerprint: Of its request.
        left_ms: The time until it is forgotten.
    """

    call: str
    fingerprint: str
    left_ms: int


class AnswerStore:
    """The answers, in the cache's Redis: sealed, in segments, bounded in all, and free to be evicted."""

    def __init__(
        self,
        url: str,
        *,
        max_total_bytes: int,
        tls: ssl.SSLContext | None = None,
        clock: str | None = None,
    ) -> None:
        self.store = open_store(url, "answers", timeout_s=TIMEOUT_S, tls=tls)
        self._max_total_bytes = max_total_bytes
        self._append = Script(self.store, "keep_answer", clock)

    async def append(self, name: AnswerName, number: int, segment: bytes, keep_ms: int) -> bool:
        """Adds a segment, once; returns False for an answer that was evicted or erased meanwhile."""
        args = (segment, number, keep_ms, self._max_total_bytes, name.began_ms)
        return bool(await self._append.run((name.key, _ORDER, _SIZES, _erased_key(name.person)), args))

    async def read(self, name: AnswerName, start: int) -> Sequence[bytes]:
        """Returns the next segments from one on, at most `BATCH_SEGMENTS`."""
        segments: list[bytes] = await self.store.execute(
            name.key, "LRANGE", name.key, start, start + BATCH_SEGMENTS - 1
        )
        return segments

    async def note_made(self, name: AnswerName, fingerprint: str, keep_ms: int) -> None:
        """Notes that a claim's call was made, and not to be made again, if the claim is lost."""
        key = name.made_key
        await self.store.execute(key, "SET", key, f"{name.call}:{fingerprint}", "PX", keep_ms)

    async def find_made(self, name: AnswerName) -> MadeCall | None:
        """Returns the call that was made for the claim of a name; None if none is noted."""
        key = name.made_key
        noted: bytes | None = await self.store.execute(key, "GET", key)
        if noted is None:
            return None
        call, _, fingerprint = noted.decode().partition(":")
        return MadeCall(call, fingerprint, max(1, int(await self.store.execute(key, "PTTL", key))))

    async def erase(self, person: str) -> int:
        """Deletes a person's answers, and keeps none of calls that run now; returns how many there were."""
        erased, key = 0, _erased_key(person)
        await self.store.execute(key, "SET", key, time.time_ns() // 1_000_000, "PX", _ERASED_MS)
        for connection in self.store.connections:
            cursor, pattern = b"0", f"lp:{{answers}}:{person}:*"
            while True:
                cursor, keys = await connection.execute("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_KEYS)
                for key in keys:
                    is_answer = not key.endswith(_MADE)
                    erased += int(await connection.execute("UNLINK", key)) * is_answer
                if cursor == b"0":
                    break
        return erased


def _erased_key(person: str | None) -> str:
    return f"lp:{{answers}}:erased:{person or _NOBODY}"
