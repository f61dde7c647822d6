"""What the sidecars serve: model groups, their providers, prices and fallbacks; `CurrentCatalog` owns it.

Read from our sidecar's own catalog, or from an unmodified LiteLLM's model info; the monitor requests it and
keeps the last good one. Invariants: a `Catalog` is never changed, `CurrentCatalog.snapshot` is replaced as a
whole; a wildcard's expansions are never listed; a price that is not stated is None, never 0. Prices are
pico-dollars per token.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from llm_proxy.call_guard import StatedTimeouts
from llm_proxy.dialects import GUARDRAILS_FIELD, Call
from llm_proxy.dialects.dialect import ModelIndex
from llm_proxy.endpoints import Endpoint, Wire
from llm_proxy.identity import Caller, may_use_model
from llm_proxy.json_access import Json, as_list, as_object, as_objects
from llm_proxy.money import Price, highest_known_nano, usd_to_pico
from llm_proxy.settings import TEST_PROVIDER
from llm_proxy.telemetry import Metrics
from llm_proxy.token_details import token_count
from llm_proxy.upstream.group_facts import (
    common_output_tokens,
    common_wires,
    fallback_providers,
    group_endpoints,
    highest_output_tokens,
    known_endpoints,
    served_endpoints,
)
from llm_proxy.upstream.unit_prices import NO_PRICES, UnitPrices, most_of_units, read_unit_prices
from llm_proxy.wildcards import wildcard_matches


@dataclass(frozen=True, slots=True)
class Deployment:
    """One entry of LiteLLM's model list. Prices in pico-dollars per token.

    Attributes:
        protocol: Whose protocol it speaks where that is not the provider's own; else empty.
        created: When it was made or configured, in seconds since 1970; None when unknown.
        silence_s: How long LiteLLM may be silent in a call, retries included; None: the file says nothing.
        idle_s: How long it waits between two frames of a stream; None likewise.
        native: The endpoints whose own protocol it speaks, of `NATIVE_ENDPOINTS`.
        features: What the model can do, in LiteLLM's words: `supports_vision` ...
        units: The prices of what is no plain token.
    """

    id: str
    provider: str
    provider_model: str
    max_tokens: int | None = None
    max_output_tokens: int | None = None
    input_pico_usd: int | None = None
    output_pico_usd: int | None = None
    protocol: str = ""
    max_input_tokens: int | None = None
    created: int | None = None
    silence_s: float | None = None
    idle_s: float | None = None
    native: frozenset[str] = frozenset()
    features: tuple[str, ...] = ()
    units: UnitPrices = NO_PRICES


RETRY_PAUSE_S = 10.0
"""The longest pause of our sidecar before a retry."""
ANSWER_MARGIN_S = 5.0
"""The sidecar reports its own timeout; the gateway waits for that report."""


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A guardrail of the sidecar's configuration.

    Attributes:
        modes: When it runs, in LiteLLM's words: `pre_call`, `post_call` ...
        every_call: It checks every call, whoever names it.
    """

    name: str
    modes: tuple[str, ...] = ()
    every_call: bool = False


@dataclass(frozen=True, slots=True)
class ModelGroup:
    """One model group: the name callers use.

    Attributes:
        hidden: It is served and not listed.
        guardrails: The guardrails that its deployments name.
        endpoints: What any of them serves; None where that is unknown, and then nothing is rejected.
    """

    name: str
    mode: str = "chat"
    wildcard: bool = False
    fallbacks: tuple[str, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    alias_of: str | None = None
    hidden: bool = False
    guardrails: tuple[str, ...] = ()
    endpoints: frozenset[Endpoint] | None = None

    @property
    def is_test_chat(self) -> bool:
        """Whether only the test model that comes along answers its chats."""
        providers = {one.provider for one in self.deployments}
        return self.mode == "chat" and providers == {TEST_PROVIDER}


@dataclass(frozen=True, slots=True)
class Catalog:
    """All model groups, at one moment.

    Attributes:
        is_ours: It comes from a sidecar of ours, not an unmodified LiteLLM.
        has_langfuse: Calls are reported to Langfuse, with their caller.
        names: The groups to list: configured names, no wildcards.
        test_chats: The groups of chats that only the test model answers.
        fallback_rules: Fallbacks by the name they are written for, which may be no group's.
    """

    groups: dict[str, ModelGroup] = field(default_factory=dict[str, ModelGroup])
    deployments: dict[str, Deployment] = field(default_factory=dict[str, Deployment])
    default_fallbacks: tuple[str, ...] = ()
    is_ours: bool = False
    has_langfuse: bool = False
    fallback_rules: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    guardrails: dict[str, Guardrail] = field(default_factory=dict[str, Guardrail])
    names: tuple[str, ...] = field(init=False, compare=False)
    test_chats: frozenset[str] = field(init=False, compare=False)
    _reached: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]], compare=False)
    _waits: dict[str, StatedTimeouts | None] = field(
        default_factory=dict[str, StatedTimeouts | None], compare=False
    )
    _native: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]], compare=False)

    def __post_init__(self) -> None:
        """Computes once what every call needs."""
        names = tuple(name for name, group in self.groups.items() if not group.wildcard and not group.hidden)
        object.__setattr__(self, "names", names)
        tests = frozenset(name for name, group in self.groups.items() if group.is_test_chat)
        object.__setattr__(self, "test_chats", tests)

    def find_group(self, name: str) -> ModelGroup | None:
        """Returns the group that serves a name, by itself or through a wildcard."""
        found = self.groups.get(name)
        if found is None:
            wild = (
                group
                for group in self.groups.values()
                if group.wildcard and wildcard_matches(group.name, name)
            )
            found = max(wild, key=lambda group: _specificity(group.name), default=None)
        return found

    def guardrails_of(self, name: str, requested: Iterable[str] = ()) -> tuple[Guardrail, ...]:
        """Returns the guardrails that check a group's calls, and those that a request names."""
        group = self.find_group(name)
        named = {*(group.guardrails if group else ()), *requested}
        return tuple(one for one in self.guardrails.values() if one.every_call or one.name in named)

    def stated_timeouts(self, name: str) -> StatedTimeouts | None:
        """Returns how long a call of a group may take by the sidecar's file; None where it says nothing.

        A fallback begins when the group before it has used its time.
        """
        if name in self._waits:
            return self._waits[name]
        groups = [self.find_group(one) for one in (name, *(self.fallbacks(name) or ()))]
        behind = [group.deployments for group in groups if group is not None]
        silences = [max((one.silence_s or 0 for one in some), default=0.0) for some in behind]
        gaps = [one.idle_s or 0 for some in behind for one in some]
        found = None
        if sum(silences):
            found = StatedTimeouts(sum(silences) + ANSWER_MARGIN_S, max(gaps) + ANSWER_MARGIN_S)
        if name in self.groups:
            self._waits[name] = found
        return found

    def speaks_natively(self, name: str, wire: Wire) -> bool:
        """Whether every deployment that a call may reach speaks an endpoint's own protocol.

        Those of the fallbacks count too: where one does not, LiteLLM would translate, with losses.
        """
        native = self._native.get(name)
        if native is None:
            native = common_wires(self, name)
            if name in self.groups:
                self._native[name] = native
        return wire in native

    def resolved(self, name: str) -> str:
        """Returns the group behind an alias; any other name unchanged."""
        group = self.groups.get(name)
        return (group.alias_of or name) if group else name

    def fallbacks(self, name: str) -> tuple[str, ...] | None:
        """Returns every group a call may end at, fallbacks of fallbacks too; None when unknown."""
        if not self.is_ours:
            return None
        if (known := self._reached.get(name)) is not None:
            return known
        found = dict.fromkeys([name, self.resolved(name)])
        unvisited = [*found]
        while unvisited:
            visited = unvisited.pop()
            group = self.find_group(visited)
            by_rule = self._fallbacks_by_rule(visited)
            for one in (*(group.fallbacks if group else ()), *by_rule, *self.default_fallbacks):
                new = {one, self.resolved(one)} - found.keys()
                found |= dict.fromkeys(new)
                unvisited += new
        reached = tuple({self.resolved(one): None for one in found if one != name})
        if name in self.groups:
            self._reached[name] = reached
        return reached

    def _fallbacks_by_rule(self, name: str) -> list[str]:
        """The fallbacks LiteLLM finds for a name: written for it, or with or without a provider before it."""
        bare, prefixed = name.partition("/")[2], f"/{name}"
        return [
            target
            for source, targets in self.fallback_rules.items()
            if source in (name, bare) or source.endswith(prefixed)
            for target in targets
        ]

    def highest_prices(self, name: str) -> tuple[int, int] | None:
        """Returns the highest input and output price of a group's deployments, in pico-dollars per token.

        A call is reserved at them, before its deployment is known; None when one is unknown.
        """
        group = self.find_group(name)
        if group is None or not group.deployments:
            return None
        max_input = max_output = 0
        for deployment in group.deployments:
            if deployment.input_pico_usd is None or deployment.output_pico_usd is None:
                return None
            max_input = max(max_input, deployment.input_pico_usd)
            max_output = max(max_output, deployment.output_pico_usd)
        return max_input, max_output

    def served_by(self, deployment: str | None, group: str) -> tuple[Deployment, ...]:
        """Returns the deployment that served; where it is unknown, all of the group."""
        known = self.deployments.get(deployment or "")
        if known is not None:
            return (known,)
        found = self.find_group(group)
        return found.deployments if found is not None else ()


def _specificity(pattern: str) -> tuple[int, int]:
    """LiteLLM's order of wildcards: the longest pattern, then the most special characters, then the first."""
    regex = re.escape(pattern).replace(r"\*", "(.*)")
    return len(regex), sum(regex.count(sign) for sign in r"*+?\^$|()")


def _with_ids(groups: dict[str, ModelGroup]) -> dict[str, ModelGroup]:
    """The groups, and deployment ids that a wildcard matches: LiteLLM takes an id for a name first."""
    wild = [group.name for group in groups.values() if group.wildcard]
    ids = {
        one.id: ModelGroup(
            one.id,
            group.mode,
            deployments=(one,),
            alias_of=group.alias_of or group.name,
            hidden=True,
            endpoints=group.endpoints,
        )
        for group in groups.values()
        for one in group.deployments
        if one.id and one.id not in groups and any(wildcard_matches(pattern, one.id) for pattern in wild)
    }
    return ids | groups


def parse_sidecar_catalog(document: Json) -> Catalog:
    """Returns the catalog our sidecar writes; see `docs/architecture.md`."""
    groups: dict[str, ModelGroup] = {}
    for entry in as_objects(document.get("groups")):
        deployments = tuple(
            Deployment(
                str(one.get("id") or ""),
                str(one.get("provider") or "unknown"),
                str(one.get("physical") or ""),
                token_count(one.get("max_tokens")),
                token_count(one.get("max_output_tokens")),
                usd_to_pico(one.get("input_cost_per_token")),
                usd_to_pico(one.get("output_cost_per_token")),
                str(one.get("wire") or ""),
                token_count(one.get("max_input_tokens")),
                _timestamp(one.get("created")),
                *_stated_timeouts(one),
                frozenset(str(name) for name in as_list(one.get("native"))),
                tuple(one.get("features") or ()),
                read_unit_prices(as_object(one.get("prices"))),
            )
            for one in as_objects(entry.get("deployments"))
        )
        name = str(entry["name"])
        groups[name] = ModelGroup(
            name,
            str(entry.get("mode") or "chat"),
            "*" in name,
            tuple(entry.get("fallbacks") or ()),
            deployments,
            entry.get("alias_of"),
            entry.get("hidden") is True,
            tuple(entry.get("guardrails") or ()),
            known_endpoints(entry.get("endpoints")),
        )
    return replace(
        catalog_of(_with_ids(groups), tuple(document.get("default_fallbacks") or ())),
        is_ours=True,
        has_langfuse=document.get("watched") is True,
        fallback_rules={
            source: tuple(targets) for source, targets in as_object(document.get("fallback_rules")).items()
        },
        guardrails={
            str(one["name"]): Guardrail(
                str(one["name"]), tuple(one.get("modes") or ()), one.get("every_call") is True
            )
            for one in as_objects(document.get("guardrails"))
        },
    )


def _stated_timeouts(deployment: Json) -> tuple[float | None, float | None]:
    """Returns a deployment's longest silence and longest gap, in seconds; None where none is stated."""
    whole, stream = (
        float(value) if isinstance(value, int | float) and value > 0 else None
        for value in (deployment.get("timeout_s"), deployment.get("stream_timeout_s"))
    )
    if whole is None and stream is None:
        return None, None
    attempts = token_count(deployment.get("attempts")) or 1
    return attempts * max(whole or 0, stream or 0) + (attempts - 1) * RETRY_PAUSE_S, stream


def catalog_of(groups: dict[str, ModelGroup], default_fallbacks: tuple[str, ...] = ()) -> Catalog:
    """Returns the catalog of groups, with their deployments by id."""
    deployments = {one.id: one for group in groups.values() for one in group.deployments if one.id}
    return Catalog(groups, deployments, default_fallbacks)


def _timestamp(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


MAX_CACHED_CALLERS = 1024
"""Lists of allowed models that are kept with their index."""


class CurrentCatalog:
    """What is served now: the one owner of the catalog, read by dialects, admission, upstream and edge.

    Attributes:
        snapshot: The catalog; None until the first one was read.
    """

    def __init__(
        self,
        default_model: str = "gpt-3.5-turbo",
        *,
        default_chosen: bool = False,
        endpoint_models: Mapping[Endpoint, str] | None = None,
        default_models: tuple[str, ...] = (),
        metrics: Metrics | None = None,
    ) -> None:
        """Starts without a catalog.

        Args:
            default_model: The model of a request that may omit it.
            default_chosen: An operator chose the default model.
            endpoint_models: The models of requests that omit it, by endpoint; else the only one there is.
            default_models: What a caller without a list of its own may use.
            metrics: Gets the names of the models, for its labels.
        """
        self.snapshot: Catalog | None = None
        self._index = ModelIndex(
            default=default_model, default_models=endpoint_models or {}, default_chosen=default_chosen
        )
        self._default_models = default_models
        self._metrics = metrics
        self._by_caller: dict[tuple[object, ...], ModelIndex] = {}

    def update(self, catalog: Catalog) -> None:
        """Replaces the catalog."""
        providers = {
            name: frozenset(one.protocol or one.provider for one in group.deployments)
            for name, group in catalog.groups.items()
        }
        groups = {name: found for name, found in providers.items() if not catalog.groups[name].wildcard}
        self._index = replace(
            self._index,
            groups=groups,
            wildcards={name: found for name, found in providers.items() if name not in groups},
            aliases={name: one.alias_of for name, one in catalog.groups.items() if one.alias_of},
            endpoints=partial(group_endpoints, catalog),
            served=served_endpoints(catalog),
            guardrails=frozenset(catalog.guardrails),
            fallback_providers=partial(fallback_providers, catalog),
            max_output_tokens=partial(common_output_tokens, catalog),
            speaks_natively=catalog.speaks_natively,
        )
        self.snapshot = catalog
        self._by_caller.clear()
        if self._metrics is not None:
            self._metrics.set_models(catalog.names)

    def models_for(self, caller: Caller) -> ModelIndex:
        """Returns the names as a caller may use them."""
        key = caller.kind, caller.models, caller.outer_models
        index = self._by_caller.get(key)
        if index is None:
            if len(self._by_caller) >= MAX_CACHED_CALLERS:
                self._by_caller.clear()
            index = self._by_caller[key] = replace(self._index, is_allowed=self._is_allowed_for(caller))
        return index

    def _is_allowed_for(self, caller: Caller) -> Callable[[str], bool]:
        default, names = self._default_models, self.names

        def is_allowed(group: str) -> bool:
            """What nothing is known to judge by is allowed: admission rejects the call."""
            return may_use_model(caller, default, names, group, self.resolved) is not False

        return is_allowed

    @property
    def names(self) -> tuple[str, ...] | None:
        """The groups configured by name; None while unknown."""
        return None if self.snapshot is None else self.snapshot.names

    def has_langfuse(self) -> bool:
        """Whether the calls are reported to Langfuse; False while unknown."""
        return self.snapshot is not None and self.snapshot.has_langfuse

    def resolved(self, name: str) -> str:
        """Returns the group of an alias; any other name unchanged."""
        return name if self.snapshot is None else self.snapshot.resolved(name)

    def providers(self, group: str) -> tuple[str, ...]:
        """Returns the providers of a group's deployments."""
        found = self.snapshot.find_group(group) if self.snapshot else None
        return tuple(dict.fromkeys(one.provider for one in found.deployments)) if found else ()

    def fallback_providers(self, group: str) -> tuple[str, ...]:
        """Returns the providers of the groups a call may fall back to."""
        reached = (self.snapshot.fallbacks(group) if self.snapshot else None) or ()
        return tuple(dict.fromkeys(name for one in reached for name in self.providers(one)))

    def stated_timeouts(self, group: str) -> StatedTimeouts | None:
        """Returns how long a group's calls may take by the sidecar's file; None where it says nothing."""
        return self.snapshot.stated_timeouts(group) if self.snapshot else None

    def describe(self, call: Call) -> Json:
        """Returns the guardrails that check a call, for its explanation."""
        requested: tuple[str, ...] = tuple(call.body.get(GUARDRAILS_FIELD) or ())
        found = self.snapshot.guardrails_of(call.group, requested) if self.snapshot else ()
        return {"guardrails": [{"name": one.name, "modes": list(one.modes)} for one in found]}

    def price(self, group: str) -> Price | None:
        """Returns the highest price of a group; None when one is not known."""
        found = self.snapshot.highest_prices(group) if self.snapshot else None
        return Price(*found, highest_output_tokens(self.snapshot, group)) if self.snapshot and found else None

    def most_of_units(self, call: Call, prompt_tokens: int, answer_tokens: int) -> int | None:
        """Returns the most that a call of `OPAQUE_ENDPOINTS` costs at its group, in nano-dollars.

        None where a deployment's price is not known.
        """
        group = self.snapshot.find_group(call.group) if self.snapshot else None
        behind = group.deployments if group is not None else ()
        return highest_known_nano(
            [
                most_of_units(
                    one.units, (one.input_pico_usd, one.output_pico_usd), call, prompt_tokens, answer_tokens
                )
                for one in behind
            ]
        )
