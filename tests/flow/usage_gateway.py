"""A gateway with two workers and a database of its own, for tests of usage."""

import asyncio
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import asyncpg
import httpx
import waiting
from running_stack import MASTER_KEY, say

from llm_proxy.cli import main
from llm_proxy.stack import probe
from llm_proxy.stack.probe import is_up

KEY, ADMIN_KEY = "usage-key-0123456789abcdef", "usage-admin-0123456789abcdef"
INTERNAL, ADMIN = {"X-Internal-Secret": KEY}, {"Authorization": f"Bearer {ADMIN_KEY}"}

Json = dict[str, Any]
until = partial(waiting.until, patience_s=15)


class Gateway:
    """A gateway of two workers before the stack's sidecar, on a database of its own."""

    def __init__(self, folder: Path, database_url: str, limits_url: str, sidecar_port: int) -> None:
        self._folder = folder
        self._port = probe.free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "LLM_PROXY__ENVIRONMENT": "development",
            "LLM_PROXY__LITELLM_PROXY_URL": f"http://127.0.0.1:{sidecar_port}",
            "LITELLM_MASTER_KEY": MASTER_KEY,
            "LLM_PROXY__INTERNAL_API_KEY": KEY,
            "LLM_PROXY__ADMIN_KEY": ADMIN_KEY,
            "LLM_PROXY__SPOOL_DIR": str(folder / "spool"),
            "LLM_PROXY__AGENT_RPM": "30",
            "LLM_PROXY__DRAIN_DELAY_S": "0",
            "DATABASE_URL": database_url,
            "LIMITS_REDIS_URL": limits_url,
        }

    @contextmanager
    def running(self) -> Generator["subprocess.Popen[bytes]"]:
        """Its process, while it listens."""
        argv = [sys.executable, "-m", "llm_proxy", "serve", "--port", str(self._port), "--workers", "2"]
        with (self._folder / "gateway.log").open("ab") as log:
            process = subprocess.Popen(argv, env=self.environment, cwd=self._folder, stdout=log, stderr=log)
        try:
            until(lambda: is_up(self._port, "/health/ready"))
            yield process
        finally:
            process.terminate()
            process.wait(20)

    def chat(
        self,
        model: str = "plain",
        *,
        key: str = KEY,
        agent: str | None = None,
        text: str | None = None,
        headers: Json | None = None,
        **fields: Any,
    ) -> str:
        """One call; returns its request id."""
        body = {"model": model, "messages": say(text or uuid4().hex), **fields}
        headers = {"Authorization": f"Bearer {key}", **(headers or {})}
        headers |= {"x-agent-id": agent} if agent else {}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=20)
        request_id: str = answer.headers["x-request-id"]
        return request_id

    def asked(self, path: str, headers: Json, **parameters: str) -> httpx.Response:
        """Returns the answer of a management route."""
        return httpx.get(f"{self.url}{path}", headers=headers, params=parameters, timeout=20)

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """What `llm-proxy ...` says; run here, as a process of its own would cost a second each."""
        out, err, code = io.StringIO(newline=None), io.StringIO(newline=None), 0
        argv = ["llm-proxy", *arguments]
        with (
            patch.dict(os.environ, self.environment | {"COLUMNS": "200"}, clear=True),
            patch.object(sys, "argv", argv),
            contextlib.chdir(self._folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def made(folder: Path, postgres_url: str, limits_url: str, sidecar_port: int) -> Gateway:
    """A gateway to start."""
    name = f"usage_{uuid4().hex}"
    asyncio.run(create(postgres_url, name))
    url = f"{postgres_url.rpartition('/')[0]}/{name}"
    return Gateway(folder, url, limits_url, sidecar_port)


async def create(postgres_url: str, name: str) -> None:
    """An empty database; it goes with the server."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()


def total(gateway: Gateway, headers: Json = ADMIN, **parameters: str) -> Json:
    """The sums of `/v1/usage`."""
    reported: Json = gateway.asked("/v1/usage", headers, **parameters).json()["total"]
    return reported


def recorded(gateway: Gateway, request_id: str) -> bool:
    """Whether its record is in the database."""
    return gateway.asked(f"/v1/requests/{request_id}", ADMIN).status_code == 200
