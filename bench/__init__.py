"""Measurements beside the product; they share the tests' harness, which is found here."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
