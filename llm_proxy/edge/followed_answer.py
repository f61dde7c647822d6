"""The answer of a call that another process holds, read from the store for the listeners of this one.

Invariants: nothing of a running call's answer is passed on before its process has shown that it runs, by a
further segment or a renewed lease: a caller that comes after it was killed gets an error with a status; an
answer is passed on in order and only as far as it opens. Units: seconds unless named.
"""

import asyncio
import time
from functools import partial

from llm_proxy.admission.idempotency import ClaimReply, IdempotentRequest, is_abandoned
from llm_proxy.admission.redis.claims import BATCH_SEGMENTS, AnswerName, AnswerStore, ClaimStore
from llm_proxy.edge.live_answer import ENDS, Frame, LiveAnswer, decode_frames
from llm_proxy.errors import FirstCallLost, ReplayGone
from llm_proxy.sealing import SegmentCipher

POLL_S, LISTEN_S = 0.1, 1.0


class FollowedAnswer:
    """Reads one answer into a live one while that has listeners."""

    def __init__(
        self,
        stores: tuple[ClaimStore, AnswerStore],
        wanted: IdempotentRequest,
        name: AnswerName,
        claim: ClaimReply,
        live: LiveAnswer,
    ) -> None:
        """`claim` is the store's reply about the call that made the answer."""
        self._claims, self._answers = stores
        self._wanted = wanted
        self._name = name
        self._live = live
        self._cipher = SegmentCipher(wanted.secret, name.call)
        self._number = 0
        self._left_ms = claim.left_ms
        self._is_sure = claim.verdict != "running"
        self._has_caught_up = False
        self._held: list[Frame] = []

    async def read(self, lease_ms: int) -> None:
        """Reads until the end of the answer or of its call; raises `LimiterUnavailable`."""
        listened_at = float("-inf")
        ended: ClaimReply | None = None
        while self._live.listeners:
            if await self._read_segments():
                if self._live.ended:
                    return
                continue
            if ended is not None:  # nothing more came after the call had ended
                wait_s = max(1.0, ended.left_ms / 1000)
                was_made = ended.verdict in {"stored", "gone"}
                self._live.fail(ReplayGone if was_made else partial(FirstCallLost, wait_s))
                return
            if time.monotonic() - listened_at > LISTEN_S:
                listened_at = time.monotonic()
                reply = await self._claims.listen(self._wanted, self._name.call)
                if reply.verdict != "running" or is_abandoned(reply, lease_ms):
                    ended = reply
                    continue
                self._note(reply)
            await asyncio.sleep(POLL_S)

    async def _read_segments(self) -> bool:
        """Reads what there is; returns whether there was anything."""
        segments = await self._answers.read(self._name, self._number)
        for sealed in segments:
            opened = self._cipher.open(self._number, sealed)
            if opened is None:
                self._live.fail(ReplayGone)
                return True
            self._number += 1
            self._held += decode_frames(opened)
        is_further = self._has_caught_up and bool(segments)  # the first were there before
        self._has_caught_up = self._has_caught_up or len(segments) < BATCH_SEGMENTS
        if is_further or (self._held and self._held[-1].kind in ENDS):
            self._is_sure = True
        self._pass_on()
        return bool(segments)

    def _note(self, reply: ClaimReply) -> None:
        """Takes a renewed lease for a sign of life."""
        if reply.left_ms > self._left_ms:
            self._is_sure = True
        self._left_ms = reply.left_ms
        self._pass_on()

    def _pass_on(self) -> None:
        if self._is_sure:
            for frame in self._held:
                self._live.add(frame)
            self._held = []
