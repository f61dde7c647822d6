"""The stored responses of translated calls: the history is loaded before a call, its answer stored after it.

Invariants: an answer says that it is stored only if it can be read at once; an answer that cannot be
kept says so; nothing is loaded or kept where the operator stores nothing.
"""

import logging
import secrets
from dataclasses import dataclass

import orjson

from llm_proxy.dialects import Call
from llm_proxy.dialects.request_options import History
from llm_proxy.dialects.response_ids import PREVIOUS, ResponseIds, random_id, response_not_found
from llm_proxy.dialects.responses.request import ResponseContext
from llm_proxy.dialects.routes import InferenceRoute
from llm_proxy.errors import APIError, BadRequest, StoreUnavailable
from llm_proxy.identity import Caller
from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.ledger import MAX_STORED_BYTES, StoredResponse, StoredResponses
from llm_proxy.sse import encode_event, parse_event

log = logging.getLogger(__name__)

_SECRET_BYTES = 32


class StoredCalls:
    """The stored responses of translated calls; none without a database."""

    def __init__(self, responses: StoredResponses | None, ids: ResponseIds) -> None:
        self._responses = responses
        self._ids = ids

    async def history(self, route: InferenceRoute, body: bytes) -> History | None:
        """Returns what a request goes on from; None if that is nothing of the gateway's own.

        Raises:
            NotFound: It is no stored response; whose it is, `begin` says.
            StoreUnavailable: The database does not answer.
        """
        if self._responses is None or route.endpoint != "responses" or PREVIOUS.encode() not in body:
            return None
        try:
            previous: object = as_object(orjson.loads(body)).get(PREVIOUS)
        except orjson.JSONDecodeError:
            return None
        if type(previous) is not str:
            return None
        ref = self._ids.open(previous, PREVIOUS)
        if ref.deployment:
            return None
        stored = await self._responses.load(ref, PREVIOUS)
        return History(ref, [*stored.items, *as_objects(stored.response.get("output"))])

    def begin(self, call: Call, caller: Caller) -> tuple[Call, "Keeping | None"]:
        """Returns the call with the id of its answer, and what keeps the answer; None if nothing does.

        Raises:
            NotFound: It goes on from another caller's response.
            BadRequest: It is larger than can be stored.
        """
        context = call.context
        if not isinstance(context, ResponseContext):
            return call, None
        if context.history is not None and not context.history.ref.belongs_to(caller):
            raise response_not_found(context.history.ref.token, PREVIOUS)
        responses = self._responses
        if responses is None or not (context.wants_store and self._ids.can_seal and responses.allows(caller)):
            return call, None
        items = [_named(item) for item in context.items]
        if len(orjson.dumps(items)) > MAX_STORED_BYTES:
            message = f"'store': a conversation of more than {MAX_STORED_BYTES} bytes is not stored."
            raise BadRequest(f"{message} Set 'store' to false.", param="store", code="invalid_value")
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        token = self._ids.seal(caller, call.group, "", secret)
        context = context._replace(response_id=token, echo=context.echo | {"store": True})
        return call._replace(context=context), Keeping(responses, caller, secret, items)


@dataclass(frozen=True, slots=True)
class Keeping:
    """Keeps the answer of one call."""

    responses: StoredResponses
    caller: Caller
    secret: str
    items: list[Json]

    async def body(self, body: bytes) -> bytes:
        """Keeps a whole answer; returns it, or what says that it is not stored."""
        response: Json = orjson.loads(body)
        return body if await self._save(response) else orjson.dumps(_unstored(response))

    async def ending(self, frames: bytes) -> bytes:
        """Keeps the response in the last of a stream's events; returns them, as `body` does."""
        before, found, last = frames.removesuffix(b"\n\n").rpartition(b"\n\n")
        event = parse_event(last)
        document = as_object(orjson.loads(event.data)) if event.data else {}
        response = as_object(document.get("response"))
        if not response or await self._save(response):
            return frames
        return (
            before
            + found
            + encode_event(orjson.dumps(document | {"response": _unstored(response)}), event.name)
        )

    async def _save(self, response: Json) -> bool:
        try:
            await self.responses.save(self.secret, self.caller, StoredResponse(response, self.items))
        except StoreUnavailable as fault:
            log.warning("a response could not be stored", extra={"why": fault.message})
            return False
        except APIError:
            return False
        return True


def _unstored(response: Json) -> Json:
    return response | {"id": random_id(), "store": False}


def _named(item: Json) -> Json:
    """An item of the input as it is listed: with an id, and its content in parts."""
    kind = item.get("type") or "message"
    named = {"id": f"{kind[:3]}_{secrets.token_hex(24)}", "type": kind, "status": "completed", **item}
    content = item.get("content")
    if kind == "message" and type(content) is str:
        of_model = item.get("role") == "assistant"
        part: Json = {"type": "output_text" if of_model else "input_text", "text": content}
        named["content"] = [part | {"annotations": []} if of_model else part]
    return named
