"""The ids of responses and their items: sealed tokens that say whose one is, and where its provider keeps it.

Pure. Invariants: a caller sees no id of a provider's, and can make none that opens; an id opens for its
owner alone: the tenant, or the key of calls without one, as in the response cache; what is forged, foreign or
gone is one error in OpenAI's words.
"""

import secrets
from typing import NamedTuple

import orjson

from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.identity import Caller
from llm_proxy.sealing import Sealer

PREFIX = "resp_"
PREVIOUS, PREVIOUS_NOT_FOUND = "previous_response_id", "previous_response_not_found"
_PURPOSE, _ITEM_PURPOSE = "responses.id", "responses.item"
_MAX_CHARS = 4096
_RANDOM_BYTES = 24


class ResponseRef(NamedTuple):
    """One stored response, or an item of one.

    Attributes:
        tenant: Its owner's; None for a key without a tenant, whose response is the key's alone.
        deployment: The sidecar's id of the deployment that made it; empty where the gateway itself keeps it.
        own_id: Its id where it is kept.
        token: Its id as its caller knows it.
    """

    tenant: str | None
    key_id: str
    group: str
    deployment: str
    own_id: str
    token: str = ""

    def belongs_to(self, caller: Caller) -> bool:
        """Whether a caller may use it."""
        if self.tenant is None and caller.tenant is None:
            return self.key_id == caller.key_id
        return self.tenant == caller.tenant


class ResponseIds:
    """Makes and opens ids.

    Attributes:
        can_seal: There is a key. Without one ids are random, and open nothing.
    """

    __slots__ = ("_sealer", "can_seal")

    def __init__(self, sealer: Sealer | None) -> None:
        self._sealer = sealer
        self.can_seal = sealer is not None

    def seal(self, caller: Caller, group: str, deployment: str, own_id: str) -> str:
        """Returns the caller's id of a response, another one each time."""
        if self._sealer is None:
            return random_id()
        facts = caller.tenant, caller.key_id, group, deployment, own_id
        return PREFIX + self._sealer.seal(_PURPOSE, orjson.dumps(facts))

    def seal_item(self, caller: Caller, group: str, deployment: str, own_id: str) -> str:
        """Returns the caller's id of an item; it begins as the provider's own does."""
        if self._sealer is None:
            return own_id
        facts = caller.tenant, caller.key_id, group, deployment, own_id
        return f"{own_id.partition('_')[0]}_{self._sealer.seal(_ITEM_PURPOSE, orjson.dumps(facts))}"

    def open_item(self, token: str) -> ResponseRef | None:
        """Returns the item that an id stands for; None for an id that was not made here."""
        payload = None
        if self._sealer is not None and len(token) <= _MAX_CHARS:
            payload = self._sealer.open(_ITEM_PURPOSE, token.partition("_")[2])
        if payload is None:
            return None
        tenant, key_id, group, deployment, own_id = orjson.loads(payload)
        return ResponseRef(tenant, key_id, group, deployment, own_id, token)

    def open(self, token: str, param: str) -> ResponseRef:
        """Returns what an id stands for; raises `response_not_found` for one that was not made here."""
        payload = None
        if self._sealer is not None and token.startswith(PREFIX) and len(token) <= _MAX_CHARS:
            payload = self._sealer.open(_PURPOSE, token.removeprefix(PREFIX))
        if payload is None:
            raise response_not_found(token, param)
        tenant, key_id, group, deployment, own_id = orjson.loads(payload)
        return ResponseRef(tenant, key_id, group, deployment, own_id, token)


def random_id() -> str:
    """Returns an id that opens nothing."""
    return PREFIX + secrets.token_hex(_RANDOM_BYTES)


def response_not_found(token: str, param: str) -> BadRequest | NotFound:
    """Returns OpenAI's error for an id not made here, or another caller's; of an item below `input`.

    OpenAI answers 404 for a path and for an item, and 400 for what a call goes on from.
    """
    shown = "".join(one if one.isprintable() else "?" for one in token[:_MAX_CHARS])
    if param.startswith("input"):
        return NotFound(f"Item with id '{shown}' not found.", param=param, code="item_not_found")
    if param == PREVIOUS:
        message = f"Previous response with id '{shown}' not found."
        return BadRequest(message, param=param, code=PREVIOUS_NOT_FOUND)
    return NotFound(f"Response with id '{shown}' not found.", param=param, code="response_not_found")
