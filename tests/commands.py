"""A command of `llm-proxy`, run as a process of its own on a database."""

import os
import sys
import tempfile

from anyio import run_process


async def run(database_url: str, *words: str, code: int = 0, columns: int | None = None, **more: str) -> str:
    """What a command prints, complaints too where it fails.

    Args:
        database_url: Its database.
        words: What stands behind `llm-proxy`.
        code: The exit code it ends with.
        columns: The terminal's width.
        more: Of its environment.
    """
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "LIMITS_REDIS_URL": "redis://127.0.0.1:1",
    }
    env |= more
    if columns is not None:
        env["COLUMNS"] = str(columns)
    command = [sys.executable, "-P", "-m", "llm_proxy", *words]
    done = await run_process(command, env=env, cwd=tempfile.gettempdir(), check=False)
    assert done.returncode == code, done.stderr.decode()
    return (done.stdout + (done.stderr if code else b"")).decode()
