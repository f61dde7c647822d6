"""Request bodies of the admin routes, and how they are read: exact decimals, each name once, none unknown."""

import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, Strict, StrictBool, StrictInt, StrictStr

from llm_proxy.dialects.request.strict_json import reject_half_characters, unique_object
from llm_proxy.edge.routes.audit import BODY_SCOPE_KEY
from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity import KeyRaiseRepository, KeyRepository, PolicyRepository
from llm_proxy.identity.admin_documents import MAX_NUMBER
from llm_proxy.identity.caller import OnStoreFailure, Period, PolicyMode, Priority, ScopeKind
from llm_proxy.identity.guard_rules import GuardMode
from llm_proxy.identity.policies import KillSwitchKind
from llm_proxy.json_access import Json

Repository = TypeVar("Repository", KeyRepository, PolicyRepository, KeyRaiseRepository)
PublishEpochs = Callable[[Mapping[str, int]], Awaitable[None]]
ADMIN_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A field is wrong; `param` names it."},
    401: {"description": "No admin key."},
    403: {"description": "This role may not."},
    404: {"description": "What is named does not exist."},
    503: {"description": "The database is unavailable."},
}
COUNT_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A field is wrong; the error names it."},
    401: {"description": "No credential."},
    404: {"description": "No such model."},
    429: {"description": "The key counts too often at once."},
}
"""Of the routes that count tokens."""
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "No such thing."}}
_BOUNDS = f"From 0 to {MAX_NUMBER}."


def require_repository(repository: Repository | None) -> Repository:
    """Returns the repository; raises `StoreUnavailable` when the gateway has no database."""
    if repository is None:
        raise StoreUnavailable("Virtual keys need a database (DATABASE_URL).")
    return repository


class ExactRequest(Request):
    """A request whose JSON is read exactly: decimal numbers, names that stand once, whole texts.

    A float would turn a budget of 1E-400 into 0; of a name that stands twice the last would count; no
    store takes half a character.
    """

    async def json(self) -> Any:  # noqa: ANN401 -- whatever JSON holds
        """Returns the parsed body, and keeps it in the scope for `RejectedActionLog`.

        Raises `BadRequest` for a name that is given twice, and for a lone surrogate.
        """
        body = json.loads(await self.body(), parse_float=Decimal, object_pairs_hook=unique_object)
        reject_half_characters(body)
        self.scope[BODY_SCOPE_KEY] = body
        return body


class ExactRoute(APIRoute):
    """A route that reads its body as `ExactRequest` (FastAPI's documented way)."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the handler, wrapped to get an `ExactRequest`."""
        handler = super().get_route_handler()

        async def exact(request: Request) -> Response:
            return await handler(ExactRequest(request.scope, request.receive))

        return exact


class AdminBody(BaseModel):
    """A body of an admin route: unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid")

    def set_fields(self) -> Json:
        """Returns the fields that the body sets."""
        return self.model_dump(exclude_unset=True)


class BudgetBody(AdminBody):
    """Use allowed in a calendar period, or in a run: one of the limits."""

    limit_usd: StrictInt | StrictStr | Annotated[Decimal, Strict()] | None = Field(
        None,
        description="From 0 to 9007199.254740992 in steps of 0.000000001; as text it is taken exactly.",
    )
    limit_requests: StrictInt | None = Field(None, description=_BOUNDS)
    limit_tokens: StrictInt | None = Field(None, description=_BOUNDS)
    limit_images: StrictInt | None = Field(None, description=_BOUNDS)
    limit_audio_seconds: StrictInt | None = Field(
        None, description="Of audio that is written down or translated."
    )
    limit_characters: StrictInt | None = Field(None, description="Of text that is spoken.")
    limit_search_units: StrictInt | None = Field(None, description="Of reranking.")
    limit_turns: StrictInt | None = Field(None, description="Of a run: answers of models that write.")
    period: Period | None = Field(None, description="Required but for a run's budget, whose is `total`.")
    zone: str | None = Field(
        None, description="The calendar's time zone, such as Europe/Berlin; UTC by default."
    )


class LimitsBody(AdminBody):
    """Limits and budgets; null: not set here; 0: no limit."""

    rpm: StrictInt | None = Field(None, description=_BOUNDS)
    tpm: StrictInt | None = Field(None, description=_BOUNDS)
    parallel: StrictInt | None = Field(None, description=_BOUNDS)
    budgets: list[BudgetBody] = Field(default_factory=list[BudgetBody])


class KeyBody(LimitsBody):
    """The fields of a key."""

    tenant: str | None = None
    agent: str | None = Field(None, description="`*` for any agent of the tenant.")
    user: str | None = None
    models: list[str] | None = Field(None, description="Names and wildcards; null for the default list.")
    max_tokens_cap: StrictInt | None = Field(None, description="From 1 to 2147483647.")
    cache: StrictBool = True
    tags: list[str] | None = Field(None, description="Tags of every call made with the key; at most 10.")


class CreateKey(KeyBody):
    """A key to be created."""

    name: str
    expires_at: str | None = Field(None, description="ISO 8601, in the future.")


class UpdateKey(KeyBody):
    """The fields of a key to change; the others stay."""

    name: str | None = None
    expires_at: str | None = Field(
        None, description="ISO 8601; a time that has passed ends the key until it is changed again."
    )


class RaiseBody(LimitsBody):
    """Higher limits and budgets of a key until a time; 0 for no limit."""

    until: str = Field(description="ISO 8601, at most 366 days ahead.")


class RotateKey(AdminBody):
    """A rotation: seconds for which the old secrets stay valid."""

    overlap_s: StrictInt = Field(default=86_400, ge=0, le=31_536_000)


class LoopGuardBody(AdminBody):
    """What the loop guard does for runs; null: as the wider policy says; 0: not looked for."""

    mode: GuardMode | None = Field(None, description="`warn` tells the caller, `stop` rejects.")
    notice: StrictBool | None = Field(
        None, description="With `warn`: tell the model, too, in its system text."
    )
    quarantine_s: StrictInt | None = Field(None, description="For how long a stopped run stays so.")
    repeats: StrictInt | None = Field(None, description="The same step, so often in a row.")
    cycles: StrictInt | None = Field(None, description="The same order of steps, so often.")
    max_period: StrictInt | None = Field(None, description="The most steps of such an order.")
    stalled_turns: StrictInt | None = Field(None, description="Turns with hardly a new step.")
    burst: StrictInt | None = Field(None, description="The same prompt, so often in five minutes.")
    usd_per_minute: StrictInt | StrictStr | Annotated[Decimal, Strict()] | None = Field(
        None, description="What a run may spend in a minute, over the last five."
    )


class LimitPolicyBody(LimitsBody):
    """A limit policy; without a subject it is the scope's default."""

    scope: ScopeKind
    tenant: str | None = None
    subject: str | None = None
    model: str | None = None
    mode: PolicyMode | None = None
    on_store_failure: OnStoreFailure | None = None
    duration_s: StrictInt | None = Field(
        None, description="Of a run: seconds from its first call; 0: no limit."
    )
    weight: StrictInt | None = Field(
        None,
        description="Of a tenant or key: its part of the slots while calls wait; 1 to 10000, usually 100.",
    )
    priority: Priority | None = Field(None, description="Of a tenant or key: the highest class of its calls.")
    loop_guard: LoopGuardBody | None = None


class KillSwitchBody(AdminBody):
    """A kill switch."""

    kind: KillSwitchKind
    subject: str
    tenant: str | None = None
    reason: str = ""
