"""A door, headers and a body in; the caller and the call they mean out.

The doors that call a model and the door that only explains read a request here, so that they cannot differ.
Invariants: the credential is known before a body is looked at; what a request names is held against its
caller's binding; the caller's cap lies on the call.
"""

from collections.abc import Awaitable
from dataclasses import dataclass

from starlette.requests import Request

from llm_proxy.admission import capped
from llm_proxy.dialects import Bounds, Call, read_hints
from llm_proxy.edge.doors import BY_PATH, HotDoor
from llm_proxy.edge.known_models import KnownModels
from llm_proxy.edge.links import refuse_private
from llm_proxy.edge.request import Headers, read_body, read_headers
from llm_proxy.errors import BadRequest
from llm_proxy.identity import Caller, Identity, named_by_headers, on_behalf_of
from llm_proxy.settings import Settings
from llm_proxy.upstream import Deadlines, deadlines


@dataclass(frozen=True, slots=True)
class Limits:
    """What a door allows: bytes, depth, seconds, and whether links may lead into private networks."""

    max_header_bytes: int
    max_body_bytes: int
    body_timeout_s: float
    deadlines: Deadlines
    bounds: Bounds
    private_links: bool = False


def limits_of(settings: Settings) -> Limits:
    """What an operator has set."""
    return Limits(
        max_header_bytes=settings.max_header_bytes,
        max_body_bytes=settings.max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
        deadlines=deadlines(settings),
        bounds=Bounds(settings.max_json_depth, settings.max_messages),
        private_links=settings.private_links,
    )


class Intake:
    """Reads requests."""

    def __init__(self, identity: Identity, limits: Limits, models: KnownModels) -> None:
        self.limits = limits
        self._identity = identity
        self._models = models

    def caller(self, headers: Headers) -> Awaitable[Caller]:
        """Whose credential it is; raises `Unauthorized` when awaited."""
        return self._identity.identify(headers)

    def call(self, door: HotDoor, caller: Caller, headers: Headers, body: bytes) -> tuple[Caller, Call]:
        """Whom the call is admitted and billed to, and the call; raises what is wrong with either."""
        hints = read_hints(headers.items())
        call = door.dialect.read(door.door, body, hints, self._models.of(caller), self.limits.bounds)
        self._models.check(call)
        if not self.limits.private_links:
            refuse_private(call.body)
        caller = on_behalf_of(caller, named_by_headers(headers), call.named)
        return caller, call if caller.max_tokens_cap is None else capped(caller, call)

    async def explained(self, request: Request, of_key: Caller | None = None) -> tuple[Caller, Call]:
        """The caller and the call of a request that is only to be explained; `?path=` names its door.

        `of_key` is whom an operator asks about.
        """
        headers = read_headers(request.scope, max_bytes=self.limits.max_header_bytes)
        caller = of_key or await self.caller(headers)
        door = BY_PATH.get(request.query_params.get("path", "/v1/chat/completions").encode())
        if door is None:
            raise BadRequest("Invalid 'path': no such door.", param="path", code="invalid_value")
        body = await read_body(request.receive, headers, max_bytes=self.limits.max_body_bytes)
        return self.call(door, caller, headers, body)
