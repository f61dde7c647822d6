"""`POST /admin/simulate`: recorded calls replayed against changed limits, budgets, model lists or prices.

Invariants: nothing is changed and no model is called; the policies are today's with the changes applied; the
response names what the history does not hold. One simulation at a time: it takes this worker's time.
"""

import asyncio
import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from llm_proxy.admission import PolicyDefaults
from llm_proxy.admission.limit_planner import PriceSource
from llm_proxy.admission.policy_resolver import PolicyResolver
from llm_proxy.admission.replay import PriceOverrides, Replay, ReplayVerdict
from llm_proxy.dialects.request.validators import shown_name
from llm_proxy.edge.auth import ActorDependency
from llm_proxy.edge.routes.admin_bodies import ExactRoute
from llm_proxy.errors import BadRequest, NotFound, Overloaded, StoreUnavailable
from llm_proxy.identity import (
    KeyRepository,
    KeySpec,
    LimitPolicy,
    PolicyRepository,
    PolicySnapshot,
    PolicySource,
)
from llm_proxy.identity.admin_documents import parse_key_spec, parse_policy
from llm_proxy.identity.policies import EVERY_EPOCH
from llm_proxy.json_access import Json
from llm_proxy.ledger import CallHistoryReader
from llm_proxy.ledger.call_history import CallHistory
from llm_proxy.ledger.usage_query import parse_time
from llm_proxy.money import PICO_PER_USD_PER_MILLION, usd_text
from llm_proxy.telemetry.privacy import redact

MAX_CALLS = 100_000
MAX_LISTED = 100
MAX_USD_PER_MILLION = 10**6
_PRICES = ("input_usd_per_million", "output_usd_per_million")
_CALLER_FIELDS = ("key", "tenant", "agent", "user")
REJECTED_CALLS_NOTE = (
    "Calls that were rejected then are not replayed: the history keeps a sample of them, without their sizes."
)


class Simulation(BaseModel):
    """The changes to apply, and the range of calls to replay."""

    model_config = ConfigDict(extra="forbid")

    since: str = "24h"
    until: str = "now"
    rules: list[Json] = Field(
        default_factory=list[Json],
        description="As in `PUT /admin/limits`; each replaces today's policy of the same scope and names.",
    )
    only_these_rules: bool = Field(default=False, description="Today's policies are left out.")
    keys: dict[str, Json] = Field(
        default_factory=dict[str, Json],
        description="By name, id or prefix the changes of a key, as in `PATCH /admin/keys/{key}`.",
    )
    default_models: list[str] | None = None
    prices: dict[str, Json] = Field(
        default_factory=dict[str, Json],
        description="By model group `input_usd_per_million` and `output_usd_per_million`.",
    )


@dataclass(frozen=True, slots=True)
class SimulationSources:
    """Where the history and today's settings are read.

    Attributes:
        current: Today's limits, budgets and kill switches.
        default_models: The models of keys without a list of their own.
    """

    histories: CallHistoryReader
    current: PolicySource
    keys: KeyRepository
    policies: PolicyRepository
    prices: PriceSource
    defaults: PolicyDefaults
    default_models: tuple[str, ...]


def router(sources: SimulationSources | None, *, require_actor: ActorDependency) -> APIRouter:
    """Returns the route; it is 503 without a database."""
    routes = APIRouter(
        prefix="/admin",
        tags=["admin"],
        dependencies=[Depends(require_actor)],
        route_class=ExactRoute,
        responses={
            400: {"description": "A field is wrong; `param` names it."},
            401: {"description": "No admin key."},
            503: {"description": "The database is unavailable, or another simulation runs."},
        },
    )
    lock = asyncio.Lock()

    @routes.post("/simulate", summary="Replay recorded calls against other limits, budgets or prices.")
    async def simulate(body: Simulation) -> Json:
        if sources is None:
            raise StoreUnavailable("A simulation needs a database (DATABASE_URL).")
        if lock.locked():
            raise Overloaded("Another simulation is running.", retry_after_s=10)
        async with lock:
            return await _run_simulation(sources, body)

    return routes


async def _run_simulation(sources: SimulationSources, body: Simulation) -> Json:
    now = datetime.now(UTC)
    since, until = parse_time(body.since, now), parse_time(body.until, now, param="until")
    if since >= until:
        raise BadRequest("'since' is not before 'until'.", param="since")
    changed = {group: _parse_prices(price) for group, price in body.prices.items()}
    specs, snapshot = await _changed_keys(sources, body), await _changed_policies(sources, body)
    history = await sources.histories.calls(since, until, specs, MAX_CALLS)
    first = history.first_at or since
    models = sources.default_models if body.default_models is None else tuple(body.default_models)
    replay = Replay(
        PolicyResolver.from_snapshot(sources.defaults, snapshot),
        PriceOverrides(sources.prices, changed),
        models,
        lambda check: sources.histories.spent_before(check, first),
    )
    found = _SimulationResult()
    async for verdict in replay.play(history.calls):
        found.add(verdict)
    return {
        "since": since.isoformat(),
        "until": until.isoformat(),
        **found.document(),
        **_history_coverage(history),
    }


def _history_coverage(history: CallHistory) -> Json:
    """Returns what is exact in the response, and what the history does not hold."""
    return {
        "complete": history.complete,
        "calls_without_reservation": history.estimated,
        "not_replayed": {"refused_then_in_sample": history.rejected_sampled, "note": REJECTED_CALLS_NOTE},
    }


async def _changed_keys(sources: SimulationSources, body: Simulation) -> dict[str, KeySpec]:
    specs: dict[str, KeySpec] = {}
    after = ""
    while page := await sources.keys.list_keys(limit=1000, after=after):
        specs |= {one.key_id: one.spec for one in page}
        after = page[-1].spec.name
    for name, change in body.keys.items():
        with _within(f"keys.{shown_name(redact(name))}"):
            record = await sources.keys.get(name)
            specs[record.key_id] = parse_key_spec(change, record.spec)
    return specs


async def _changed_policies(sources: SimulationSources, body: Simulation) -> PolicySnapshot:
    snapshot = await sources.current.fetch_policies(EVERY_EPOCH) or PolicySnapshot()
    new = list[LimitPolicy]()
    for number, rule in enumerate(body.rules):
        with _within(f"rules[{number}]"):
            new.append(await sources.policies.resolve_key(parse_policy(rule)))
    scopes = {_policy_scope(policy) for policy in new}
    kept = () if body.only_these_rules else snapshot.policies
    return replace(
        snapshot, policies=(*(policy for policy in kept if _policy_scope(policy) not in scopes), *new)
    )


@contextlib.contextmanager
def _within(place: str) -> Generator[None]:
    """Makes errors name the place in the body where the field at fault stands."""
    try:
        yield
    except (BadRequest, NotFound) as error:
        is_missing = error.status == NotFound.status and not place.endswith("]")
        error.param = place if error.param is None or is_missing else f"{place}.{error.param}"
        raise


def _policy_scope(policy: LimitPolicy) -> tuple[str, ...]:
    return policy.scope, policy.tenant, policy.subject, policy.group


def _parse_prices(price: Mapping[str, object]) -> tuple[int, int]:
    """Returns the price of input and output in pico-dollars per token; raises `BadRequest`."""
    found = [_pico_usd(price.get(name)) for name in _PRICES]
    if {*price} != {*_PRICES} or None in found:
        wanted = " and ".join(_PRICES)
        raise BadRequest(f"A price is {wanted}, each from 0 to {MAX_USD_PER_MILLION}.", param="prices")
    input_price, output_price = (one or 0 for one in found)
    return input_price, output_price


def _pico_usd(usd_per_million: object) -> int | None:
    """Converts dollars per million tokens to pico-dollars per token; None for what is no price."""
    with contextlib.suppress(ArithmeticError):
        dollars = Decimal(str(usd_per_million))
        return int(dollars * PICO_PER_USD_PER_MILLION) if 0 <= dollars <= MAX_USD_PER_MILLION else None
    return None


@dataclass(slots=True)
class _RejectionCount:
    """Rejected calls of one kind: their number, and the first."""

    calls: int
    first_at: str
    first_request_id: str


@dataclass(slots=True)
class _SimulationResult:
    """The sums of a replay, over the verdicts added."""

    calls: int = 0
    rejected: int = 0
    recorded_nano_usd: int = 0
    cost_nano_usd: int = 0
    unpriced: int = 0
    first: ReplayVerdict | None = None
    by_limit: dict[tuple[str, ...], _RejectionCount] = field(
        default_factory=dict[tuple[str, ...], _RejectionCount]
    )
    by_caller: dict[tuple[str | None, ...], _RejectionCount] = field(
        default_factory=dict[tuple[str | None, ...], _RejectionCount]
    )

    def add(self, verdict: ReplayVerdict) -> None:
        past = verdict.past
        self.calls += 1
        self.recorded_nano_usd += past.cost_nano_usd or 0
        if verdict.code is None:
            self.cost_nano_usd += verdict.cost_nano_usd or 0
            self.unpriced += verdict.cost_nano_usd is None
            return
        self.rejected += 1
        self.first = self.first or verdict
        caller = past.caller
        whose = (caller.key_id, caller.tenant, caller.agent, caller.user)
        _count(self.by_limit, (verdict.code, verdict.scope, verdict.subject, verdict.kind), verdict)
        _count(self.by_caller, whose, verdict)

    def document(self) -> Json:
        """Returns the sums as JSON."""
        return {
            "calls": self.calls,
            "refused": self.rejected,
            "first_refused_at": _time(self.first) if self.first else None,
            "recorded_cost_usd": usd_text(self.recorded_nano_usd),
            "would_cost_usd": usd_text(self.cost_nano_usd),
            "unpriced_calls": self.unpriced,
            "refused_by": _listed(self.by_limit, ("code", "scope", "subject", "kind")),
            "refused_callers": _listed(self.by_caller, _CALLER_FIELDS),
        }


def _count(found: dict[Any, _RejectionCount], key: Any, verdict: ReplayVerdict) -> None:  # noqa: ANN401 -- either kind
    if key in found:
        found[key].calls += 1
    else:
        found[key] = _RejectionCount(1, _time(verdict), verdict.past.request_id)


def _listed(found: Mapping[Any, _RejectionCount], names: tuple[str, ...]) -> list[Json]:
    """Returns the counts as JSON, most rejected first, at most `MAX_LISTED`."""
    order = sorted(found.items(), key=lambda one: (-one[1].calls, one[1].first_at))
    return [
        dict(zip(names, (value or None for value in key), strict=True))
        | {"calls": one.calls, "first_at": one.first_at, "first_request_id": one.first_request_id}
        for key, one in order[:MAX_LISTED]
    ]


def _time(verdict: ReplayVerdict) -> str:
    return datetime.fromtimestamp(verdict.past.started_ms / 1000, UTC).isoformat()
