"""Counting what happens, on the hot path: about 3 µs a finished call.

Invariants: label values come from bounded sets (a model the catalogue does not hold counts as `other`, an
agent nobody registered and a tag nobody chose have no series, anything else at most 200 values); every
series is of `METRICS`; nothing here waits or raises for a value. Units: seconds in histograms, nano-dollars
in money.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable

import orjson

from llm_proxy import __version__
from llm_proxy.telemetry.catalogue import METRICS, SECONDS, width
from llm_proxy.telemetry.cells import NOT_SET, Cells
from llm_proxy.telemetry.finished import Finished

OTHER = "other"
_MOST_VALUES = 200
_SUM = len(SECONDS) + 1
_TOKENS = ("prompt", "completion", "cached", "reasoning")


class Metrics:
    """This worker's counters, gauges and histograms."""

    def __init__(self, cells: Cells | None = None, tags: Iterable[str] = ()) -> None:
        """Count into `cells`, the seat's file; into memory alone without. `tags` get series of their own."""
        self.cells = cells or Cells()
        self._values = self.cells.values
        self._places: dict[tuple[str, ...], int] = {}
        self._histograms: dict[tuple[str, tuple[str, ...]], tuple[int, tuple[float, ...]]] = {}
        self._calls: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._models: frozenset[str] = frozenset()
        self._agents: dict[str | None, tuple[int, int, int]] = {}
        self._seen: dict[tuple[str, str], set[str]] = {}
        self._samplers: list[Callable[[], None]] = []
        self._forget_gauges()
        self._tags = {tag: self._three_places("tag", tag) for tag in tags}
        self._in_flight = self._place("llm_proxy_in_flight")
        self.gauge("llm_proxy_in_flight", 0)
        self.gauge("llm_proxy_workers", 1)
        self.gauge("llm_proxy_build_info", 1, __version__)

    def know_models(self, groups: Iterable[str]) -> None:
        """Model groups that get series of their own."""
        self._models = frozenset(groups)
        self._calls.clear()

    def know_agents(self, agents: Iterable[str]) -> None:
        """Registered agents, which get series of their own; others have none."""
        self._agents = {agent: self._three_places("agent", agent) for agent in agents}

    def opened(self) -> None:
        """A call was admitted."""
        self._values[self._in_flight] += 1.0

    def finished(self, call: Finished, *, was_open: bool = True) -> None:
        """An admitted call ended; `was_open` is False for one that was never `opened` here."""
        values = self._values
        if was_open:
            values[self._in_flight] -= 1.0
        model = call.group if call.group in self._models else OTHER
        key = (call.door, model, call.provider, call.outcome, call.status, call.streamed, call.cache)
        places = self._calls.get(key) or self._places_of(key, call)
        total, cache, latency, ttft, cost, unpriced = places[:6]
        values[total] += 1.0
        values[cache] += 1.0
        seconds = call.latency_ms / 1000
        values[latency + bisect_left(SECONDS, seconds)] += 1.0
        values[latency + _SUM] += seconds
        if call.ttft_ms is not None:
            seconds = call.ttft_ms / 1000
            values[ttft + bisect_left(SECONDS, seconds)] += 1.0
            values[ttft + _SUM] += seconds
        if call.cost_nano_usd is not None:
            values[cost] += call.cost_nano_usd
        elif call.outcome == "ok" or call.prompt_tokens or call.completion_tokens:
            values[unpriced] += 1.0
        self._count_tokens(call, places)
        for which in call.would_refuse.split(",") if call.would_refuse else ():
            self.count("llm_proxy_would_refuse_total", *which.split(":"))
        if call.agent in self._agents:
            self._count_three(call, self._agents[call.agent])
        if call.tags is not None:
            for tag in call.tags.split(","):
                if tag in self._tags:
                    self._count_three(call, self._tags[tag])

    def refused(self, code: str | None) -> None:
        """A request was answered with an error of ours before it became a call."""
        self.count("llm_proxy_refusals_total", code or OTHER)

    def fell_back(self, asked: str, served: str) -> None:
        """A call was answered by another model group than the one asked."""
        names = (name if name in self._models else OTHER for name in (asked, served))
        self.count("llm_proxy_fallbacks_total", *names)

    def count(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Add to a counter of `METRICS`, its labels in their order."""
        self._values[self._place(name, *labels)] += by

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge of `METRICS`."""
        self._values[self._place(name, *labels)] = value

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Add a time to a histogram of `METRICS`."""
        found = self._histograms.get((name, labels))
        if found is None:
            found = self._place(name, *labels), METRICS[name].buckets
            if (name, *labels) in self._places:
                self._histograms[name, labels] = found
        place, buckets = found
        values = self._values
        values[place + bisect_left(buckets, seconds)] += 1.0
        values[place + len(buckets) + 1] += seconds

    def sample(self, sampler: Callable[[], None]) -> None:
        """Have this called at every beat, about once a second, to set gauges nobody counts on the way."""
        self._samplers.append(sampler)

    def beat(self, now_s: float) -> None:
        """Say that this worker lives, and take the samples.

        Args:
            now_s: Seconds since 1970.
        """
        self.cells.beat(now_s)
        for sampler in self._samplers:
            sampler()

    def close(self) -> None:
        """Say that this worker no longer runs; its counters stay for the seat's next owner."""
        self._forget_gauges()
        self.cells.beat(0.0)

    def _count_tokens(self, call: Finished, places: tuple[int, ...]) -> None:
        values = self._values
        if call.prompt_tokens:
            values[places[6]] += call.prompt_tokens
        if call.completion_tokens:
            values[places[7]] += call.completion_tokens
        if call.cached_tokens:
            values[places[8]] += call.cached_tokens
        if call.reasoning_tokens:
            values[places[9]] += call.reasoning_tokens

    def _count_three(self, call: Finished, places: tuple[int, int, int]) -> None:
        total, tokens, cost = places
        self._values[total] += 1.0
        self._values[tokens] += (call.prompt_tokens or 0) + (call.completion_tokens or 0)
        self._values[cost] += call.cost_nano_usd or 0

    def _three_places(self, label: str, value: str) -> tuple[int, int, int]:
        """Of an agent's or a tag's calls, tokens and cost."""
        total, tokens, cost = (
            self._place(f"llm_proxy_{label}_{what}_total", value)
            for what in ("requests", "tokens", "cost_usd")
        )
        return total, tokens, cost

    def _places_of(self, key: tuple[object, ...], call: Finished) -> tuple[int, ...]:
        model = call.group if call.group in self._models else OTHER
        provider, streamed = call.provider or OTHER, "yes" if call.streamed else "no"
        places = (
            self._place(
                "llm_proxy_requests_total", call.door, model, provider, call.outcome, str(call.status)
            ),
            self._place("llm_proxy_cache_total", call.cache),
            self._place("llm_proxy_request_seconds", call.door, streamed),
            self._place("llm_proxy_ttft_seconds", call.door, streamed),
            self._place("llm_proxy_cost_usd_total", model, provider),
            self._place("llm_proxy_unpriced_total", model),
            *(self._place("llm_proxy_tokens_total", model, kind) for kind in _TOKENS),
        )
        if len(self._calls) < 100 * _MOST_VALUES:
            self._calls[key] = places
        return places

    def _place(self, name: str, *labels: str) -> int:
        place = self._places.get((name, *labels))
        if place is None:
            metric = METRICS[name]
            bounded = tuple(
                self._bounded(name, label, value) for label, value in zip(metric.labels, labels, strict=True)
            )
            place = self.cells.place(orjson.dumps([name, *bounded]), width(metric))
            if bounded == labels:
                self._places[(name, *labels)] = place
        return place

    def _bounded(self, name: str, label: str, value: str) -> str:
        seen = self._seen.setdefault((name, label), set())
        if value not in seen and len(seen) >= _MOST_VALUES:
            return OTHER
        seen.add(value)
        return value

    def _forget_gauges(self) -> None:
        for key, place, size in self.cells.entries():
            if METRICS.get(orjson.loads(key)[0], METRICS["llm_proxy_requests_total"]).kind == "gauge":
                for at in range(place, place + size):
                    self._values[at] = NOT_SET
