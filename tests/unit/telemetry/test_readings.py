"""Readings: gauges of one worker on the pages of all, absent while they are unknown."""

from pathlib import Path

import pytest
from prometheus_page import series, value

from llm_proxy.telemetry import Metrics, WorkerMetricsFiles
from llm_proxy.telemetry.readings import STALE_AFTER_S, Reading, Readings

MAX_BYTES = "llm_proxy_redis_max_bytes"
BACKUP = "llm_proxy_last_backup_timestamp_seconds"


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_source_replaces_all_its_readings(tmp_path: Path, *, is_shared: bool) -> None:
    """What it no longer says is absent, what another says stays."""
    readings = Readings(tmp_path if is_shared else None)
    assert readings.render() == b""
    readings.replace("limits", [Reading(MAX_BYTES, ("limits",), 2.0**40), Reading(BACKUP, (), 1.7e9 + 0.5)])
    readings.replace("cache", [Reading(MAX_BYTES, ("cache",), 7)])
    assert value(readings.render(), MAX_BYTES, store="limits") == 2.0**40
    assert value(readings.render(), BACKUP) == 1.7e9 + 0.5
    readings.replace("limits", [])
    assert series(readings.render(), MAX_BYTES) == {frozenset({("store", "cache")}): 7}
    assert BACKUP.encode() not in readings.render()


@pytest.mark.parametrize("is_shared", [False, True])
def test_readings_that_are_not_renewed_are_absent(tmp_path: Path, *, is_shared: bool) -> None:
    """No worker reads any more: the last value is no present one."""
    now_s = [1000.0]
    readings = Readings(tmp_path if is_shared else None, lambda: now_s[0])
    readings.replace("limits", [Reading(MAX_BYTES, ("limits",), 5)])
    now_s[0] += STALE_AFTER_S - 1
    assert value(readings.render(), MAX_BYTES, store="limits") == 5
    now_s[0] += 2
    assert readings.render() == b""


def test_every_worker_shows_what_the_first_has_read(tmp_path: Path) -> None:
    """Its successor goes on; no other worker reads."""
    first = Metrics((), WorkerMetricsFiles(tmp_path, 0))
    other = Metrics((), WorkerMetricsFiles(tmp_path, 1))
    assert (first.reads_for_all, other.reads_for_all) == (True, False)
    first.set_readings("limits", [Reading(MAX_BYTES, ("limits",), 5)])
    assert value(other.render(), MAX_BYTES, store="limits") == 5
    (tmp_path / "readings.json").write_text("{broken")
    assert MAX_BYTES.encode() not in other.render()
    assert b"llm_proxy_workers" in other.render()
    assert Metrics().reads_for_all
