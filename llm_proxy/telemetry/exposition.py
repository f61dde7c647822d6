"""The numbers of every worker in one Prometheus page.

Invariants: counters and histograms of all seats are added, dead ones included, so that they never fall
while the seats' files live; a gauge counts where a worker heard of in the last seconds has set it; label
values are escaped. Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, 0.0.4)
"""

import contextlib
from collections.abc import Iterator
from math import isnan
from pathlib import Path

import orjson

from llm_proxy.telemetry.catalogue import METRICS, Metric
from llm_proxy.telemetry.cells import Cells, read
from llm_proxy.telemetry.seat import everyone

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FILE = "metrics"
_SILENT_S = 5.0
_LE = 'le="%s"'

Series = dict[tuple[str, ...], list[float]]


def page(seats: Path | None, own: Cells, now_s: float) -> str:
    """The page of all workers.

    Args:
        seats: The folder of the workers' seats; None when this worker counts in memory, alone.
        own: This worker's numbers, read from here when they are in no file.
        now_s: The present, on the clock of the heartbeats (seconds since 1970).
    """
    merged: dict[str, Series] = {name: {} for name in METRICS}
    if seats is None or own.in_memory:
        entries = [(key, list(own.values[place : place + size])) for key, place, size in own.entries()]
        _merge(merged, entries, alive=True)
    for heartbeat, entries in _read_all(seats):
        _merge(merged, entries, alive=now_s - heartbeat < _SILENT_S)
    return "".join(_render(name, METRICS[name], series) for name, series in merged.items())


def _read_all(seats: Path | None) -> Iterator[tuple[float, list[tuple[bytes, list[float]]]]]:
    for seat in everyone(seats) if seats else []:
        with contextlib.suppress(OSError):  # it has vanished, or holds no metrics yet
            yield read(seat / FILE)


def _merge(merged: dict[str, Series], entries: list[tuple[bytes, list[float]]], *, alive: bool) -> None:
    for key, numbers in entries:
        name, *labels = orjson.loads(key)
        metric = METRICS.get(name)
        if metric is None or len(labels) != len(metric.labels):
            continue
        if metric.kind == "gauge" and (not alive or isnan(numbers[0])):
            continue
        series = merged[name]
        known = series.get(tuple(labels))
        if known is None:
            series[tuple(labels)] = numbers
        elif metric.kind == "gauge" and metric.merge != "sum":
            series[tuple(labels)] = [
                max(known[0], numbers[0]) if metric.merge == "max" else min(known[0], numbers[0])
            ]
        else:
            series[tuple(labels)] = [old + new for old, new in zip(known, numbers, strict=True)]


def _render(name: str, metric: Metric, series: Series) -> str:
    lines = [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
    for labels, numbers in sorted(series.items()):
        pairs = [f'{label}="{_escape(value)}"' for label, value in zip(metric.labels, labels, strict=True)]
        if metric.kind == "histogram":
            lines += _histogram(name, metric, pairs, numbers)
        else:
            lines.append(f"{name}{_braces(pairs)} {_number(numbers[0] * metric.scale)}")
    return "\n".join(lines) + "\n"


def _histogram(name: str, metric: Metric, pairs: list[str], numbers: list[float]) -> list[str]:
    lines: list[str] = []
    seen = 0.0
    for bound, count in zip((*metric.buckets, float("inf")), numbers, strict=False):
        seen += count
        top = "+Inf" if bound == float("inf") else f"{bound:g}"
        lines.append(f"{name}_bucket{_braces([*pairs, _LE % top])} {_number(seen)}")
    return [
        *lines,
        f"{name}_sum{_braces(pairs)} {_number(numbers[-1])}",
        f"{name}_count{_braces(pairs)} {_number(seen)}",
    ]


def _braces(pairs: list[str]) -> str:
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(round(value, 12))


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
