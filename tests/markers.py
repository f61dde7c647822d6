"""Marks by which a part of the suite runs alone: `-m admission`, `-m fast`.

A test's place says what it is about: its folder in `unit`, the start of its file's name elsewhere. `fast` are
the tests that need neither LiteLLM nor Postgres nor Valkey.
"""

from pathlib import Path, PurePosixPath

import pytest

TESTS = Path(__file__).parent
STAGES = {
    "unit/": "shared",  # what several stages use
    "unit/admission/": "admission",
    "unit/dialects/": "dialects",
    "unit/edge/": "edge",
    "unit/identity/": "identity",
    "unit/ledger/": "ledger",
    "unit/sidecar/": "sidecar",
    "unit/stack/": "stack",
    "unit/telemetry/": "telemetry",
    "unit/upstream/": "upstream",
    "contract/": "dialects",
    "contract/test_deploy": "stack",
    "contract/test_litellm_": "sidecar",
    "stages/": "shared",
    "stages/admission/": "admission",
    "stages/edge/": "edge",
    "stages/identity/": "identity",
    "stages/ledger/": "ledger",
    "stages/sidecar/": "sidecar",
    "stages/stack/": "stack",
    "stages/telemetry/": "telemetry",
    "flow/": "flow",  # a whole stack
    "test_shape": "shape",
}
FAST = ("unit/", "stages/edge/", "contract/test_every_", "contract/test_generate_", "test_shape")
SERVICES = {"postgres_url", "limits_redis_url", "cache_redis_url", "all_providers", "sidecar", "stack_ports"}


def register(config: pytest.Config) -> None:
    """Make the marks known."""
    for stage in sorted({*STAGES.values()}):
        config.addinivalue_line("markers", f"{stage}: set by tests/markers.py from the file's place")
    config.addinivalue_line("markers", "fast: needs neither LiteLLM nor Postgres nor Valkey; set likewise")


def mark(item: pytest.Item) -> None:
    """Give a test the marks of its place."""
    place = PurePosixPath(item.path.relative_to(TESTS)).as_posix()
    longest = max((start for start in STAGES if place.startswith(start)), key=len)
    item.add_marker(STAGES[longest])
    fixtures: list[str] = getattr(item, "fixturenames", [])
    if place.startswith(FAST) and not SERVICES & set(fixtures):
        item.add_marker("fast")
