"""`RunningConsole`, which tests of the console hold: its address, and browsers that are signed in."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from loopback import NO_TLS
from running_stack import ADMIN_KEY, Json, RunningStack
from stack_processes import gateway_spec

from llm_proxy.stack import process
from llm_proxy.stack.probe import free_port, is_up

TOKEN = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@dataclass(frozen=True, slots=True)
class ConsoleProcess:
    """A running console."""

    port: int
    managed: process.ManagedProcess
    environment: Mapping[str, str]
    folder: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serve_console(
    folder: Path,
    database_url: str,
    gateway_url: str,
    settings: Mapping[str, str] | None = None,
    options: tuple[str, ...] = (),
) -> Generator[ConsoleProcess]:
    """A console before a gateway, on the gateway's database; `settings` come on top."""
    port = free_port()
    usual = {
        "DATABASE_URL": database_url,
        "LLM_PROXY__CONSOLE_GATEWAY_URL": gateway_url,
        "LLM_PROXY__CONSOLE_PORT": str(port),
    }
    spec = gateway_spec(port, folder, ["http://127.0.0.1:9"], usual | dict(settings or {}))

    def is_ready(_: int) -> bool:
        return is_up(port, "/health")

    argv = (*spec.argv[:3], "console", *options)
    spec = replace(spec, name=f"console-{port}", argv=argv, readiness_probe=is_ready)
    started = process.start(spec, folder / "logs")
    try:
        process.wait_until_ready([started])
        yield ConsoleProcess(port, started, spec.env, folder)
    finally:
        process.stop([started])


@dataclass(frozen=True, slots=True)
class RunningConsole:
    """A running console and the stack behind it."""

    process: ConsoleProcess
    stack: RunningStack

    @property
    def url(self) -> str:
        """Its address."""
        return self.process.url

    @asynccontextmanager
    async def stranger(self) -> AsyncGenerator[httpx.AsyncClient]:
        """A browser that is not signed in; it follows no redirect."""
        async with httpx.AsyncClient(base_url=self.url, verify=NO_TLS, timeout=20) as client:
            yield client

    @asynccontextmanager
    async def signed_in(self, key: str = ADMIN_KEY) -> AsyncGenerator[httpx.AsyncClient]:
        """A browser that is signed in with a key, by default as owner; it follows no redirect."""
        async with self.stranger() as client:
            answer = await client.post("/sign-in", data={"key": key})
            assert answer.status_code == 303, answer.text
            yield client

    @asynccontextmanager
    async def admin(self, role: str, tenant: str | None = None) -> AsyncGenerator[httpx.AsyncClient]:
        """A browser that is signed in with a new admin key of a role."""
        async with self.signed_in(await self.new_admin_key(role, tenant)) as client:
            yield client

    async def new_admin_key(self, role: str, tenant: str | None = None, **spec: object) -> str:
        """Returns a new admin key."""
        body = {"name": f"{role}-{free_port()}-{id(spec)}", "role": role, "tenant": tenant, **spec}
        headers = {"Authorization": f"Bearer {self.stack.admin_key}"}
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            made = await client.post(f"{self.stack.url}/admin/admin-keys", json=body, headers=headers)
        assert made.status_code == 201, made.text
        key: str = made.json()["key"]
        return key

    async def admin_api(self, method: str, path: str, **fields: object) -> Json:
        """Returns the gateway's own answer to an owner."""
        headers = {"Authorization": f"Bearer {self.stack.admin_key}"}
        async with httpx.AsyncClient(base_url=self.stack.url, headers=headers, verify=NO_TLS) as client:
            answer = await client.request(method, path, json=fields or None)
        assert answer.is_success, answer.text
        found: Json = answer.json()
        return found

    async def link(self) -> str:
        """Returns the path of a new link that signs in once, as the command prints it."""
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llm_proxy", "console", "--link"),
            env=self.process.environment,
            cwd=self.process.folder,
            stdout=subprocess.PIPE,
        )
        printed, _ = await command.communicate()
        assert command.returncode == 0
        return printed.decode().strip().removeprefix(self.url)


async def token_of(client: httpx.AsyncClient, path: str = "/sessions") -> str:
    """Returns the token of a browser's forms."""
    found = TOKEN.search((await client.get(path)).text)
    assert found is not None
    return found[1]


async def post(client: httpx.AsyncClient, path: str, /, **fields: str) -> httpx.Response:
    """Sends a form as its page would; returns the answer."""
    return await client.post(path, data={"csrf": await token_of(client), **fields})
