"""The response cache of chat and text completions: answers are stored and replayed exactly as they were sent.

Invariants: an entry is a complete answer without an error, from the requested model group; a hit uses neither
the router nor a provider; a failing Redis makes every look-up a miss and never an error.
LiteLLM's own cache serves embeddings (`patches.litellm_cache`); both share its Redis client and breaker.
"""

import asyncio
import hashlib
import json
import re
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import orjson

from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.cache_events import CacheHit, ReportHit, headers_in
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.config import CACHE_NAMESPACE, CACHED_PATHS
from llm_proxy.sidecar.guardrails import ConfiguredGuardrails
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.redis_gets import RedisGets
from llm_proxy.sidecar.responses import (
    ERROR_EVENT,
    App,
    Message,
    Receive,
    Scope,
    Send,
    request_headers,
    send_whole,
)

MAX_ENTRY_BYTES = 2**20
"""Limit of a compressed answer; writing a longer one could exceed the timeout of Redis."""
PLAIN_BYTES = 2 * 2**10
"""A shorter answer is not compressed: to unpack it would cost more than the memory it saves in Redis."""
PIECE_BYTES = 16 * 2**10
"""Compressed bytes replayed at a time; a few hundred frames of a stream."""
INLINE_BYTES = 256 * 2**10
"""Longer messages are compressed in a thread."""
SCAN_COUNT = 1000
UNKEYED_FIELDS = frozenset({"cache", "disable_fallbacks", "litellm_metadata", "metadata", "stream"})
"""Fields that are not in the cache key: the gateway adds them, or they never reach a provider."""
KEYED_HEADERS = frozenset({b"anthropic-version", b"anthropic-beta"})
"""Headers that are in the cache key: they change what the provider answers."""
REPLAYED_HEADERS = frozenset(
    {b"content-type", b"x-litellm-model-id", b"x-litellm-model-name", b"x-litellm-model-group"}
)
REPLAYED_LINES_RE = re.compile(
    rb"(?:(?:%b): [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*" % b"|".join(sorted(REPLAYED_HEADERS))
)
STREAM_END = b"data: [DONE]\n\n"
ENTRY_FORMAT = 2
"""Is in the cache key: while versions of this program run side by side, each finds its own entries."""

T = TypeVar("T")


class CacheableCall(NamedTuple):
    """A call that the cache may answer.

    Attributes:
        key: The entry's key in Redis.
        model: The requested name: a model group or an alias of one.
        body: The request's body.
        control: The call's `cache` object, in LiteLLM's terms (`no-cache`, `no-store`, `s-maxage`, `ttl`).
        received_at_s: In seconds since the epoch.
    """

    key: str
    model: str
    body: Json
    control: Json
    streamed: bool
    received_at_s: float


class CacheEntry(NamedTuple):
    """A stored answer.

    Attributes:
        size_bytes: Of the answer before compression.
        head: The lines, each with its end, of those of `REPLAYED_HEADERS` the answer had: its type and who
            served it.
        usage: The usage object the answer states; empty when it states none. Integers beyond 64 bits are
            read as floats.
        payload: The answer; compressed, unless `is_plain`.
    """

    stored_at_s: float
    size_bytes: int
    head: bytes
    usage: Json
    payload: bytes
    is_plain: bool

    def encode(self) -> bytes:
        """Return a checksum of the rest, a line of JSON, the headers' lines, and the payload."""
        facts = {
            "at": self.stored_at_s,
            "size": self.size_bytes,
            "usage": self.usage,
            "plain": self.is_plain,
            "head": len(self.head),
        }
        kept = b"%b\n%b%b" % (json.dumps(facts).encode(), self.head, self.payload)
        return _checksum(kept) + b"\n" + kept

    @classmethod
    def decode(cls, raw: bytes) -> "CacheEntry":
        """Parse an entry; raises `ValueError`, `KeyError` or `TypeError` for other bytes."""
        checksum, _, kept = raw.partition(b"\n")
        if checksum != _checksum(kept):
            raise ValueError("incomplete entry")
        line, _, rest = kept.partition(b"\n")
        facts = orjson.loads(line)
        at_s, size_bytes, ends = float(facts["at"]), int(facts["size"]), int(facts["head"])
        head, payload, is_plain = rest[:ends], rest[ends:], facts["plain"] is True
        if not REPLAYED_LINES_RE.fullmatch(head):  # it is sent as it is
            raise ValueError("invalid head")
        return cls(at_s, size_bytes, head, as_object(facts["usage"]), payload, is_plain)

    def answer(self) -> bytes:
        """Return the answer."""
        return self.payload if self.is_plain else zlib.decompress(self.payload, bufsize=self.size_bytes or 1)


class ResponseCache:
    """Answers calls from LiteLLM's Redis, and stores the answers of calls that were not found there."""

    def __init__(
        self, settings: Untyped, paths: Iterable[str], guardrails: ConfiguredGuardrails, report: ReportHit
    ) -> None:
        """Create the cache.

        Args:
            settings: LiteLLM's `Cache`, whose backend is Redis.
            paths: The paths whose answers are kept.
            guardrails: The calls that are left to LiteLLM.
            report: Emits the success event of a hit.
        """
        self.paths = frozenset(paths)
        self._guardrails = guardrails
        self._settings = settings
        self._redis = settings.cache
        self._gets = RedisGets(settings.cache.init_async_client)
        self._report = report

    async def replay(self, call: CacheableCall, scope: Scope, send: Send) -> bool:
        """Send a call's stored answer and report the hit; return False if there is none."""
        entry = None if call.control.get("no-cache") is True else await self._fetch(call)
        if entry is None:
            return False
        await _send_entry(entry, call.key, send)
        self._report(CacheHit(call.body, entry.usage, call.received_at_s, entry.head, entry.answer), scope)
        return True

    async def forward(
        self, call: CacheableCall, outcome: CallOutcome, app: App, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Forward a call and store its answer.

        Args:
            call: The call.
            outcome: The call's record.
            app: Runs the call in LiteLLM; fills `outcome`.
            scope: The request's ASGI scope.
            receive: The request's ASGI receive.
            send: The request's ASGI send.
        """
        if call.control.get("no-store") is True:
            await app(scope, receive, send)
            return
        recorder = ResponseRecorder(send, lambda entry: self._store(call, outcome, recorder, entry))
        await app(scope, receive, recorder)

    async def purge(self, patterns: Iterable[str]) -> tuple[int, bool]:
        """Delete the entries whose keys match; return how many, and False if Redis did not respond to all."""
        litellm_internals.in_memory_embeddings().flush_cache()
        purged = 0
        breaker = self._redis._circuit_breaker  # noqa: SLF001 -- `redis_breaker` put it there
        if breaker.is_open():
            return purged, False
        try:
            for pattern in patterns:
                purged += await self._purge(self._redis.check_and_fix_namespace(pattern))
        except (OSError, TimeoutError, litellm_internals.redis_error_class()):
            breaker.record_failure()
            return purged, False
        return purged, True

    async def _purge(self, pattern: str) -> int:
        client, purged = self._redis.init_async_client(), 0
        batch: list[bytes] = []
        async for key in client.scan_iter(match=pattern, count=SCAN_COUNT):
            batch.append(key)
            if len(batch) >= SCAN_COUNT:
                purged += await _unlink(client, batch)
                batch.clear()
        return purged + (await _unlink(client, batch) if batch else 0)

    def cacheable_call(self, scope: Scope, raw: bytes) -> CacheableCall | None:
        """Return the call of a request with the body `raw`; None if the cache may not answer it."""
        try:
            body = as_object(orjson.loads(raw))
        except ValueError:
            return None
        model = body.get("model")
        if not isinstance(model, str) or self._guardrails.may_check(model, body):
            return None
        # LiteLLM's `mode` and `max_messages` depend on these fields.
        if not self._settings.should_use_cache(messages=body.get("messages"), cache=body.get("cache")):
            return None
        control = as_object(body.get("cache"))
        namespace = control.get("namespace")
        if not isinstance(namespace, str) or not namespace.isprintable():  # not of a gateway
            namespace = f"{CACHE_NAMESPACE}:direct:none:model={quote(model, safe='')}"
        digest = digest_of_call(scope["path"], body, _keyed_headers(scope))
        key = self._redis.check_and_fix_namespace(f"{namespace}:{digest}")
        return CacheableCall(key, model, body, control, body.get("stream") is True, time.time())

    async def _fetch(self, call: CacheableCall) -> CacheEntry | None:
        """Return a call's entry; None if there is none, if it is too old, or if Redis fails."""
        breaker = self._redis._circuit_breaker  # noqa: SLF001 -- `redis_breaker` put it there
        if breaker.is_open():
            return None
        try:
            raw = await self._gets.get(call.key)
        except Exception:  # noqa: BLE001 -- any exception of the client means that Redis is unavailable
            breaker.record_failure()
            return None
        breaker.record_success()
        if not raw:
            return None
        try:
            entry = CacheEntry.decode(raw)
        except (ValueError, KeyError, TypeError):
            await self._run_command("delete", lambda: self._redis.init_async_client().delete(call.key))
            return None
        max_age_s = call.control.get("s-maxage", call.control.get("s-max-age"))
        if isinstance(max_age_s, int | float) and time.time() - entry.stored_at_s > max_age_s:
            return None
        return entry

    async def _store(
        self, call: CacheableCall, outcome: CallOutcome, recorder: "ResponseRecorder", entry: CacheEntry
    ) -> None:
        if recorder.fallback_count() or not _may_store(call, outcome):
            return
        if call.streamed or recorder.size_bytes <= INLINE_BYTES:
            usage = recorder.usage() if call.streamed else _usage_of(entry)
        else:
            usage = await asyncio.to_thread(_usage_of, entry)
        raw = entry._replace(usage=usage).encode()
        ttl_s = self._redis.get_ttl(ttl=call.control.get("ttl", self._settings.ttl))
        await self._run_command("set", lambda: self._redis.init_async_client().set(call.key, raw, ex=ttl_s))

    async def _run_command(self, name: str, command: Callable[[], Awaitable[T]]) -> T | None:
        """Run a command under the circuit breaker; return None if Redis fails."""
        try:
            found: T = await litellm_internals.run_under_breaker(self._redis._circuit_breaker, name, command)  # noqa: SLF001 -- the same
        except Exception:  # noqa: BLE001 -- any exception of the client means that Redis is unavailable
            return None
        return found


def _checksum(kept: bytes) -> bytes:
    return b"%08x" % zlib.crc32(kept)


class ResponseRecorder:
    """Wraps `send` of one call: passes each message on and keeps a copy of a good answer.

    The copy of a complete answer, without its usage, is handed to `store` before its end is sent, so that
    the same call made right after it finds it.
    """

    _compress: Callable[[bytes], bytes] | None = None
    _flush: Callable[[], bytes] = bytes

    def __init__(self, send: Send, store: Callable[[CacheEntry], Awaitable[None]]) -> None:
        self._send = send
        self._write: Callable[[bytes], bool] | None = getattr(send, "write_chunk", None)
        self._store = store
        self._parts: list[bytes] = []
        self._stored_bytes = 0
        self._headers: dict[bytes, bytes] = {}
        self._recent: deque[bytes] = deque(maxlen=4)
        self._good = False
        self.size_bytes = 0

    async def __call__(self, message: Message) -> None:
        """Send the message, and record it."""
        if message["type"] == "http.response.start":
            self._good = message["status"] == 200
            self._headers = dict(message["headers"])
        elif self._good and message["type"] == "http.response.body":
            body = message.get("body", b"")
            await self._keep(body)
            if self._good and (body.endswith(STREAM_END) or not message.get("more_body", False)):
                await self._finish()
        await self._send(message)

    @property
    def write_chunk(self) -> Callable[[bytes], bool] | None:
        """Return what writes a further part of a stream at once, and records it; None if nothing does."""
        return None if self._write is None else self._write_and_keep

    def _write_and_keep(self, body: bytes) -> bool:
        """Write and record a part; return False, with nothing done, for what has to be sent as a message."""
        if self._write is None or len(body) > INLINE_BYTES or body.endswith(STREAM_END):
            return False
        if not self._write(body):
            return False
        if self._good and self._notes(body):
            self._add(body)
        return True

    async def _keep(self, body: bytes) -> None:
        if self._notes(body):
            if len(body) <= INLINE_BYTES:
                self._add(body)
            else:
                await asyncio.to_thread(self._add, body)

    def _notes(self, body: bytes) -> bool:
        """Note a part; return False if it is an error, which ends the recording."""
        if body.startswith(ERROR_EVENT):
            self._good = False
            return False
        self._recent.append(body)
        self.size_bytes += len(body)
        return True

    def _add(self, part: bytes) -> None:
        if self._compress is None and self.size_bytes > PLAIN_BYTES:
            packer = zlib.compressobj(1)  # takes 83 KB of memory
            self._compress, self._flush = packer.compress, packer.flush
            part, self._parts = b"".join([*self._parts, part]), []
        if self._compress is not None:
            part = self._compress(part)
            self._stored_bytes += len(part)
            self._good = self._stored_bytes <= MAX_ENTRY_BYTES
        if part:
            self._parts.append(part)

    async def _finish(self) -> None:
        self._good = False  # what follows the end is not recorded
        is_plain = self._compress is None
        payload = b"".join([*self._parts, self._flush()])
        if len(payload) <= MAX_ENTRY_BYTES:
            await self._store(CacheEntry(time.time(), self.size_bytes, self._head(), {}, payload, is_plain))

    def fallback_count(self) -> int:
        """Return the number of fallbacks before the answer, by LiteLLM's header."""
        value = self._headers.get(b"x-litellm-attempted-fallbacks", b"0")
        return int(value) if value.isdigit() else 0

    def _head(self) -> bytes:
        """Return the lines of the headers that a replay repeats."""
        lines = (b"%b: %b\r\n" % pair for pair in self._headers.items())
        return b"".join(filter(REPLAYED_LINES_RE.fullmatch, lines))

    def usage(self) -> Json:
        """Return the usage that one of a stream's last frames states; empty if none does."""
        for line in reversed(b"".join(self._recent).split(b"\n")):
            if line.startswith(b"data: {") and (b'"usage"' in line or b'"usageMetadata"' in line):
                usage = _stated_usage(as_object(json.loads(line[6:])))
                if usage:
                    return usage
        return {}


def _usage_of(entry: CacheEntry) -> Json:
    return _stated_usage(as_object(json.loads(entry.answer())))


def _stated_usage(answer: Json) -> Json:
    """Return an answer's usage; Google's tokens under OpenAI's names."""
    google = as_object(answer.get("usageMetadata"))
    if not google:
        return as_object(answer.get("usage"))
    written = (google.get("candidatesTokenCount") or 0) + (google.get("thoughtsTokenCount") or 0)
    return {"prompt_tokens": google.get("promptTokenCount"), "completion_tokens": written}


def _may_store(call: CacheableCall, outcome: CallOutcome) -> bool:
    """Whether the answer is complete and from the requested group, not from a fallback."""
    if outcome.error is not None or (call.streamed and not outcome.stream_complete):
        return False
    groups = {attempt.group for attempt in outcome.attempts}
    return bool(groups) and groups <= litellm_internals.groups_serving(call.model)


def _keyed_headers(scope: Scope) -> list[str]:
    if KEYED_HEADERS.isdisjoint(request_headers(scope)):
        return []
    return [value.decode("latin-1") for name, value in scope["headers"] if name in KEYED_HEADERS]


def digest_of_call(path: str, body: Json, headers: Sequence[str] = ()) -> str:
    """Return a SHA-256 of the endpoint, the mode, and the caller's fields sorted by name, in hex.

    Below the top level nothing is sorted: the order of properties in a schema steers answers.
    `headers` are those that steer answers, too.
    """
    fields = [[name, body[name]] for name in sorted(body.keys() - UNKEYED_FIELDS)]
    keyed = [ENTRY_FORMAT, path, body.get("stream") is True, fields, *headers]
    return hashlib.sha256(orjson.dumps(keyed)).hexdigest()


def create_response_cache(
    types: Iterable[str], guardrails: ConfiguredGuardrails, report: ReportHit
) -> ResponseCache | None:
    """Return the cache for LiteLLM's call types `types`; None if LiteLLM's cache is off or not in Redis."""
    settings = litellm_internals.litellm_module().cache
    if settings is None:
        return None
    if not isinstance(settings.cache, litellm_internals.redis_cache_class()):
        return None
    paths = [path for name, path in CACHED_PATHS.items() if name in types]
    return ResponseCache(settings, paths, guardrails, report)


async def _send_entry(entry: CacheEntry, key: str, send: Send) -> None:
    if len(entry.payload) > PIECE_BYTES:
        await _send_in_pieces(entry, key, send)
        return
    answer = entry.answer()
    head = _head_to_send(entry, len(answer), key)
    write: Callable[[bytes, bytes], bool] | None = getattr(send, "write_answer", None)
    if write is None or not write(head, answer):
        await send_whole(send, 200, headers_in(head), answer)


async def _send_in_pieces(entry: CacheEntry, key: str, send: Send) -> None:
    headers = headers_in(_head_to_send(entry, entry.size_bytes, key))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    unzip = zlib.decompressobj()
    for at in range(0, len(entry.payload), PIECE_BYTES):
        piece = unzip.decompress(entry.payload[at : at + PIECE_BYTES])
        more = at + PIECE_BYTES < len(entry.payload)
        await send({"type": "http.response.body", "body": piece, "more_body": more})
        if more:
            await asyncio.sleep(0)  # let other calls run between the pieces of a long answer


def _head_to_send(entry: CacheEntry, size_bytes: int, key: str) -> bytes:
    """Return the lines of a replay's head, each with its end."""
    lines = entry.head, size_bytes, key.encode()
    return b"%bcontent-length: %d\r\nx-litellm-cache-key: %b\r\n" % lines


async def _unlink(client: Untyped, keys: list[bytes]) -> int:
    """Delete keys in one round trip, by one command each as a cluster needs; return how many existed."""
    async with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.execute_command("UNLINK", key)  # on a cluster `unlink` does not queue in a pipeline
        return sum(await pipe.execute())
