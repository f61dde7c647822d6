"""Counting: bounded labels, several workers on one page, nothing lost with a worker."""

from pathlib import Path

import pytest
from usage_records import record

from llm_proxy.telemetry import Metrics
from llm_proxy.telemetry.cells import Cells, read
from llm_proxy.telemetry.exposition import FILE, page
from llm_proxy.telemetry.seat import abandoned, take

NOW_S = 1_000_000.0


def worker(directory: Path) -> Metrics:
    """A worker's metrics in a seat of its own."""
    metrics = Metrics(Cells(take(directory).path / FILE))
    metrics.know_models(["gpt-4o-mini"])
    metrics.know_agents(["agent:sofia"])
    metrics.beat(NOW_S)
    return metrics


def value(text: str, series: str) -> float:
    """The value of one series on a page."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


def test_a_finished_call_is_counted_by_what_it_was(tmp_path: Path) -> None:
    """Calls, tokens, cost, latency, its agent's share."""
    metrics = worker(tmp_path)
    metrics.opened()
    metrics.finished(record(cost_nano_usd=1_500_000_000, latency_ms=300.0, ttft_ms=20.0))
    text = page(tmp_path, metrics.cells, NOW_S)
    labels = 'door="chat.completions",model="gpt-4o-mini",provider="openai",outcome="ok",status="200"'
    assert value(text, f"llm_proxy_requests_total{{{labels}}}") == 1
    assert value(text, 'llm_proxy_cost_usd_total{model="gpt-4o-mini",provider="openai"}') == 1.5
    assert value(text, 'llm_proxy_tokens_total{model="gpt-4o-mini",kind="completion"}') == 34
    assert value(text, 'llm_proxy_agent_tokens_total{agent="agent:sofia"}') == 46
    of = 'door="chat.completions",streamed="no"'
    assert value(text, f'llm_proxy_request_seconds_bucket{{{of},le="0.25"}}') == 0
    assert value(text, f'llm_proxy_request_seconds_bucket{{{of},le="0.5"}}') == 1
    assert value(text, f'llm_proxy_request_seconds_bucket{{{of},le="+Inf"}}') == 1
    assert value(text, f"llm_proxy_request_seconds_sum{{{of}}}") == pytest.approx(0.3)
    assert value(text, "llm_proxy_in_flight") == 0


def test_tags_are_counted_only_where_somebody_chose_them() -> None:
    """A call with several counts for each; one that is not chosen has no series."""
    metrics = Metrics(None, ["prod", "nightly"])
    for tags in (None, "prod,x", "nightly,prod", "x"):
        metrics.finished(record(tags=tags), was_open=False)
    text = page(None, metrics.cells, NOW_S)
    assert value(text, 'llm_proxy_tag_requests_total{tag="prod"}') == 2
    assert value(text, 'llm_proxy_tag_tokens_total{tag="nightly"}') == 46
    assert 'tag="x"' not in text


def test_an_unknown_price_is_counted_as_unpriced_not_as_nothing(tmp_path: Path) -> None:
    """And a known price of 0 as a cost of 0."""
    metrics = worker(tmp_path)
    metrics.finished(record(cost_nano_usd=None), was_open=False)
    metrics.finished(record(cost_nano_usd=0), was_open=False)
    text = page(tmp_path, metrics.cells, NOW_S)
    assert value(text, 'llm_proxy_unpriced_total{model="gpt-4o-mini"}') == 1
    assert value(text, 'llm_proxy_cost_usd_total{model="gpt-4o-mini",provider="openai"}') == 0


def test_a_call_that_failed_and_used_nothing_is_not_unpriced(tmp_path: Path) -> None:
    """One that broke off after tokens is: somebody has to pay them."""
    metrics = worker(tmp_path)
    unused = record(cost_nano_usd=None, outcome="error", prompt_tokens=None, completion_tokens=None)
    metrics.finished(unused, was_open=False)
    metrics.finished(unused._replace(prompt_tokens=0, completion_tokens=0), was_open=False)
    text = page(tmp_path, metrics.cells, NOW_S)
    assert value(text, 'llm_proxy_unpriced_total{model="gpt-4o-mini"}') == 0
    metrics.finished(unused._replace(outcome="cut", prompt_tokens=7), was_open=False)
    text = page(tmp_path, metrics.cells, NOW_S)
    assert value(text, 'llm_proxy_unpriced_total{model="gpt-4o-mini"}') == 1


def test_a_gauge_is_gone_until_the_next_owner_sets_it(tmp_path: Path) -> None:
    """A store, a version or a state that only the last owner knew leaves no series behind."""
    former = worker(tmp_path)
    former.gauge("llm_proxy_store_up", 1, "postgres")
    former.gauge("llm_proxy_sidecars", 2, "live")
    former.close()
    metrics = Metrics(Cells(tmp_path / "worker-0" / FILE))
    metrics.gauge("llm_proxy_sidecars", 3, "live")
    metrics.beat(NOW_S)
    text = page(tmp_path, metrics.cells, NOW_S)
    assert "llm_proxy_store_up{" not in text
    assert value(text, 'llm_proxy_sidecars{state="live"}') == 3
    assert value(text, "llm_proxy_in_flight") == 0
    metrics.opened()
    assert value(page(tmp_path, metrics.cells, NOW_S), "llm_proxy_in_flight") == 1


def test_callers_cannot_make_series(tmp_path: Path) -> None:
    """A thousand invented models, agents and codes leave a bounded page."""
    metrics = worker(tmp_path)
    for number in range(1000):
        metrics.finished(
            record(group=f"m{number}", agent=f"a{number}", provider=f"p{number}"), was_open=False
        )
        metrics.refused(f"code{number}")
    text = page(tmp_path, metrics.cells, NOW_S)
    assert 'model="m1"' not in text
    assert 'agent="a1"' not in text
    assert text.count("llm_proxy_refusals_total{") <= 201
    assert text.count("llm_proxy_requests_total{") <= 201
    assert value(text, 'llm_proxy_refusals_total{code="other"}') == 800


def test_workers_are_added_and_the_dead_are_not_forgotten(tmp_path: Path) -> None:
    """Counters of all seats; gauges of the living only."""
    one, other = worker(tmp_path), worker(tmp_path)
    for metrics in (one, other):
        metrics.opened()
        metrics.refused("overloaded")
    other.cells.beat(NOW_S - 60)
    text = page(tmp_path, one.cells, NOW_S)
    assert value(text, 'llm_proxy_refusals_total{code="overloaded"}') == 2
    assert value(text, "llm_proxy_in_flight") == 1
    assert value(text, "llm_proxy_workers") == 1


def test_the_seats_next_owner_counts_on(tmp_path: Path) -> None:
    """A restarted worker's counters do not fall; what it had in flight is gone."""
    seat = take(tmp_path)
    first = Metrics(Cells(seat.path / FILE))
    first.opened()
    first.refused("overloaded")
    seat.release()
    again = take(tmp_path)
    assert again.path == seat.path
    second = Metrics(Cells(again.path / FILE))
    second.refused("overloaded")
    second.beat(NOW_S)
    text = page(tmp_path, second.cells, NOW_S)
    assert value(text, 'llm_proxy_refusals_total{code="overloaded"}') == 2
    assert value(text, "llm_proxy_in_flight") == 0


def test_gauges_of_several_workers_make_the_right_one(tmp_path: Path) -> None:
    """A store is up when every worker says so; sampling happens at the beat."""
    one, other = worker(tmp_path), worker(tmp_path)
    one.sample(lambda: one.gauge("llm_proxy_store_up", 1, "postgres"))
    other.gauge("llm_proxy_store_up", 0, "postgres")
    one.beat(NOW_S)
    assert value(page(tmp_path, one.cells, NOW_S), 'llm_proxy_store_up{store="postgres"}') == 0


def test_label_values_are_escaped() -> None:
    """A quote or a line break in a name breaks no page."""
    metrics = Metrics()
    metrics.know_agents(['a"b\\c\nd'])
    metrics.finished(record(agent='a"b\\c\nd'), was_open=False)
    assert r'llm_proxy_agent_requests_total{agent="a\"b\\c\nd"} 1' in page(None, metrics.cells, NOW_S)


def test_a_full_file_loses_counts_not_the_process(tmp_path: Path) -> None:
    """What finds no room is counted nowhere."""
    cells = Cells(tmp_path / "metrics")
    places = {cells.place(b"%d" % number, 1000) for number in range(300)}
    for place in places:
        cells.values[place] += 1
    assert len(read(tmp_path / "metrics")[1]) < 300
    assert Cells(tmp_path / "metrics").place(b"0", 1000) in places


def test_a_foreign_file_counts_nothing(tmp_path: Path) -> None:
    """A seat's file half-made or damaged."""
    (tmp_path / "worker-7").mkdir()
    (tmp_path / "worker-7" / FILE).write_bytes(b"not ours")
    assert "llm_proxy_in_flight 1" not in page(tmp_path, Cells(), NOW_S)


def test_a_seat_is_free_when_its_owner_is_gone(tmp_path: Path) -> None:
    """Two living workers never share one."""
    first, second = take(tmp_path), take(tmp_path)
    assert first.path != second.path
    assert list(abandoned(tmp_path)) == []
    first.release()
    (found,) = abandoned(tmp_path)
    assert found.path == first.path
    found.release()
    second.release()
