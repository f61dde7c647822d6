"""Marks by which a part of the suite runs alone: `-m admission`, `-m fast`.

A test's folder says what it is about: `unit/PACKAGE` and `stages/PACKAGE` mirror `llm_proxy`, `flow` runs
whole stacks. `fast` are the tests that need neither LiteLLM nor Postgres nor Valkey.
"""

from pathlib import Path, PurePosixPath

import pytest

TESTS = Path(__file__).parent
SERVICES = {"postgres_url", "limits_redis_url", "cache_redis_url", "all_providers", "sidecar", "stack_ports"}
FAST = ("unit", "stages/edge", "test_shape")


def package_of(place: PurePosixPath) -> str:
    """The mark of a place below `tests`."""
    kind, *inner = place.parts
    if kind in ("unit", "stages"):
        return inner[0] if len(inner) > 1 else "shared"
    return "flow" if kind == "flow" else "shape"


def register(config: pytest.Config) -> None:
    """Make the marks known."""
    places = (path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
    for name in sorted({package_of(PurePosixPath(place.as_posix())) for place in places}):
        config.addinivalue_line("markers", f"{name}: set by tests/markers.py from the file's place")
    config.addinivalue_line("markers", "fast: needs neither LiteLLM nor Postgres nor Valkey; set likewise")


def mark(item: pytest.Item) -> None:
    """Give a test the marks of its place."""
    place = PurePosixPath(item.path.relative_to(TESTS).as_posix())
    item.add_marker(package_of(place))
    fixtures: list[str] = getattr(item, "fixturenames", [])
    if place.as_posix().startswith(FAST) and not SERVICES & set(fixtures):
        item.add_marker("fast")
