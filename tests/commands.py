"""A command of `llm-proxy`, run as a process of its own on a database."""

import os
import sys
import tempfile

from anyio import run_process


async def run(database_url: str, *words: str, code: int = 0, columns: int | None = None) -> str:
    """What a command prints, complaints too where it fails; `columns` is the terminal's width."""
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "LIMITS_REDIS_URL": "redis://127.0.0.1:1",
    }
    if columns is not None:
        env["COLUMNS"] = str(columns)
    command = [sys.executable, "-P", "-m", "llm_proxy", *words]
    done = await run_process(command, env=env, cwd=tempfile.gettempdir(), check=False)
    assert done.returncode == code, done.stderr.decode()
    return (done.stdout + (done.stderr if code else b"")).decode()
