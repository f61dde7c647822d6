"""`.env.example` says what the settings say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_env_example_is_what_the_settings_say() -> None:
    """After a changed setting: `python scripts/env_example.py > .env.example`."""
    made = subprocess.run(
        [sys.executable, "scripts/env_example.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == (ROOT / ".env.example").read_text()
