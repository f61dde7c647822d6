"""What a service knows of its gateway: providers, limits, requests, cost, health.

Invariants: nothing here waits but `refresh`; the service's own calls count at once, those of others with the
same key as the gateway's API stated them last; the larger of both figures is shown.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import quote

from llm_proxy_service.catalog import LLMProvider, ModelConfig
from llm_proxy_service.chat_answers import Served
from llm_proxy_service.errors import LLMProxyError, NotFoundError
from llm_proxy_service.gateway_http import GatewayConnection
from llm_proxy_service.json_reading import Json, as_amount, as_count, as_object, as_objects
from llm_proxy_service.response import HealthReport, ProviderMetrics, RateLimitStatus, ServiceStats, Usage

STALE_AFTER_S = 5.0
RECENT = "5m"
UNHEALTHY = "unhealthy"
ENOUGH_CALLS = 3
GATEWAY_NAMES: Mapping[str, frozenset[str]] = {
    LLMProvider.OPENAI: frozenset({"openai", "text-completion-openai"}),
    LLMProvider.GOOGLE: frozenset({"gemini", "vertex_ai"}),
    LLMProvider.AZURE: frozenset({"azure", "azure_text", "azure_ai"}),
    LLMProvider.OLLAMA: frozenset({"ollama", "ollama_chat"}),
    LLMProvider.LOCAL: frozenset({"local", "ollama", "ollama_chat", "hosted_vllm", "vllm"}),
}
"""The gateway's names of a kind of provider, where they are not the kind's own."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(slots=True)
class Tally:
    """Sums over calls; `latency_s` is that of the successful ones, added up."""

    requests: int = 0
    failed: int = 0
    cache_hits: int = 0
    tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0

    @property
    def succeeded(self) -> int:
        """Calls with an answer."""
        return self.requests - self.failed

    def larger(self, other: "Tally") -> "Tally":
        """The larger figure of both, each by itself; the latency of the one with more requests."""
        latency_s, calls = max(
            ((one.latency_s, one.succeeded) for one in (self, other)), key=lambda found: found[1]
        )
        requests, failed = max(self.requests, other.requests), max(self.failed, other.failed)
        return Tally(
            requests=requests,
            failed=failed,
            cache_hits=max(self.cache_hits, other.cache_hits),
            tokens=max(self.tokens, other.tokens),
            cost=max(self.cost, other.cost),
            latency_s=latency_s / calls * (requests - failed) if calls else 0.0,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the gateway's API stated last.

    Attributes:
        listed: The providers of the models that the key may use, in the order of the models.
        used: Figures since the service was made, by provider.
        recent: The same of the last five minutes.
        limit: Of the limits on requests a minute the one with the fewest left.
    """

    listed: tuple[str, ...] = ()
    used: Mapping[str, Tally] = field(default_factory=dict[str, Tally])
    total: Tally = field(default_factory=Tally)
    recent: Mapping[str, Tally] = field(default_factory=dict[str, Tally])
    limit: RateLimitStatus | None = None


class GatewayFigures:
    """The figures of one service."""

    def __init__(self, connection: GatewayConnection) -> None:
        self._connection = connection
        self._since = datetime.now(UTC)
        self._own: dict[str, Tally] = {}
        self._own_total = Tally()
        self._active: dict[str, int] = {}
        self._registered: dict[str, ModelConfig] = {}
        self._known = Snapshot()
        self._read_at = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Let getters ask for newer figures, on the running loop."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """End what is being read."""
        self._loop = None
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def refresh(self) -> LLMProxyError | None:
        """Read the gateway's figures; what it does not state keeps its value.

        Returns why the list of models could not be read: the gateway is away, or the key is not accepted.
        """
        since = self._since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        models, limits, used, recent, *registered = await asyncio.gather(
            self._get("/internal/llm/models"),
            self._get("/v1/limits"),
            self._get("/v1/usage", since=since, group_by="provider"),
            self._get("/v1/usage", since=RECENT, group_by="provider"),
            *(self._get(f"/v1/models/{quote(one.model_name)}") for one in self._registered.values()),
        )
        owners = [one.get("owned_by") for one in registered if not isinstance(one, LLMProxyError)]
        self._read_at = time.monotonic()
        known = self._known
        self._known = Snapshot(
            listed=known.listed if isinstance(models, LLMProxyError) else _listed(models, owners),
            used=known.used if isinstance(used, LLMProxyError) else _by_provider(used),
            total=known.total if isinstance(used, LLMProxyError) else _tally(as_object(used.get("total"))),
            recent=known.recent if isinstance(recent, LLMProxyError) else _by_provider(recent),
            limit=known.limit if isinstance(limits, LLMProxyError) else _tightest(limits),
        )
        return models if isinstance(models, LLMProxyError) else None

    async def _get(self, path: str, **query: str) -> Json | LLMProxyError:
        try:
            return await self._connection.get(path, **query)
        except LLMProxyError as fault:
            return fault

    def register(self, name: str, config: ModelConfig) -> None:
        """Let a name stand for the gateway's provider of that kind."""
        self._registered[name] = config
        self._read_at = float("-inf")
        self._read_soon()

    def kind_of(self, name: str) -> str:
        """The provider that a name stands for, as `X-Provider` takes it."""
        config = self._registered.get(name)
        return str(config.provider if config is not None else name)

    def began(self, provider: str) -> None:
        """A provider is answering."""
        self._active[provider] = self._active.get(provider, 0) + 1

    def ended(self, provider: str) -> None:
        """It no longer is."""
        self._active[provider] -= 1

    def count(self, served: Served, usage: Usage | None, latency_s: float) -> None:
        """Count a call of this service that was answered."""
        for tally in self._own_tallies(served.provider):
            tally.requests += 1
            tally.cache_hits += served.cached
            tally.tokens += usage["total_tokens"] if usage else 0
            tally.cost += served.cost or 0.0
            tally.latency_s += latency_s

    def count_failed(self, provider: str | None) -> None:
        """Count a call of this service without an answer; `provider` is None where none was reached."""
        for tally in self._own_tallies(provider):
            tally.requests += 1
            tally.failed += 1

    def _own_tallies(self, provider: str | None) -> list[Tally]:
        """Where a call of this service counts; without a provider in the total alone."""
        return [self._own_total, *([self._own.setdefault(provider, Tally())] if provider else ())]

    def note_limit(self, headers: Mapping[str, str]) -> None:
        """Keep what an answer states of the limit on requests."""
        try:
            limit, left = (int(headers[f"x-ratelimit-{what}-requests"]) for what in ("limit", "remaining"))
        except (KeyError, ValueError):
            return
        reset_s = sum(
            float(number) * _UNIT_S[unit]
            for number, unit in _DURATION.findall(headers.get("x-ratelimit-reset-requests", ""))
        )
        status = RateLimitStatus(limit=limit, remaining=left, reset_in=reset_s)
        self._known = replace(self._known, limit=status)

    def providers(self) -> list[str]:
        """The registered names, then the gateway's own."""
        self._read_soon()
        return list(dict.fromkeys((*self._registered, *self._seen())))

    def is_available(self, name: str) -> bool:
        """Whether the gateway has the provider, and its latest calls did not all fail."""
        self._read_soon()
        return not self._names_of(name).isdisjoint(self._seen()) and self._state(name) != UNHEALTHY

    def metrics(self, name: str) -> ProviderMetrics:
        """The figures of one provider.

        Raises:
            NotFoundError: No provider has the name.
        """
        self._read_soon()
        names = self._checked(name)
        found = Tally()
        for one in names:
            both = self._own.get(one, Tally()).larger(self._known.used.get(one, Tally()))
            found.requests += both.requests
            found.failed += both.failed
            found.tokens += both.tokens
            found.cost += both.cost
            found.latency_s += both.latency_s
        return ProviderMetrics(
            request_count=found.requests,
            error_count=found.failed,
            error_rate=found.failed / found.requests if found.requests else 0.0,
            avg_latency=found.latency_s / found.succeeded if found.succeeded else 0.0,
            active_requests=sum(self._active.get(one, 0) for one in names),
            total_tokens=found.tokens,
            total_cost=found.cost,
        )

    def rate_limit(self, name: str) -> RateLimitStatus:
        """The key's limit on requests, which holds whatever provider answers.

        Raises:
            NotFoundError: No provider has the name.
        """
        self._read_soon()
        self._checked(name)
        return self._known.limit or RateLimitStatus(limit=None, remaining=None, reset_in=0.0)

    def stats(self) -> ServiceStats:
        """The figures of the service."""
        self._read_soon()
        found = self._own_total.larger(self._known.total)
        return ServiceStats(
            total_requests=found.requests,
            failed_requests=found.failed,
            cache_hits=found.cache_hits,
            cache_misses=max(0, found.succeeded - found.cache_hits),
            total_tokens=found.tokens,
            total_cost=found.cost,
        )

    async def health(self) -> HealthReport:
        """The gateway's own state, and that of each provider by the key's latest calls."""
        fault = await self.refresh()
        status = UNHEALTHY
        if fault is None:
            with contextlib.suppress(LLMProxyError):
                status = str((await self._connection.get("/health")).get("status", status))
        usable = {one: fault is None and self.is_available(one) for one in self.providers()}
        return {
            "status": status,
            "providers": {one: self._state(one) if usable[one] else UNHEALTHY for one in usable},
        }

    def _state(self, name: str) -> str:
        recent = [self._known.recent.get(one, Tally()) for one in self._names_of(name)]
        requests, failed = sum(one.requests for one in recent), sum(one.failed for one in recent)
        if requests >= ENOUGH_CALLS and failed == requests:
            return UNHEALTHY
        return "degraded" if failed else "healthy"

    def _seen(self) -> list[str]:
        """The gateway's names of the providers that it listed, or that calls reached."""
        return [*self._known.listed, *self._known.used, *self._own]

    def _names_of(self, name: str) -> frozenset[str]:
        kind = self.kind_of(name)
        return GATEWAY_NAMES.get(kind, frozenset({kind}))

    def _checked(self, name: str) -> frozenset[str]:
        names = self._names_of(name)
        if name in self._registered or not names.isdisjoint((*self._seen(), *LLMProvider)):
            return names
        have = ", ".join(self.providers()) or "none"
        raise NotFoundError(f"no provider is called {name!r}; there are: {have}", code="provider_not_found")

    def _read_soon(self) -> None:
        """Have the loop read the figures again where they are old; callable from any thread."""
        loop = self._loop
        if loop is not None and time.monotonic() - self._read_at > STALE_AFTER_S:
            self._read_at = time.monotonic()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._start_reading)

    def _start_reading(self) -> None:
        if self._loop is not None and (self._reading is None or self._reading.done()):
            self._reading = self._loop.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(LLMProxyError):
            await self.refresh()


def _listed(document: Json, owners: Sequence[object]) -> tuple[str, ...]:
    """The providers of listed models; a model of a wildcard is not listed, but has an owner."""
    found = [*(one.get("provider") for one in as_objects(document.get("models"))), *owners]
    return tuple(dict.fromkeys(name for name in found if isinstance(name, str) and name))


def _by_provider(document: Json) -> dict[str, Tally]:
    return {
        str(row["provider"]): _tally(row) for row in as_objects(document.get("data")) if row.get("provider")
    }


def _tally(row: Json) -> Tally:
    requests, succeeded = as_count(row.get("requests")), as_count(row.get("succeeded"))
    return Tally(
        requests=requests,
        failed=requests - succeeded,
        cache_hits=as_count(row.get("cache_hits")),
        tokens=as_count(row.get("total_tokens")),
        cost=as_amount(row.get("cost_usd")),
        latency_s=as_amount(row.get("avg_latency_ms")) / 1000 * succeeded,
    )


def _tightest(document: Json) -> RateLimitStatus | None:
    enforced = [
        row
        for row in as_objects(document.get("limits"))
        if row.get("kind") == "requests" and row.get("enforced")
    ]
    stated = [row for row in enforced if row.get("limit") and row.get("remaining") is not None]
    if not stated:
        return None
    row = min(stated, key=lambda one: as_count(one["remaining"]))
    return RateLimitStatus(
        limit=as_count(row["limit"]),
        remaining=as_count(row["remaining"]),
        reset_in=as_amount(row.get("wait_ms")) / 1000,
    )
