"""Requests with an `Idempotency-Key`: the first is a call, the others get its answer, while it runs or later.

Invariants: a call begins only with its claim in the limits store, and ends when it may have lost it; however
it ends, its claim is finished or released, tried again until the store has it; an answer leaves this process
sealed. Without both stores a request with a key is rejected. Units: seconds unless named.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple
from uuid import UUID

from llm_proxy.admission.idempotency import (
    ClaimReply,
    IdempotentRequest,
    identify,
    is_abandoned,
    parse_key,
    would_come_again,
)
from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.claims import AnswerName, AnswerStore, ClaimStore
from llm_proxy.background import BackgroundLoop, spawn
from llm_proxy.call_context import CallContext
from llm_proxy.call_guard import CallGuard
from llm_proxy.edge.followed_answer import FollowedAnswer
from llm_proxy.edge.live_answer import LAST, LEFT, Frame, LiveAnswer, encode_frames
from llm_proxy.edge.request import Headers
from llm_proxy.errors import APIError, FirstCallLost, IdempotencyKeyReused, ReplayGone, StoreUnavailable
from llm_proxy.ledger import person_digest
from llm_proxy.sealing import SegmentCipher
from llm_proxy.settings import Settings
from llm_proxy.telemetry import Metrics
from llm_proxy.uploads import UploadedFile

KEY = b"idempotency-key"
LINGER_S = 5.0
"""How long a call goes on after its caller has disconnected: the caller's next try gets its answer."""
HEARD_S = 6.0
"""How long a caller at another process counts as listening after it last listened."""
FLUSH_S, RETRY_S = 0.05, 0.1
END_TIMEOUT_S = 1.0
_LONGEST_BEAT_S = 3.0
_UNKEPT_MS = 10_000
"""How long listeners elsewhere may read the end of an answer that is not kept."""
_CHOOSING = (b"x-provider", b"anthropic-beta", b"anthropic-version")
"""Headers that distinguish requests with the same body."""
Ending = Literal["stored", "gone", "released"]


class ReadRequest(NamedTuple):
    """A request as it was read.

    Attributes:
        target: Path and query, as they were sent; empty without an idempotency key.
        body: Of a form, its fields.
    """

    target: bytes
    headers: Headers
    body: bytes
    files: tuple[UploadedFile, ...] = ()


@dataclass(slots=True, eq=False)
class OwnedCall:
    """A running call that holds a claim.

    Attributes:
        confirmed_at: When the store last had its claim.
        heard_at: When a caller elsewhere listened last.
        ending: What becomes of the claim; None while the call runs.
    """

    request: IdempotentRequest
    name: AnswerName
    answer: LiveAnswer
    guard: CallGuard
    publication: "Publication"
    confirmed_at: float
    heard_at: float = float("-inf")
    ending: Ending | None = None
    _left_at: float | None = field(default=None, init=False)

    def is_wanted(self) -> bool:
        """Whether it goes on without its caller, who has disconnected."""
        now = time.monotonic()
        if self._left_at is None:
            self._left_at = now
        is_heard = now - self.heard_at < HEARD_S
        return bool(self.answer.listeners) or is_heard or now - self._left_at < LINGER_S


class Publication:
    """The answer of a running call on its way to the store: every frame once, in order.

    Attributes:
        is_lost: The store no longer has the segments before the next one.
    """

    def __init__(self, store: AnswerStore, name: AnswerName, answer: LiveAnswer, secret: bytes) -> None:
        self.is_lost = False
        self._store = store
        self._name = name
        self._answer = answer
        self._cipher = SegmentCipher(secret, name.call)
        self._number = self._sent = 0
        self._waiting: tuple[bytes, int] | None = None
        self._lock = asyncio.Lock()

    @property
    def is_complete(self) -> bool:
        """Whether the store has all frames so far."""
        return self._is_open and self._sent == len(self._answer.frames)

    @property
    def is_behind(self) -> bool:
        """Whether frames beside the head wait to be sent."""
        return self._is_open and len(self._answer.frames) > max(self._sent, 1)

    @property
    def _is_open(self) -> bool:
        return not (self.is_lost or self._answer.is_dropped)

    async def flush(self, keep_ms: int, *, last: bool = False) -> None:
        """Sends what was not sent yet, the answer's end only with `last`; raises `LimiterUnavailable`."""
        async with self._lock:
            while self._is_open and (frames := self._unsent(last=last)):
                if self._waiting is None:  # else its reply was lost, and the same bytes are sent again
                    self._waiting = self._cipher.seal(self._number, encode_frames(frames)), len(frames)
                sealed, count = self._waiting
                if not await self._store.append(self._name, self._number, sealed, keep_ms):
                    self.is_lost = True
                    return
                self._number, self._sent, self._waiting = self._number + 1, self._sent + count, None

    def _unsent(self, *, last: bool) -> list[Frame]:
        frames = self._answer.frames
        return frames[self._sent : len(frames) - (self._answer.ended and not last)]


class IdempotentCalls:
    """The calls with keys of one worker."""

    def __init__(
        self, claims: ClaimStore, answers: AnswerStore, settings: Settings, metrics: Metrics
    ) -> None:
        self._claims = claims
        self._answers = answers
        self._metrics = metrics
        self._max_bytes = settings.idempotency_max_bytes
        self._keep_ms = settings.idempotency_retention_s * 1000
        self._lease_s = settings.idempotency_lease_s
        self._beat_s = min(self._lease_s / 5, _LONGEST_BEAT_S)
        self._owned: dict[str, OwnedCall] = {}
        self._followed: dict[AnswerName, LiveAnswer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._heartbeat = BackgroundLoop("idempotency-claims", self._beat, every_s=self._beat_s)

    async def start(self) -> None:
        """Connects, or keeps trying in the background."""
        await self._claims.store.start()
        await self._answers.store.start()
        self._heartbeat.start()

    async def stop(self) -> None:
        """Closes the connections; claims of calls that still run end with their leases."""
        await self._heartbeat.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._answers.store.stop()
        await self._claims.store.stop()

    async def begin(
        self, request: ReadRequest, context: CallContext, guard: CallGuard
    ) -> "OwnedCall | tuple[UUID, LiveAnswer]":
        """Returns the call of a request that is the first with its key, else the first call and its answer.

        Raises `BadRequest`, `IdempotencyKeyReused`, `ReplayGone`, `FirstCallLost` or `StoreUnavailable`.
        """
        try:
            wanted = await _identify(request, context)
            found = await self._begin(wanted, context, guard)
        except (IdempotencyKeyReused, ReplayGone, FirstCallLost, StoreUnavailable) as error:
            self._count(error.code or "")
            raise
        self._count("first" if isinstance(found, OwnedCall) else "replayed")
        return found

    async def _begin(
        self, wanted: IdempotentRequest, context: CallContext, guard: CallGuard
    ) -> "OwnedCall | tuple[UUID, LiveAnswer]":
        owned = self._owned.get(wanted.claim)
        if owned is None:
            reply, claimed_at = await self._claim(wanted, context.request_id.hex), time.monotonic()
            if reply.verdict == "yours":
                made = await self._made_before(wanted, context)
                if made is None:
                    return self._own(wanted, context, guard, claimed_at)
                reply = made
            owned = self._owned.get(wanted.claim)
            if owned is None or owned.name.call != reply.call:
                return UUID(reply.call), self._elsewhere(wanted, context, reply)
        if owned.request.fingerprint != wanted.fingerprint:
            raise IdempotencyKeyReused
        return UUID(owned.name.call), owned.answer

    async def _claim(self, wanted: IdempotentRequest, call: str) -> ClaimReply:
        if not self._answers.store.is_available:
            raise _stores_unavailable()
        try:
            return await self._claims.claim(wanted, call, int(self._lease_s * 1000))
        except LimiterUnavailable:
            raise _stores_unavailable() from None

    async def _made_before(self, wanted: IdempotentRequest, context: CallContext) -> ClaimReply | None:
        """Returns the claim of a call that was made, restored, where the limits store has lost it."""
        own = context.request_id.hex
        try:
            made = await self._answers.find_made(_answer_name(wanted, context, own))
            if made is None:
                return None
            await self._claims.release(wanted, own)
            restored = replace(wanted, fingerprint=made.fingerprint)
            await self._claims.finish(restored, made.call, made.left_ms, "stored")
        except LimiterUnavailable:
            with contextlib.suppress(LimiterUnavailable):
                await self._claims.release(wanted, own)
            raise _stores_unavailable() from None
        is_same = made.fingerprint == wanted.fingerprint
        return ClaimReply("stored" if is_same else "reused", made.call, made.left_ms)

    def _own(
        self, wanted: IdempotentRequest, context: CallContext, guard: CallGuard, claimed_at: float
    ) -> OwnedCall:
        name = _answer_name(wanted, context, context.request_id.hex)
        answer = LiveAnswer(self._max_bytes)
        publication = Publication(self._answers, name, answer, wanted.secret)
        owned = OwnedCall(wanted, name, answer, guard, publication, claimed_at)
        self._owned[wanted.claim] = owned
        guard.audience = owned.is_wanted
        self._spawn(self._publish(owned))
        return owned

    def _elsewhere(self, wanted: IdempotentRequest, context: CallContext, reply: ClaimReply) -> LiveAnswer:
        """Returns the answer of a call that another process holds, or held."""
        if reply.verdict == "reused":
            raise IdempotencyKeyReused
        if reply.verdict == "gone":
            raise ReplayGone
        if is_abandoned(reply, int(self._lease_s * 1000)):
            raise FirstCallLost(reply.left_ms / 1000)
        name = _answer_name(wanted, context, reply.call)
        answer = self._followed.get(name)
        if answer is None:
            answer = self._followed[name] = LiveAnswer(self._max_bytes)
            self._spawn(self._follow(wanted, reply, answer, name))
        return answer

    # A call of this process

    async def _publish(self, owned: OwnedCall) -> None:
        """Sends a stream's frames while it runs; `end` sends the last, and all of a whole answer."""
        while not owned.answer.ended:
            if not owned.publication.is_behind:
                await owned.answer.wait_for_change()
                continue
            with contextlib.suppress(LimiterUnavailable):  # then with the next frames, or at the end
                await owned.publication.flush(self._keep_ms)
            await asyncio.sleep(FLUSH_S)

    async def end(self, owned: OwnedCall, error: APIError | None) -> None:
        """Keeps the answer of a call that has ended, or lets the next one run; `error`: what it answered.

        That is done before its last byte leaves, so that a caller never meets its own previous call.
        """
        if owned.ending is not None:
            return
        answer = owned.answer
        answer.add(Frame(LEFT))  # for a call that ended without an end
        whole = owned.guard.reason is None if answer.is_dropped else answer.frames[-1].kind == LAST
        kept = whole and (error is None or would_come_again(error))
        await self._flush_last(owned, self._keep_ms if kept else _UNKEPT_MS)
        owned.ending = "released" if not kept else "stored" if owned.publication.is_complete else "gone"
        await self._settle(owned)

    async def _flush_last(self, owned: OwnedCall, keep_ms: int) -> None:
        give_up_at = time.monotonic() + END_TIMEOUT_S
        while True:
            try:
                await owned.publication.flush(keep_ms, last=True)
            except LimiterUnavailable:
                if time.monotonic() > give_up_at:
                    return
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _settle(self, owned: OwnedCall) -> None:
        """Stores how a call ended; if the store does not accept it now, `_beat` tries again."""
        call = owned.name.call
        try:
            if owned.ending == "released":
                await self._claims.release(owned.request, call)
            elif owned.ending is not None:
                with contextlib.suppress(LimiterUnavailable):
                    await self._answers.note_made(owned.name, owned.request.fingerprint, self._keep_ms)
                await self._claims.finish(owned.request, call, self._keep_ms, owned.ending)
        except LimiterUnavailable:
            return
        if self._owned.get(owned.request.claim) is owned:
            del self._owned[owned.request.claim]

    async def _beat(self) -> None:
        """Renews the claims of the running calls, and stores the ends that the store has not accepted yet."""
        await asyncio.gather(*(self._renew(owned) for owned in list(self._owned.values())))

    async def _renew(self, owned: OwnedCall) -> None:
        if owned.ending is not None:
            await self._settle(owned)
            return
        now = time.monotonic()
        try:
            reply = await self._claims.renew(owned.request, owned.name.call, int(self._lease_s * 1000))
        except LimiterUnavailable:
            if now - owned.confirmed_at > self._lease_s - 2 * self._beat_s:
                owned.guard.interrupt("unclaimed")
            return
        if reply.verdict != "yours":
            if owned.ending is None:
                owned.guard.interrupt("unclaimed")
            return
        owned.confirmed_at = now
        if reply.heard_ago_ms >= 0:
            owned.heard_at = now - reply.heard_ago_ms / 1000

    # A call of another process

    async def _follow(
        self, wanted: IdempotentRequest, claim: ClaimReply, answer: LiveAnswer, name: AnswerName
    ) -> None:
        """Reads an answer from the store while callers listen to it here."""
        followed = FollowedAnswer((self._claims, self._answers), wanted, name, claim, answer)
        try:
            await followed.read(int(self._lease_s * 1000))
        except LimiterUnavailable:
            answer.fail(_stores_unavailable)
        finally:
            self._followed.pop(name, None)
            answer.fail(FirstCallLost)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = spawn("idempotent-answers", work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self, result: str) -> None:
        self._metrics.increment("llm_proxy_idempotent_requests_total", result)


def _answer_name(wanted: IdempotentRequest, context: CallContext, call: str) -> AnswerName:
    caller = context.caller
    person = person_digest(caller.tenant, caller.user) if caller is not None else None
    return AnswerName(person.hex() if person is not None else None, wanted.claim, call)


async def _identify(request: ReadRequest, context: CallContext) -> IdempotentRequest:
    assert context.caller is not None  # noqa: S101 -- the request was read
    parts = [request.target, request.body]
    for name in _CHOOSING:
        parts += (name, request.headers.get(name, b""))
    for file in request.files:
        digest = hashlib.sha256()
        async for block in file.blocks():
            digest.update(block)
        names = (file.name, file.filename, file.content_type)
        parts += (*(one.encode() for one in names), digest.digest())
    return identify(parse_key(request.headers[KEY]), context.caller, parts)


def _stores_unavailable() -> StoreUnavailable:
    message = "This 'Idempotency-Key' cannot be checked, because its store does not answer; please try again."
    return StoreUnavailable(message, retry_after_s=1)
