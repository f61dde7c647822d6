"""The limits that a process sets itself."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from llm_proxy.hardening import raise_files_limit
raise_files_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "after"), [(64, 512, "512 512"), (512, 512, "512 512")])
def test_as_many_files_may_be_open_as_the_system_allows(soft: int, hard: int, after: str) -> None:
    """The hard limit stays."""
    words = f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$0" -c "$1"'
    done = subprocess.run(
        ["/bin/bash", "-c", words, sys.executable, PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == after
