"""Gauges that one worker reads for all, and that are absent while they are unknown.

Invariants: a source's readings replace all its earlier ones; readings that are not renewed for
`STALE_AFTER_S` are absent. prometheus_client cannot remove a series that several workers share: the readings
of several workers lie in a file of their own in the metrics' folder, which every worker's page shows.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from llm_proxy.telemetry.metric_table import METRICS

STALE_AFTER_S = 150.0


class Reading(NamedTuple):
    """The value of one series.

    Attributes:
        labels: In the order of the metric's line in `METRICS`.
    """

    name: str
    labels: tuple[str, ...]
    value: float


class Readings:
    """The readings of all sources."""

    def __init__(self, directory: Path | None, clock_s: Callable[[], float] = time.time) -> None:
        """Keeps them in memory, or in a file in `directory` for the pages of all workers."""
        self._clock_s = clock_s
        self._file = None if directory is None else directory / "readings.json"
        self._sources: dict[str, tuple[float, list[Reading]]] = {}

    def replace(self, source: str, readings: Iterable[Reading]) -> None:
        """Sets all readings of a source; none of its earlier ones stays."""
        self._sources[source] = self._clock_s(), list(readings)
        if self._file is not None:
            written = self._file.with_suffix(".new")
            written.write_text(json.dumps(self._sources), encoding="utf-8")
            written.replace(self._file)

    def render(self) -> bytes:
        """Returns the page's part; empty without readings."""
        registry = CollectorRegistry()
        registry.register(_ReadingsPage(self._fresh()))
        return generate_latest(registry)

    def _fresh(self) -> list[Reading]:
        sources = self._sources
        if self._file is not None:
            try:
                sources = json.loads(self._file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return []
        after_s = self._clock_s() - STALE_AFTER_S
        fresh = (readings for read_at, readings in sources.values() if read_at > after_s)
        return [Reading(name, tuple(labels), value) for readings in fresh for name, labels, value in readings]


class _ReadingsPage(Collector):
    """Renders readings as gauges."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields each metric that has readings."""
        families: dict[str, GaugeMetricFamily] = {}
        for name, labels, value in self._readings:
            if name not in families:
                metric = METRICS[name]
                families[name] = GaugeMetricFamily(name, metric.help, labels=metric.labels)
            families[name].add_metric(labels, value)
        yield from families.values()
