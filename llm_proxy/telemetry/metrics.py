"""This worker's counters, gauges and histograms, on `prometheus_client`, and the page of all workers.

Invariants: only the metrics of `METRICS` are exported. Label values come from bounded sets: a model outside
the catalog counts as `other`, unregistered agents and tags outside `METRICS_TAGS` have no series, any other
label has at most `MAX_VALUES` values; no label holds an address. Finished calls and observed times are only
collected during a call, and counted in batches (`record_calls`). Units: seconds, US dollars.
"""

# ruff: noqa: D102 -- the fields of a call are explained where the record is made

import fcntl
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, Final, Protocol
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead  # pyright: ignore[reportUnknownVariableType] -- the same

from llm_proxy import __version__
from llm_proxy.endpoints import OPAQUE_ENDPOINTS
from llm_proxy.telemetry.metric_table import METRICS, Metric
from llm_proxy.telemetry.readings import Reading, Readings

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OTHER = "other"
MAX_VALUES = 200
MAX_COLLECTED = 1000
"""At this number, collected calls are counted without waiting for the ledger's writer."""
_TOKEN_KINDS = ("prompt", "completion", "cached", "reasoning")
_QUANTITY_KINDS = ("images", "audio_seconds", "characters", "search_units")
_FROM_ZERO: dict[str, tuple[tuple[str, ...], ...]] = {
    "llm_proxy_failures_total": tuple(
        (code, admitted)
        for code in ("internal_error", "overloaded", "store_unavailable", "upstream_unreachable")
        for admitted in ("yes", "no")
    ),
    "llm_proxy_sidecar_exits_total": (("left",), ("lost",), ("replaced",)),
    "llm_proxy_ledger_written_total": (("postgres",), ("spool",)),
    "llm_proxy_ledger_dropped_total": tuple(
        (cause,)
        for cause in ("bug", "expired", "no_place", "queue_full", "rejected", "spool_full", "unreadable")
    ),
}
"""Counters that alerts compare with their past: Prometheus sees no increase in a series' first value."""
_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "llm-proxy-metrics-"
ABANDONED_AFTER_S = 60.0
"""A folder without a lock is removed at this age: a new one is locked by then."""


class FinishedCall(Protocol):
    """The fields of a finished call that are counted and traced; a `UsageRecord` is one. None: unknown."""

    # fmt: off
    @property
    def door(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def provider(self) -> str | None: ...
    @property
    def outcome(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def streamed(self) -> bool: ...
    @property
    def cache(self) -> str: ...
    @property
    def agent(self) -> str | None: ...
    @property
    def prompt_tokens(self) -> int | None: ...
    @property
    def completion_tokens(self) -> int | None: ...
    @property
    def cached_tokens(self) -> int | None: ...
    @property
    def reasoning_tokens(self) -> int | None: ...
    @property
    def images(self) -> int | None: ...
    @property
    def audio_ms(self) -> int | None: ...
    @property
    def characters(self) -> int | None: ...
    @property
    def search_units(self) -> int | None: ...
    @property
    def cost_nano_usd(self) -> int | None: ...
    @property
    def is_unpriced(self) -> bool: ...
    @property
    def latency_ms(self) -> float: ...
    @property
    def ttft_ms(self) -> float | None: ...
    @property
    def queue_ms(self) -> float | None: ...
    @property
    def request_id(self) -> UUID: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def tenant(self) -> str | None: ...
    @property
    def tags(self) -> str | None: ...
    @property
    def model_resolved(self) -> str | None: ...
    @property
    def refusal_code(self) -> str | None: ...
    @property
    def would_refuse(self) -> str | None: ...
    @property
    def guard_action(self) -> str | None: ...
    @property
    def guard_signal(self) -> str | None: ...
    # fmt: on


@dataclass(frozen=True, slots=True)
class WorkerMetricsFiles:
    """Where one of several workers stores its metrics, so that every worker can render those of all.

    Attributes:
        directory: Belongs to one gateway; in memory (tmpfs), since a full disk kills the writers (SIGBUS).
        worker: The worker's number; the successor of a dead one gets its number and continues its counters.
    """

    directory: Path
    worker: int

    def drop_gauges(self) -> None:
        """Removes a dead worker's gauges from the page; its counters stay."""
        mark_process_dead(self.worker, str(self.directory))  # type: ignore[no-untyped-call]  # as the library has it


@contextmanager
def metrics_directory(root: Path | None = None) -> Generator[Path]:
    """Creates a folder for the metrics of several workers, and removes it at the end of the block.

    Removes the folders of killed gateways, too: a gateway and its workers hold a lock on their folder.

    Args:
        root: Where the folder is created; by default in memory, if the system has such a folder.
    """
    memory = Path("/dev/shm")  # noqa: S108 -- the folder made there is new and private
    root = root or (memory if os.access(memory, os.W_OK) else Path(gettempdir()))
    for abandoned in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is locked, another user's, or just removed
            if time.time() - abandoned.stat().st_mtime > ABANDONED_AFTER_S:
                lock = _lock_folder(abandoned)
                rmtree(abandoned, ignore_errors=True)
                os.close(lock)
    with TemporaryDirectory(prefix=_PREFIX, dir=root, ignore_cleanup_errors=True) as directory:
        lock = _lock_folder(Path(directory))
        yield Path(directory)
        os.close(lock)


def _lock_folder(folder: Path) -> int:
    """Locks a folder until the descriptor is closed here and in all forked processes; raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class BatchHistogram(Histogram):
    """A histogram that takes many observations at once: one increment per bucket."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Adds these observations."""
        counts: dict[int, int] = {}
        for amount in amounts:
            bucket = bisect_left(self._upper_bounds, amount)
            counts[bucket] = counts.get(bucket, 0) + 1
        for bucket, count in counts.items():
            self._buckets[bucket].inc(count)  # pyright: ignore[reportUnknownMemberType] -- as the library has it
        self._sum.inc(sum(amounts))  # pyright: ignore[reportUnknownMemberType] -- the same


class Metrics:
    """This worker's metrics, and the rendering of all workers' metrics."""

    def __init__(self, tags: Iterable[str] = (), files: WorkerMetricsFiles | None = None) -> None:
        """Counts in memory, or in `files` if there are several workers. `tags` get series of their own."""
        self._files = files
        self._registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # as the library has it
        if files is not None:
            os.environ[_DIRECTORY] = str(files.directory)
        values.ValueClass = (
            values.MultiProcessValue(lambda: files.worker)  # type: ignore[no-untyped-call]  # the same
            if files
            else values.MutexValue
        )
        self._collectors = {
            name: _collector(name, metric, self._registry)
            for name, metric in METRICS.items()
            if metric.kind != "reading"
        }
        self._readings = Readings(None if files is None else files.directory)
        self._children: dict[tuple[str, ...], Any] = {}
        self._seen: dict[tuple[str, str], set[str]] = {}
        self._of_calls: dict[tuple[object, ...], _CallSeries] = {}
        self._models: frozenset[str] = frozenset()
        self._shares: dict[str, frozenset[str]] = {"agent": frozenset(), "tag": frozenset()}
        self._samplers: list[Callable[[], None]] = []
        self._in_flight = 0
        self._finished: list[FinishedCall] = []
        self._observed: dict[tuple[str, ...], list[float]] = {}
        self._set_shares("tag", tags)
        self.set_gauge("llm_proxy_workers", 1)
        self.set_gauge("llm_proxy_build_info", 1, __version__)
        for name, of_labels in _FROM_ZERO.items():
            for labels in of_labels:
                self.increment(name, *labels, by=0)

    def set_models(self, groups: Iterable[str]) -> None:
        """Sets the model groups that get series of their own."""
        self._models = frozenset(groups)
        self._of_calls.clear()

    def set_agents(self, agents: Iterable[str]) -> None:
        """Sets the registered agents: they get series of their own, other agents have none."""
        self._set_shares("agent", agents)

    def call_started(self) -> None:
        """Counts an admitted call as running."""
        self._in_flight += 1

    def call_ended(self) -> None:
        """Counts an admitted call as no longer running; `call_finished` does that for one with a record."""
        self._in_flight -= 1

    def call_finished(self, call: FinishedCall) -> None:
        """Collects an admitted call that ended; it is counted with the next batch."""
        self.call_ended()
        self._finished.append(call)
        if len(self._finished) >= MAX_COLLECTED:
            self.record_calls()

    def request_rejected(self, code: str | None) -> None:
        """Counts a request that the gateway rejected."""
        self.increment("llm_proxy_refusals_total", code or OTHER)

    def call_fell_back(self, requested: str, served: str) -> None:
        """Counts a call that another model group answered than the requested one."""
        names = (name if name in self._models else OTHER for name in (requested, served))
        self.increment("llm_proxy_fallbacks_total", *names)

    def increment(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Adds to a counter of `METRICS`; the labels stand in their order there."""
        self._child(name, *labels).inc(by)

    def set_gauge(self, name: str, value: float, *labels: str) -> None:
        """Sets a gauge of `METRICS`."""
        self._child(name, *labels).set(value)

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Collects a time for a histogram of `METRICS`; it is added with the next batch."""
        times = self._observed.get((name, *labels))
        if times is None:
            times = self._observed[name, *labels] = []
        times.append(seconds)

    def record_calls(self) -> None:
        """Counts the calls and times collected since the last batch."""
        finished, self._finished = self._finished, []
        observed, self._observed = self._observed, {}
        for (name, *labels), times in observed.items():
            self._child(name, *labels).observe_all(times)
        groups: dict[tuple[object, ...], list[FinishedCall]] = {}
        for call in finished:
            model = call.group if call.group in self._models else OTHER
            kind = (call.door, model, call.provider, call.outcome, call.status, call.streamed, call.cache)
            groups.setdefault(kind, []).append(call)
        for key, calls in groups.items():
            (self._of_calls.get(key) or self._series_of(key, calls[0])).add(calls)
        self._count_shares(finished)
        for call in finished:
            for which in call.would_refuse.split(",") if call.would_refuse else ():
                self.increment("llm_proxy_would_refuse_total", *which.split(":"))
            if call.guard_signal:
                self.increment("llm_proxy_loops_total", call.guard_action or OTHER, call.guard_signal)

    @property
    def reads_for_all(self) -> bool:
        """Whether this worker sets the readings of all workers of its gateway."""
        return self._files is None or self._files.worker == 0

    def set_readings(self, source: str, readings: Iterable[Reading]) -> None:
        """Replaces the readings of a source; those it does not name are absent from the page."""
        self._readings.replace(source, readings)

    def add_sampler(self, sampler: Callable[[], None]) -> None:
        """Adds a function that is called about once a second, to set gauges."""
        self._samplers.append(sampler)

    def run_samplers(self) -> None:
        """Calls the samplers, then `collect`."""
        for sampler in self._samplers:
            sampler()
        self.collect()

    def collect(self) -> None:
        """Counts what is collected, and sets the number of running calls."""
        self.set_gauge("llm_proxy_in_flight", self._in_flight)
        self.record_calls()

    def render(self) -> bytes:
        """Returns all workers' metrics as text; takes about 1 ms a worker; callable in any thread."""
        if self._files is None:
            return generate_latest(self._registry) + self._readings.render()
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone, str(self._files.directory))  # type: ignore[no-untyped-call]  # the same
        return generate_latest(everyone) + self._readings.render()

    def _set_shares(self, label: str, names: Iterable[str]) -> None:
        self._shares[label] = frozenset(names)
        for name in self._shares[label]:
            self._add_share(label, name, (0, 0, 0))

    def _count_shares(self, calls: Iterable[FinishedCall]) -> None:
        """Counts requests, tokens and cost of registered agents and of `METRICS_TAGS`."""
        agents, tags = self._shares["agent"], self._shares["tag"]
        shares: dict[tuple[str, str], tuple[int, int, int]] = {}
        for call in calls:
            mine = [("agent", call.agent)] if call.agent is not None and call.agent in agents else []
            mine += [("tag", tag) for tag in call.tags.split(",") if tag in tags] if call.tags else []
            for one in mine:
                requests, tokens, cost = shares.get(one, (0, 0, 0))
                tokens += (call.prompt_tokens or 0) + (call.completion_tokens or 0)
                shares[one] = requests + 1, tokens, cost + (call.cost_nano_usd or 0)
        for (label, name), share in shares.items():
            self._add_share(label, name, share)

    def _add_share(self, label: str, name: str, share: tuple[int, int, int]) -> None:
        requests, tokens, cost_nano_usd = share
        self.increment(f"llm_proxy_{label}_requests_total", name, by=requests)
        self.increment(f"llm_proxy_{label}_tokens_total", name, by=tokens)
        self.increment(f"llm_proxy_{label}_cost_usd_total", name, by=cost_nano_usd / 1e9)

    def _series_of(self, key: tuple[object, ...], call: FinishedCall) -> "_CallSeries":
        model = call.group if call.group in self._models else OTHER
        provider, streamed = call.provider or OTHER, "yes" if call.streamed else "no"
        child, status = self._child, str(call.status)
        series = _CallSeries(
            child("llm_proxy_requests_total", call.door, model, provider, call.outcome, status),
            child("llm_proxy_cache_total", call.cache),
            child("llm_proxy_request_seconds", call.door, streamed),
            child("llm_proxy_ttft_seconds", call.door, streamed),
            child("llm_proxy_cost_usd_total", model, provider),
            child("llm_proxy_unpriced_total", model),
            tuple(child("llm_proxy_tokens_total", model, kind) for kind in _TOKEN_KINDS),
            tuple(child("llm_proxy_quantities_total", model, kind) for kind in _QUANTITY_KINDS)
            if call.door in OPAQUE_ENDPOINTS
            else (),
        )
        if len(self._of_calls) < 100 * MAX_VALUES:
            self._of_calls[key] = series
        return series

    def _child(self, name: str, *labels: str) -> Any:  # noqa: ANN401 -- a counter, gauge or histogram
        child = self._children.get((name, *labels))
        if child is None:
            metric, collector = METRICS[name], self._collectors[name]
            bounded = tuple(
                self._cap(name, label, value) for label, value in zip(metric.labels, labels, strict=True)
            )
            child = collector.labels(*bounded) if bounded else collector
            if bounded == labels:
                self._children[name, *labels] = child
        return child

    def _cap(self, name: str, label: str, value: str) -> str:
        seen = self._seen.setdefault((name, label), set())
        if value not in seen and len(seen) >= MAX_VALUES:
            return OTHER
        seen.add(value)
        return value


@dataclass(frozen=True, slots=True)
class _CallSeries:
    """The series of calls that have all labels in common."""

    requests: Counter
    cache: Counter
    seconds: BatchHistogram
    ttft: BatchHistogram
    cost: Counter
    unpriced: Counter
    tokens: tuple[Counter, ...]
    quantities: tuple[Counter, ...]

    def add(self, calls: Sequence[FinishedCall]) -> None:
        """Counts these calls."""
        self.requests.inc(len(calls))
        self.cache.inc(len(calls))
        self.seconds.observe_all([call.latency_ms / 1000 for call in calls])
        self.ttft.observe_all([call.ttft_ms / 1000 for call in calls if call.ttft_ms is not None])
        self.cost.inc(sum(call.cost_nano_usd or 0 for call in calls) / 1e9)
        self.unpriced.inc(sum(call.is_unpriced for call in calls))
        prompt, completion, cached, reasoning = self.tokens
        prompt.inc(sum(call.prompt_tokens or 0 for call in calls))
        completion.inc(sum(call.completion_tokens or 0 for call in calls))
        cached.inc(sum(call.cached_tokens or 0 for call in calls))
        reasoning.inc(sum(call.reasoning_tokens or 0 for call in calls))
        if self.quantities:
            for counter, amounts in zip(
                self.quantities, zip(*map(_quantities_of, calls), strict=True), strict=True
            ):
                counter.inc(sum(amounts))


def _quantities_of(call: FinishedCall) -> tuple[float, ...]:
    """Returns what a call used beside tokens, in the order of `_QUANTITY_KINDS`."""
    seconds = (call.audio_ms or 0) / 1000
    return call.images or 0, seconds, call.characters or 0, call.search_units or 0


def _collector(name: str, metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | BatchHistogram:
    if metric.kind == "counter":
        return Counter(name, metric.help, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(name, metric.help, metric.labels, multiprocess_mode=metric.mode, registry=registry)
    return BatchHistogram(name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
