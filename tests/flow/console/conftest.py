"""The console before the flow's stack."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_console import ConsoleProcess, RunningConsole, serve_console
from running_stack import RunningStack


@pytest.fixture(scope="session")
def console_process(
    service_folder: Path, postgres_url: str, stack_ports: dict[str, int]
) -> Iterator[ConsoleProcess]:
    """The console's process; a test may come from any address, by `X-Forwarded-For`."""
    gateway, trusted = (
        f"http://127.0.0.1:{stack_ports['gateway']}",
        {"LLM_PROXY__TRUSTED_PROXIES": "127.0.0.1"},
    )
    with serve_console(service_folder, postgres_url, gateway, trusted) as served:
        yield served


@pytest.fixture
def console(console_process: ConsoleProcess, stack: RunningStack) -> RunningConsole:
    """The running console."""
    return RunningConsole(console_process, stack)
