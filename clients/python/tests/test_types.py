"""What a user's type checker makes of the package as it is installed."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("typed_program.py")


def test_a_typed_program_passes_mypy_strict(tmp_path: Path) -> None:
    """With no configuration of ours; a call of the wrong type is found, at both faces."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from llm_proxy_service import LLMProxyService, SyncLLMProxyService\n"
        "LLMProxyService(cache_size='many')\nSyncLLMProxyService(cache_size='many')\n"
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", PROGRAM, wrong],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "MYPYPATH"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert checked.stdout.splitlines()[2:] == ["Found 2 errors in 1 file (checked 2 source files)"]
    assert checked.stdout.count("incompatible type") == 2
