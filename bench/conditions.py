"""What a run's figures depend on: versions, machine, how busy it was."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from bench.stand import load_average
from bench.subjects import OTHERS, ROOT


def now(rounds: int) -> dict[str, object]:
    """The facts, by what they are called on the page."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    names = ("uvicorn", "uvloop", "httptools", "hiredis", "asyncpg", "orjson", "aiohttp", "redis")
    litellm = ROOT / ".venv-sidecar" / "bin" / "python"
    return {
        "machine": f"{os.cpu_count()} cores, {model}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load average at the end": round(load_average(), 1),
        "rounds": rounds,
        "libraries": {name: version(name) for name in names},
        "LiteLLM": _said(
            str(litellm), "-c", "from importlib.metadata import version; print(version('litellm'))"
        ),
        "ferrogw": "1.5.10" if (OTHERS / "venv" / "bin" / "ferrogw").exists() else "not installed",
        "Portkey": _portkey(),
        "node": _said("node", "--version"),
        "nginx": _said("nginx", "-v").rpartition("/")[2],
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _said(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).strip()
    except OSError:
        return "not installed"


def _portkey() -> str:
    file = OTHERS / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
    line = next((one for one in _lines(str(file)) if '"version"' in one), "")
    return line.partition(":")[2].strip(' ",') or "not installed"
