"""What a run's figures depend on: versions, machine, how busy it was."""

import base64
import hashlib
import ipaddress
import json
import os
import platform
import shlex
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from email.utils import formatdate
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

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
        "a piece of Python, us": forgetting(),
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


def forgetting() -> dict[str, float]:
    """How long one piece of Python takes, in microseconds: again and again, and after 15 ms of doing nothing.

    Where machines are shared or virtual, a processor that slept comes back with empty caches, and what a
    gateway adds to a call every few milliseconds is measured in that.
    """
    return {"again and again": _timed(lambda: None), "after 15 ms asleep": _timed(lambda: time.sleep(0.015))}


def _timed(before: Callable[[], None], times: int = 150) -> float:
    seen: list[float] = []
    for _ in range(times):
        before()
        began = time.perf_counter()
        _piece()
        seen.append((time.perf_counter() - began) * 1e6)
    return round(statistics.median(seen), 1)


def _piece() -> None:
    """Some of everything, as a call does: little work in many places."""
    json.dumps(json.loads('{"a": [1, 2, 3], "b": {"c": "x"}}'), indent=1)
    urlsplit("http://a.test/b?c=d")
    formatdate(0)
    hashlib.sha256(b"x").hexdigest()
    str(uuid.UUID(int=5))
    str(Decimal("1.5") * 2)
    ipaddress.ip_address("192.0.2.1")
    base64.b64encode(b"abc")
    shlex.split('a b "c d"')


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
