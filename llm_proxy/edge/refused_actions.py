"""Admin actions that were refused, put on record: who tried what, and why not.

Invariants: only for a known admin key; a stranger's requests leave nothing here. Recording never changes the
answer: where it fails, the log says so.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from starlette.requests import Request

from llm_proxy.edge.auth import Doorkeeper
from llm_proxy.edge.roles import access_to
from llm_proxy.errors import Refused
from llm_proxy.identity import Actor

log = logging.getLogger(__name__)

BODY = "llm_proxy.body"
"""Where a request's scope has its JSON body, for the subject of a refusal."""
_SUBJECT = ("scope", "kind", "name", "role", "tenant", "subject", "model")
_LONGEST = 256


class RefusedActions:
    """Records refusals of routes that have an action."""

    def __init__(
        self, record: Callable[[Actor, str, str, Refused], Awaitable[None]] | None, keeper: Doorkeeper
    ) -> None:
        self._record = record
        self._keeper = keeper

    async def note(self, request: Request, refused: Refused) -> None:
        """Record a refusal; never raises."""
        access = access_to(request)
        if self._record is None or access is None or access.action is None:
            return
        try:
            admin = await self._keeper.identified(request)
            if admin is not None:
                actor = self._keeper.acting(admin, request)
                await self._record(actor, access.action, _target(request), refused)
        except Refused as fault:
            if fault.status != 401:
                log.warning("a refused admin action is not on record", extra={"cause": fault.message})


def _target(request: Request) -> str:
    """What the action was about: the path's and the query's values, or the names in the body."""
    held = [str(value) for value in request.scope.get("path_params", {}).values()]
    named = dict(request.query_params) | _body(request)
    if named.get("scope") == "user_model":
        named.pop("subject", None)  # a person, who is not named here
    words = [*held, *(f"{name}={named[name]}" for name in _SUBJECT if named.get(name))]
    return " ".join(words)[:_LONGEST]


def _body(request: Request) -> dict[str, str]:
    body: object = request.scope.get(BODY)
    fields = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    return {name: fields[name] for name in _SUBJECT if isinstance(fields.get(name), str)}
