"""LiteLLM's Router, set up from the service's options: it holds the deployments, chooses one, and calls it.

Invariants: one attempt is one call of the Router, without its own retries and fallbacks, which would repeat
what may have run. Round robin and least loaded are chosen here: the Router has no round robin, and its least
busy counts a call after others were chosen. Ids are unique in the process: Routers note each other's calls.
"""

import asyncio
import os
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from llm_proxy_service.catalog import LoadBalanceStrategy
from llm_proxy_service.errors import ConfigurationError, RateLimitError
from llm_proxy_service.json_reading import as_object, as_objects
from llm_proxy_service.meters import ProviderMeter
from llm_proxy_service.registry import Kind, Place, ProviderRegistry

GROUP = "llm_proxy_service"
STRATEGIES = {
    LoadBalanceStrategy.ROUND_ROBIN: "simple-shuffle",
    LoadBalanceStrategy.LEAST_LOADED: "simple-shuffle",
    LoadBalanceStrategy.WEIGHTED: "simple-shuffle",
    LoadBalanceStrategy.FASTEST_RESPONSE: "latency-based-routing",
    LoadBalanceStrategy.COST_OPTIMIZED: "cost-based-routing",
}
CHOSEN_HERE = frozenset({LoadBalanceStrategy.ROUND_ROBIN, LoadBalanceStrategy.LEAST_LOADED})
STREAM_WRAPPER = "_acompletion_streaming_iterator"
"""The Router's method that wraps a stream; nothing public leads to what it wraps."""
REQUEST_ID_HEADERS = ("llm_provider-x-request-id", "llm_provider-request-id")
Untyped = Any
"""LiteLLM's objects: it is an extra, and its types are not checked here."""


@dataclass(slots=True)
class Attempt:
    """One call of the Router.

    Attributes:
        allowed: The places among which it chooses.
        chosen: The place it chose.
    """

    kind: Kind
    allowed: list[Place]
    chosen: Place | None = None

    def place_of(self, deployment: Untyped) -> Place:
        """The allowed place whose deployment this is."""
        entry = _id_of(deployment)
        return next(place for place in self.allowed if _entry(place, self.kind) == entry)


@dataclass(slots=True)
class Chooser:
    """What the Router asks for a deployment, in place of its own method."""

    router: Untyped
    strategy: LoadBalanceStrategy
    meters: dict[str, ProviderMeter]
    by_router: Untyped
    last_used: dict[str, int] = field(default_factory=dict[str, int])

    async def async_get_available_deployment(self, **call: Untyped) -> Untyped:
        """The deployment of the next call; its place has taken the request into its minute.

        Raises:
            RateLimitError: Every place has had its requests of this minute.
        """
        attempt = ATTEMPT.get()
        full: list[float] = []
        while attempt.allowed:
            deployment = await self._pick(attempt, call)
            place = attempt.place_of(deployment)
            if place.window.take():
                self._use(attempt, place, call["request_kwargs"])
                return deployment
            full.append(place.window.status()["reset_in"])
            attempt.allowed.remove(place)
        error = RateLimitError(
            "the rate limits of this service are reached", status=429, code="rate_limited", retryable=True
        )
        error.retry_after = min(full)
        raise error

    def get_available_deployment(self, **_: Untyped) -> Untyped:
        """The Router takes both methods or none; this one is not called, as every call here is async."""
        raise NotImplementedError

    async def _pick(self, attempt: Attempt, call: Untyped) -> Untyped:
        kwargs = call["request_kwargs"]
        sound = [place for place in attempt.allowed if not self.meters[place.name].is_failing()]
        tags = [_entry(place, attempt.kind) for place in sound or attempt.allowed]
        kwargs["metadata"] = {**(kwargs.get("metadata") or {}), "tags": tags}
        try:
            if self.strategy not in CHOSEN_HERE:
                return await self.by_router(**call)
            healthy = await self.router.async_get_healthy_deployments(**call, parent_otel_span=None)
        except ValueError:  # all of them cool down: one that might answer is better than none
            found = (self.router.get_deployment(model_id=tag) for tag in tags)
            healthy = [one.model_dump(exclude_none=True) for one in found]
        if not isinstance(healthy, list):
            return healthy
        return min(healthy, key=self._order)  # pyright: ignore[reportUnknownArgumentType] -- LiteLLM's

    def _order(self, deployment: Untyped) -> tuple[int, int]:
        meter = self.meters[ATTEMPT.get().place_of(deployment).name]
        busy = meter.active if self.strategy is LoadBalanceStrategy.LEAST_LOADED else 0
        return busy, self.last_used.get(_id_of(deployment), 0)

    def _use(self, attempt: Attempt, place: Place, kwargs: Untyped) -> None:
        attempt.chosen = place
        self.last_used[_entry(place, attempt.kind)] = max(self.last_used.values(), default=0) + 1
        self.meters[place.name].begin()
        most, wanted = place.config.max_tokens, kwargs.get("max_tokens")
        if most is not None and isinstance(wanted, int):
            kwargs["max_tokens"] = min(wanted, most)


ATTEMPT: ContextVar[Attempt] = ContextVar("llm_proxy_service_attempt")


class RoutedCalls:
    """LiteLLM's Router and the deployments it was given."""

    def __init__(
        self,
        strategy: LoadBalanceStrategy,
        timeout: float,
        registry: ProviderRegistry,
        meters: dict[str, ProviderMeter],
    ) -> None:
        self.litellm = _import_litellm()
        self._registry = registry
        self._entries: dict[str, Place] = {}
        self.router: Untyped = self.litellm.Router(
            model_list=[],
            num_retries=0,
            timeout=timeout,
            routing_strategy=STRATEGIES[strategy],
            enable_tag_filtering=True,
        )
        chooser = Chooser(self.router, strategy, meters, self.router.async_get_available_deployment)
        self.router.set_custom_routing_strategy(chooser)
        self._keep_stream_sources()
        registry.litellm_providers = frozenset(f"{one.value}" for one in self.litellm.LlmProviders)

    async def call(self, attempt: Attempt, fields: dict[str, Untyped]) -> Untyped:
        """The Router's answer; `attempt.chosen` says whose it is, also where this raises."""
        for place in attempt.allowed:
            self._ensure(place, attempt.kind)
        token = ATTEMPT.set(attempt)
        try:
            method = self.router.acompletion if attempt.kind == "chat" else self.router.aembedding
            return await method(**{**fields, "model": GROUP, "disable_fallbacks": True, "num_retries": 0})
        finally:
            ATTEMPT.reset(token)

    def is_cooling(self, places: Sequence[Place]) -> bool:
        """Whether each of the places is left alone after it failed."""
        entries = [entry for entry, place in tuple(self._entries.items()) if place in places]
        cooling = self.router.cooldown_cache.get_active_cooldowns(model_ids=entries, parent_otel_span=None)
        return bool(entries) and len(cooling) == len(entries)

    def cost(self, place: Place, kind: Kind, usage: Untyped) -> float | None:
        """US dollars of some tokens, LiteLLM's `Usage`; None where no price is known."""
        if usage is None:
            return None
        if place.config.cost_per_1k_tokens is not None:
            return float(usage.total_tokens) * place.config.cost_per_1k_tokens / 1000
        model, call_type = place.litellm_model(kind), "aembedding" if kind == "embeddings" else "acompletion"
        try:
            parts = self.litellm.cost_per_token(model=model, usage_object=usage, call_type=call_type)
        except Exception:  # noqa: BLE001 -- LiteLLM raises a bare one for a model without a price
            return None
        return float(sum(parts))

    async def close(self) -> None:
        """Take the Router's hooks out of LiteLLM; close its connections of this loop that are idle."""
        self.router.discard()
        for client in tuple(self.litellm.in_memory_llm_clients_cache.cache_dict.values()):
            inner = getattr(client, "_client", None) or getattr(client, "client", None)
            session: Untyped = getattr(getattr(inner, "_transport", None), "client", None)
            if _is_idle_here(session):
                await session.close()  # LiteLLM's transport opens another when it needs one

    def _ensure(self, place: Place, kind: Kind) -> None:
        """Give the Router the deployment of a place, once."""
        entry = _entry(place, kind)
        if entry in self._entries:
            return
        config = place.config
        price = None if config.cost_per_1k_tokens is None else config.cost_per_1k_tokens / 1000
        stated = {
            "api_key": self._registry.key_for(place),
            "api_base": config.api_base,
            "timeout": config.timeout,
            "input_cost_per_token": price,
            "output_cost_per_token": price,
            "cache_creation_input_token_cost": price,
            "cache_read_input_token_cost": price,
            "weight": config.weight,
        }
        params = {name: value for name, value in stated.items() if value is not None}
        deployment = {
            "model_name": GROUP,
            "litellm_params": {
                "model": place.litellm_model(kind),
                "tags": [entry],
                **params,
                **config.extra,
            },
            "model_info": {"id": entry},
        }
        self._entries[entry] = place
        self.router.add_deployment(self.litellm.router.Deployment(**deployment))

    def _keep_stream_sources(self) -> None:
        """Let a stream name the one it was made from, which alone knows whether the provider ended it."""
        wrap = getattr(self.router, STREAM_WRAPPER, None)
        if wrap is None:
            raise ConfigurationError(
                "this LiteLLM is not one that the in-process mode knows: "
                "pip install 'llm-proxy-service[litellm]' chooses one that it does",
                code="unknown_litellm",
            )

        async def wrap_and_name(model_response: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
            wrapped = await wrap(model_response, *args, **options)
            wrapped.llm_proxy_source = model_response
            return wrapped

        setattr(self.router, STREAM_WRAPPER, wrap_and_name)


def ended_properly(stream: Untyped) -> bool:
    """Whether the provider finished its stream; LiteLLM reports every stream as finished."""
    source = stream.llm_proxy_source
    return bool(source.received_finish_reason or source.intermittent_finish_reason)


def _is_idle_here(session: Untyped) -> bool:
    """Whether an aiohttp session belongs to the running loop and has no request under way."""
    connector = getattr(session, "connector", None)
    if connector is None or getattr(connector, "_acquired", True):
        return False
    return getattr(session, "_loop", None) is asyncio.get_running_loop()


def raw_of(answer: Untyped) -> dict[str, Untyped]:
    """An answer or a chunk in OpenAI's schema."""
    raw: dict[str, Untyped] = answer.model_dump(exclude_none=True)
    for choice in as_objects(raw.get("choices")):
        message = choice.get("message", {})
        if refusal := as_object(message.get("provider_specific_fields")).get("refusal"):
            message["refusal"] = refusal  # LiteLLM moved it there
    return raw


def request_id_of(answer: Untyped) -> str | None:
    """The provider's id of a call: of its headers, else of its answer."""
    hidden: dict[str, Untyped] = getattr(answer, "_hidden_params", None) or {}
    headers: dict[str, Untyped] = hidden.get("additional_headers") or {}
    found = next((headers[name] for name in REQUEST_ID_HEADERS if headers.get(name)), None)
    return found or getattr(answer, "id", None)


def _entry(place: Place, kind: Kind) -> str:
    """The Router's id of a place's deployment for some kind of call."""
    return f"{place.id}-{kind}"


def _id_of(deployment: Untyped) -> str:
    return str(deployment["model_info"]["id"])


def _import_litellm() -> Untyped:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else the import waits for a download
    try:
        litellm: Untyped = import_module("litellm")
    except ImportError as error:
        raise ConfigurationError(
            "the in-process mode needs LiteLLM: pip install 'llm-proxy-service[litellm]', or set base_url",
            code="no_litellm",
        ) from error
    litellm.disable_hf_tokenizer_download = True  # else counting tokens may wait for one
    return litellm
