"""Responses that callers store at the gateway, in Postgres: kept, read, listed, deleted.

Invariants: only tenants that the operator named store anything; a row is found and opened by the secret in
the caller's id, and by nothing else; it is bounded in size, and gone after its days.
"""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import orjson

from llm_proxy.dialects import Call
from llm_proxy.dialects.response_ids import ResponseRef, response_not_found
from llm_proxy.errors import BadRequest, StoreUnavailable
from llm_proxy.identity import Caller
from llm_proxy.json_access import Json, as_objects
from llm_proxy.ledger.record import MAX_NAME_CHARS
from llm_proxy.schema.connections import Pool
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected, db_deadline, sanitize_text
from llm_proxy.sealing import Sealer, SealingKey
from llm_proxy.telemetry.privacy import PayloadPolicy
from llm_proxy.upstream import CallGuard, RoutingInfo, TokenUsage
from llm_proxy.upstream.reply import Reply, Send, StreamFrames, Write
from llm_proxy.upstream.token_usage import NOTHING_USED

MAX_STORED_BYTES = 16 * 2**20
"""Of a response and its input, before they are compressed."""
_DEADLINE_S = 3.0
_PURPOSE, _KEY_ID = "responses.stored", "id"
_DEFAULT_LIMIT = 20
_INSERT = "INSERT INTO stored_responses (digest, person, sealed) VALUES ($1, $2, $3)"
_SELECT = """
    SELECT sealed FROM stored_responses
    WHERE digest = $1 AND created_at > now() - make_interval(days => $2)"""
_DELETE = "DELETE FROM stored_responses WHERE digest = $1 RETURNING true"


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response and the items it was made from, those of earlier responses first."""

    response: Json
    items: list[Json]


class StoredResponses:
    """The stored responses of the tenants that may store any.

    Attributes:
        retention_days: Older ones do not exist.
    """

    def __init__(self, pool: Pool, policy: PayloadPolicy, retention_days: int) -> None:
        self._pool = pool
        self._policy = policy
        self.retention_days = retention_days

    def allows(self, caller: Caller) -> bool:
        """Whether what this caller stores is kept."""
        return self._policy.allows(caller.tenant)

    async def save(self, secret: str, caller: Caller, stored: StoredResponse) -> None:
        """Keeps a response under a secret; raises `StoreUnavailable`."""
        sealed = await asyncio.to_thread(_sealed, secret, stored)
        async with _database():
            await self._pool.execute(
                _INSERT, _digest(secret), person_digest(caller.tenant, caller.user), sealed
            )

    async def load(self, ref: ResponseRef, param: str) -> StoredResponse:
        """Returns a stored response; raises `NotFound` or `StoreUnavailable`."""
        async with _database():
            sealed: str | None = await self._pool.fetchval(_SELECT, _digest(ref.own_id), self.retention_days)
        opened = await asyncio.to_thread(_opened, ref.own_id, sealed) if sealed is not None else None
        if opened is None:
            raise response_not_found(ref.token, param)
        return opened

    async def delete(self, ref: ResponseRef) -> None:
        """Deletes a stored response; raises `NotFound` or `StoreUnavailable`."""
        async with _database():
            deleted = await self._pool.fetchval(_DELETE, _digest(ref.own_id))
        if not deleted:
            raise response_not_found(ref.token, "id")

    async def answer(self, call: Call, ref: ResponseRef) -> Json:
        """Returns the answer to an operation on a stored response; raises `NotFound` or `BadRequest`."""
        assert call.operation is not None  # noqa: S101 -- the caller looked
        method, target = call.operation.method, urlsplit(call.operation.path)
        if method == "DELETE":
            await self.delete(ref)
            return {"id": ref.token, "object": "response", "deleted": True}
        stored = await self.load(ref, "id")
        if method == "POST":
            raise BadRequest("Cannot cancel a synchronous response.", param="id", code="invalid_value")
        if target.path.endswith("/input_items"):
            return _page(stored.items, parse_qs(target.query))
        return stored.response | {"id": ref.token}


@asynccontextmanager
async def _database() -> AsyncGenerator[None]:
    try:
        async with db_deadline(_DEADLINE_S):
            yield
    except (DatabaseUnavailable, RowsRejected):
        raise StoreUnavailable("The database of stored responses does not answer.") from None


def _page(items: list[Json], query: dict[str, list[str]]) -> Json:
    """A page of the items, the latest first unless `order` says else."""
    listed = items if query.get("order") == ["asc"] else items[::-1]
    ids = [one.get("id") for one in listed]
    first, last = 0, len(listed)
    if after := query.get("after"):
        first = _place_of(after[0], ids, "after") + 1
    if before := query.get("before"):
        last = _place_of(before[0], ids, "before")
    limit = int(query.get("limit", [str(_DEFAULT_LIMIT)])[0])
    page = listed[first:last][:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": last - first > limit,
    }


def _place_of(item: str, ids: list[str | None], param: str) -> int:
    if item not in ids:
        message = f"Invalid '{param}': this response has no item of that id."
        raise BadRequest(message, param=param, code="invalid_value")
    return ids.index(item)


def _sealed(secret: str, stored: StoredResponse) -> str:
    raw = zlib.compress(orjson.dumps({"response": stored.response, "items": stored.items}))
    return Sealer([SealingKey(_KEY_ID, secret)]).seal(_PURPOSE, raw)


def _opened(secret: str, sealed: str) -> StoredResponse | None:
    raw = Sealer([SealingKey(_KEY_ID, secret)]).open(_PURPOSE, sealed)
    if raw is None:
        return None
    document: Json = orjson.loads(zlib.decompress(raw))
    return StoredResponse(document["response"], as_objects(document["items"]))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(f"llm-proxy stored response\n{secret}".encode()).digest()


def person_digest(tenant: str | None, user: str | None) -> bytes | None:
    """Returns the digest that finds a person's data, as the trigger makes it; None without a person."""
    if user is None:
        return None
    tenant, user = (sanitize_text(one)[:MAX_NAME_CHARS] for one in (tenant or "", user))
    return hashlib.sha256(f"{tenant}\n{user}".encode()).digest()


class Sender(Protocol):
    """What sends calls; see `pipeline.Upstream`."""

    def compose(self, call: Call, caller: Caller, request_id: str) -> Send:
        """Returns what sends a call."""
        ...

    def check_capacity(self, caller: Caller, call: Call | None) -> None:
        """Raises `Overloaded` when a call cannot be sent; None: it was not read yet."""
        ...


class StoredFirst:
    """Answers calls about the gateway's own stored responses, and sends every other call on."""

    def __init__(self, sender: Sender, responses: StoredResponses | None) -> None:
        self._sender = sender
        self._responses = responses

    def check_capacity(self, caller: Caller, call: Call | None) -> None:
        """As of the sidecars."""
        self._sender.check_capacity(caller, call)

    def compose(self, call: Call, caller: Caller, request_id: str) -> Send:
        """Returns what sends a call to a sidecar, or answers it here."""
        ref = call.response
        if call.operation is None or ref is None or ref.deployment:
            return self._sender.compose(call, caller, request_id)
        return partial(self._answer, call, ref)

    async def _answer(
        self, call: Call, ref: ResponseRef, guard: CallGuard, _traceparent: str | None
    ) -> Reply:
        """Returns the reply to a call about a response; raises `NotFound` for one that is not stored here."""
        guard.unsent = True
        if self._responses is None:
            raise response_not_found(ref.token, "id")
        reply = StoredReply(call, await self._responses.answer(call, ref))
        guard.unsent = False
        return reply


class StoredReply:
    """An answer of the gateway's own; see `Reply`."""

    def __init__(self, call: Call, document: Json) -> None:
        self._document = document
        self.routing = RoutingInfo(group=call.group, cost_nano_usd=0, cache="off", attempts=0)
        self.stream_filter: StreamFrames | None = None

    @property
    def content_type(self) -> bytes:
        """JSON's media type."""
        return b"application/json"

    async def json(self) -> tuple[bytes, TokenUsage | None]:
        """Returns the answer; nothing was used for it."""
        return orjson.dumps(self._document), NOTHING_USED

    async def chunks(self, write: Write | None = None) -> AsyncIterator[bytes]:  # noqa: ARG002 -- as `Reply`
        """Yields nothing: it is no stream."""
        for chunk in list[bytes]():
            yield chunk

    def close(self) -> None:
        """Nothing is open."""
