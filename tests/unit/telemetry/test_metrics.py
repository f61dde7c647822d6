"""Metrics: labels are bounded, several workers share one page, counters survive a worker."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_page import series, value
from usage_records import record

from llm_proxy.telemetry import Metrics, WorkerMetricsFiles
from llm_proxy.telemetry.metric_table import METRICS
from llm_proxy.telemetry.metrics import ABANDONED_AFTER_S, MAX_COLLECTED, metrics_directory

CALL = {"door": "chat.completions", "streamed": "no"}


def counting() -> Metrics:
    """Returns metrics with a model and an agent."""
    metrics = Metrics()
    metrics.set_models(["gpt-4o-mini"])
    metrics.set_agents(["agent:sofia"])
    return metrics


def page(metrics: Metrics) -> bytes:
    """Returns the page that a scrape gets."""
    metrics.collect()
    return metrics.render()


def in_worker(directory: Path, number: int, work: Callable[[Metrics], None]) -> bytes:
    """Runs `work` in a process of its own as one of several workers; returns the page it renders then."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            metrics = Metrics((), WorkerMetricsFiles(directory, number))
            work(metrics)
            os.write(write, page(metrics))
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        seen = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return seen


def test_finished_call_is_counted_with_its_labels() -> None:
    """In calls, tokens, cost, latency, and its agent's series."""
    metrics = counting()
    metrics.call_started()
    metrics.call_finished(record(cost_nano_usd=1_500_000_000, latency_ms=300.0, ttft_ms=20.0))
    text = page(metrics)
    kind = {"door": "chat.completions", "model": "gpt-4o-mini", "provider": "openai"}
    assert value(text, "llm_proxy_requests_total", **kind, outcome="ok", status="200") == 1
    assert value(text, "llm_proxy_cost_usd_total", model="gpt-4o-mini", provider="openai") == 1.5
    assert value(text, "llm_proxy_tokens_total", model="gpt-4o-mini", kind="completion") == 34
    assert value(text, "llm_proxy_agent_tokens_total", agent="agent:sofia") == 46
    assert value(text, "llm_proxy_request_seconds_bucket", **CALL, le="0.25") == 0
    assert value(text, "llm_proxy_request_seconds_bucket", **CALL, le="0.5") == 1
    assert value(text, "llm_proxy_request_seconds_bucket", **CALL, le="+Inf") == 1
    assert value(text, "llm_proxy_request_seconds_count", **CALL) == 1
    assert value(text, "llm_proxy_request_seconds_sum", **CALL) == pytest.approx(0.3)
    assert value(text, "llm_proxy_in_flight") == 0


def test_batch_counts_like_single_calls() -> None:
    """In every series, for mixed calls; a time equal to a bucket's bound is in that bucket."""
    calls = [
        record(
            latency_ms=latency_ms,
            ttft_ms=None if number % 3 else latency_ms / 2,
            outcome="ok" if number % 2 else "cut",
            cost_nano_usd=None if number % 4 else number,
        )
        for number, latency_ms in enumerate((0.0, 5.0, 5.1, 10.0, 250.0, 250.1, 700_000.0) * 3)
    ]
    together, alone = counting(), counting()
    for call in calls:
        together.call_finished(call)
        alone.call_finished(call)
        alone.collect()
    whole, added = page(together), page(alone)
    for name, metric in METRICS.items():
        names = (name,) if metric.kind != "histogram" else (f"{name}_bucket", f"{name}_sum", f"{name}_count")
        for one in names:
            assert series(whole, one) == pytest.approx(series(added, one)), one
    assert value(whole, "llm_proxy_request_seconds_bucket", **CALL, le="0.005") == 6


def test_observed_times_are_counted_with_the_batch() -> None:
    """With labels and without; rendering adds no series."""
    metrics = Metrics()
    for seconds in (0.0004, 0.3, 9.0):
        metrics.observe("llm_proxy_store_seconds", seconds, "limits")
        metrics.observe("llm_proxy_ledger_write_seconds", seconds)
    text = page(metrics)
    assert value(text, "llm_proxy_store_seconds_bucket", store="limits", le="0.0005") == 1
    assert value(text, "llm_proxy_store_seconds_count", store="limits") == 3
    assert value(text, "llm_proxy_ledger_write_seconds_sum") == pytest.approx(9.3004)
    assert page(metrics) == text


def test_collected_calls_are_counted_at_the_maximum() -> None:
    """Without a call of `collect`."""
    metrics = counting()
    for _ in range(MAX_COLLECTED):
        metrics.call_finished(record())
    assert sum(series(metrics.render(), "llm_proxy_requests_total").values()) == MAX_COLLECTED


def test_only_configured_tags_are_counted() -> None:
    """A call counts for each of its tags; other tags have no series."""
    metrics = Metrics(["prod", "nightly"])
    for tags in (None, "prod,x", "nightly,prod", "x"):
        metrics.call_finished(record(tags=tags))
    text = page(metrics)
    assert value(text, "llm_proxy_tag_requests_total", tag="prod") == 2
    assert value(text, "llm_proxy_tag_tokens_total", tag="nightly") == 46
    assert b'tag="x"' not in text


def test_unknown_cost_is_counted_as_unpriced() -> None:
    """A known cost of 0 is counted as 0."""
    metrics = counting()
    metrics.call_finished(record(cost_nano_usd=None))
    metrics.call_finished(record(cost_nano_usd=0))
    text = page(metrics)
    assert value(text, "llm_proxy_unpriced_total", model="gpt-4o-mini") == 1
    assert value(text, "llm_proxy_cost_usd_total", model="gpt-4o-mini", provider="openai") == 0


def test_failed_call_without_tokens_is_not_unpriced() -> None:
    """A truncated call with tokens is."""
    metrics = counting()
    unused = record(cost_nano_usd=None, outcome="error", prompt_tokens=None, completion_tokens=None)
    metrics.call_finished(unused)
    metrics.call_finished(unused._replace(prompt_tokens=0, completion_tokens=0))
    assert value(page(metrics), "llm_proxy_unpriced_total", model="gpt-4o-mini") == 0
    metrics.call_finished(unused._replace(outcome="cut", prompt_tokens=7))
    assert value(page(metrics), "llm_proxy_unpriced_total", model="gpt-4o-mini") == 1


def test_quantities_are_counted_where_an_endpoint_has_them() -> None:
    """And make a call of unknown cost an unpriced one."""
    metrics = counting()
    spoken = record(
        door="audio.speech", prompt_tokens=0, completion_tokens=0, characters=30, audio_ms=1500,
        cost_nano_usd=None, outcome="cut",
    )  # fmt: skip
    metrics.call_finished(spoken)
    metrics.call_finished(spoken._replace(characters=None, audio_ms=None, images=2, search_units=1))
    text = page(metrics)
    counted = {"images": 2, "audio_seconds": 1.5, "characters": 30, "search_units": 1}
    for kind, amount in counted.items():
        assert value(text, "llm_proxy_quantities_total", model="gpt-4o-mini", kind=kind) == amount
    assert value(text, "llm_proxy_unpriced_total", model="gpt-4o-mini") == 2


def test_chats_have_no_series_of_quantities() -> None:
    """Each series costs every scrape."""
    metrics = counting()
    metrics.call_finished(record())
    assert b"llm_proxy_quantities_total{" not in page(metrics)


def test_shadow_mode_rejections_are_counted_by_scope_and_kind() -> None:
    """For every limit that would have rejected the call."""
    metrics = counting()
    metrics.call_finished(record(would_refuse="key:requests,tenant:budget"))
    text = page(metrics)
    assert value(text, "llm_proxy_would_refuse_total", scope="key", kind="requests") == 1
    assert value(text, "llm_proxy_would_refuse_total", scope="tenant", kind="budget") == 1


def test_number_of_series_is_bounded() -> None:
    """A thousand unknown models, agents and codes are counted as `other`."""
    metrics = counting()
    for number in range(1000):
        metrics.call_finished(record(group=f"m{number}", agent=f"a{number}", provider=f"p{number}"))
        metrics.request_rejected(f"code{number}")
    text = page(metrics)
    assert b'model="m1"' not in text
    assert b'agent="a1"' not in text
    assert len(series(text, "llm_proxy_refusals_total")) <= 201
    assert len(series(text, "llm_proxy_requests_total")) <= 201
    assert value(text, "llm_proxy_refusals_total", code="other") == 800


def test_created_series_are_off() -> None:
    """`_created` series would double the size of the page."""
    metrics = counting()
    metrics.call_finished(record())
    assert b"_created" not in page(metrics)


def test_label_values_are_escaped() -> None:
    """Quotes, backslashes and line breaks."""
    metrics = Metrics()
    metrics.set_agents(['a"b\\c\nd'])
    metrics.call_finished(record(agent='a"b\\c\nd'))
    assert rb'llm_proxy_agent_requests_total{agent="a\"b\\c\nd"} 1' in page(metrics)
    assert value(page(metrics), "llm_proxy_agent_requests_total", agent='a"b\\c\nd') == 1


def test_workers_are_added_up_and_dead_workers_keep_their_counters(tmp_path: Path) -> None:
    """Gauges are those of living workers only."""

    def work(metrics: Metrics) -> None:
        metrics.call_started()
        metrics.call_started()
        metrics.call_finished(record())
        metrics.request_rejected("overloaded")

    in_worker(tmp_path, 0, work)
    text = in_worker(tmp_path, 1, work)
    assert value(text, "llm_proxy_refusals_total", code="overloaded") == 2
    assert sum(series(text, "llm_proxy_requests_total").values()) == 2
    assert sum(series(text, "llm_proxy_request_seconds_count").values()) == 2
    assert value(text, "llm_proxy_in_flight") == 2
    assert value(text, "llm_proxy_workers") == 2
    WorkerMetricsFiles(tmp_path, 0).drop_gauges()
    text = in_worker(tmp_path, 2, lambda _: None)
    assert value(text, "llm_proxy_refusals_total", code="overloaded") == 2
    assert value(text, "llm_proxy_in_flight") == 1
    assert value(text, "llm_proxy_workers") == 2


def test_successor_of_a_dead_worker_continues_its_counters(tmp_path: Path) -> None:
    """Counters do not fall; the dead worker's gauges are gone."""

    def die(metrics: Metrics) -> None:
        metrics.call_started()
        metrics.request_rejected("overloaded")
        metrics.set_gauge("llm_proxy_store_up", 1, "postgres")
        metrics.set_gauge("llm_proxy_sidecars", 2, "live")

    def begin(metrics: Metrics) -> None:
        metrics.request_rejected("overloaded")
        metrics.set_gauge("llm_proxy_sidecars", 3, "live")

    in_worker(tmp_path, 0, die)
    WorkerMetricsFiles(tmp_path, 0).drop_gauges()
    text = in_worker(tmp_path, 0, begin)
    assert value(text, "llm_proxy_refusals_total", code="overloaded") == 2
    assert value(text, "llm_proxy_in_flight") == 0
    assert value(text, "llm_proxy_sidecars", state="live") == 3
    assert series(text, "llm_proxy_store_up") == {}


def test_gauges_of_workers_are_combined_by_their_mode(tmp_path: Path) -> None:
    """`livemin` and `livemax`; samplers set gauges."""

    def see_it_away(metrics: Metrics) -> None:
        metrics.set_gauge("llm_proxy_store_up", 0, "postgres")
        metrics.set_gauge("llm_proxy_sidecars", 1, "live")

    def see_it_up(metrics: Metrics) -> None:
        metrics.add_sampler(lambda: metrics.set_gauge("llm_proxy_store_up", 1, "postgres"))
        metrics.run_samplers()
        metrics.set_gauge("llm_proxy_sidecars", 2, "live")

    in_worker(tmp_path, 0, see_it_away)
    text = in_worker(tmp_path, 1, see_it_up)
    assert value(text, "llm_proxy_store_up", store="postgres") == 0
    assert value(text, "llm_proxy_sidecars", state="live") == 2
    assert sum(series(text, "llm_proxy_build_info").values()) == 1


def test_folders_of_killed_gateways_are_removed(tmp_path: Path) -> None:
    """A folder in use, and a new one, stay."""
    killed, new = tmp_path / "llm-proxy-metrics-killed", tmp_path / "llm-proxy-metrics-new"
    for folder in (killed, new):
        folder.mkdir()
        (folder / "counter_0.db").write_bytes(b"1")
    old = time.time() - ABANDONED_AFTER_S - 1
    with metrics_directory(tmp_path) as used:
        (used / "counter_0.db").write_bytes(b"1")
        for folder in (killed, used):
            os.utime(folder, (old, old))
        with metrics_directory(tmp_path) as own:
            assert {*tmp_path.iterdir()} == {new, used, own}
        assert {*tmp_path.iterdir()} == {new, used}
    assert [*tmp_path.iterdir()] == [new]
