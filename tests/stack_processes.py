"""A whole stack as processes with names: stores, scripted provider, sidecars and gateways on loopback ports.

Invariants: everything ends with the `with` block; a process that was killed starts again on its own port with
its own data; no process gets more of this machine's environment than `process_specs.MACHINE_VARIABLES` and
`warm_sidecars.PASSED_ON`.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import warm_sidecars
from running_stack import ADMIN_KEY, KEY, MASTER_KEY, Json
from sidecars import provider_spec
from warm_sidecars import passed_on

from llm_proxy.postgres_urls import SIDECAR_ROLE
from llm_proxy.stack import process, process_specs
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.probe import free_port, is_up
from llm_proxy.stack.stores import postgres_spec, postgres_url, valkey_spec, valkey_url

PASSWORD = "only-for-this-run"
START_TRIES = 10
"""A Postgres that was killed starts only when the kernel has freed its shared memory."""


def machine() -> OperatorEnv:
    """The environment a process of the stack may see."""
    shown = {name: os.environ[name] for name in process_specs.MACHINE_VARIABLES if name in os.environ}
    return OperatorEnv(shown | passed_on())


def gateway_spec(
    port: int, folder: Path, sidecars: Sequence[str], settings: Mapping[str, str] | None = None
) -> process.ProcessSpec:
    """A gateway before sidecars, named by their URLs.

    Its keys are those of `running_stack`, its spool lies in `folder`; `settings`, environment variables, come
    on top.
    """
    usual = {
        "LLM_PROXY__ENVIRONMENT": "development",
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__ADMIN_KEY": ADMIN_KEY,
        "LLM_PROXY__LITELLM_PROXY_URL": ",".join(sidecars),
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LLM_PROXY__SPOOL_DIR": str(folder / f"spool-{port}"),
        "LLM_PROXY__DRAIN_DELAY_S": "0",
    }
    made = process_specs.gateway_spec(port, usual | dict(settings or {}), machine())
    return replace(made, name=f"gateway-{port}", cwd=folder, ready_timeout_s=60)


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A running gateway."""

    port: int
    managed: process.ManagedProcess

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serve_gateway(
    folder: Path,
    sidecars: Sequence[str],
    settings: Mapping[str, str] | None = None,
    *,
    ready_path: str = "/health/ready",
) -> Generator[GatewayProcess]:
    """A gateway of a test's own before sidecars, named by their URLs; it has answered at `ready_path`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()

    def is_ready(_: int) -> bool:
        return is_up(port, ready_path)

    spec = replace(gateway_spec(port, folder, sidecars, settings), readiness_probe=is_ready)
    started = process.start(spec, folder / "logs")
    try:
        process.wait_until_ready([started])
        yield GatewayProcess(port, started)
    finally:
        process.stop([started])


@dataclass(slots=True)
class StackProcesses:
    """What runs, by name: `postgres`, `limits`, `cache`, `provider`, `sidecar-1`, ..., `gateway-1`, ...

    Attributes:
        ports: Where each listens.
    """

    folder: Path
    ports: dict[str, int] = field(default_factory=dict[str, int])
    specs: dict[str, process.ProcessSpec] = field(default_factory=dict[str, process.ProcessSpec])
    running: dict[str, process.ManagedProcess] = field(default_factory=dict[str, process.ManagedProcess])

    @property
    def database_url(self) -> str:
        """The gateways' database."""
        return postgres_url(self.ports["postgres"], PASSWORD)

    @property
    def call_log_url(self) -> str:
        """The same database, as the role that writes the sidecars' call log."""
        return postgres_url(self.ports["postgres"], PASSWORD, SIDECAR_ROLE)

    @property
    def provider_record(self) -> Path:
        """The file in which the provider writes a line for each call, if it was told to."""
        return self.folder / "provider.jsonl"

    def url(self, name: str) -> str:
        """The address of a process that speaks HTTP."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def urls(self, kind: str) -> list[str]:
        """The addresses of all processes of a kind: `gateway` or `sidecar`."""
        return [self.url(name) for name in self.ports if name.startswith(f"{kind}-")]

    def pid(self, name: str) -> int:
        """The process id."""
        return self.running[name].popen.pid

    def add(self, name: str, program: process.ProcessSpec, port: int) -> None:
        """Make a program known; `start` starts it."""
        self.specs[name], self.ports[name] = replace(program, name=name), port

    def add_gateway(self, settings: Mapping[str, str], sidecars: Sequence[str] | None = None) -> str:
        """Make one more gateway known; returns its name. `{n}` in a setting is the gateway's number."""
        number, port = len(self.urls("gateway")) + 1, free_port()
        stores = {
            "DATABASE_URL": self.database_url,
            "LIMITS_REDIS_URL": valkey_url(self.ports["limits"], PASSWORD),
        }
        chosen = stores | {key: value.replace("{n}", str(number)) for key, value in settings.items()}
        behind = self.urls("sidecar") if sidecars is None else sidecars
        self.add(f"gateway-{number}", gateway_spec(port, self.folder, behind, chosen), port)
        return f"gateway-{number}"

    def start(self, *names: str, wait: bool = True) -> None:
        """Start processes; returns when all of them are ready, or at once."""
        for name in names:
            self.running[name] = warm_sidecars.start(self.specs[name], self.folder / "logs")
        process.wait_until_ready([self.running[name] for name in names if wait])

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process and its children."""
        os.killpg(self.pid(name), number)

    async def exit_code(self, name: str, timeout_s: float = 30) -> int:
        """Wait until a process has ended; returns its exit code."""
        return await asyncio.to_thread(self.running[name].popen.wait, timeout_s)

    async def kill(self, name: str) -> None:
        """SIGKILL to a process and its children, as the kernel does when memory is short."""
        self.signal(name, signal.SIGKILL)
        await self.exit_code(name)

    async def restart(self, name: str) -> None:
        """Start a process that has ended, with its old port and data."""
        for left in reversed(range(START_TRIES)):
            self.running[name] = warm_sidecars.start(self.specs[name], self.folder / "logs")
            try:
                await asyncio.to_thread(process.wait_until_ready, [self.running[name]])
                break
            except process.ProcessFailed:
                if not left:
                    raise
                await asyncio.sleep(0.5)

    async def command(self, *words: str) -> tuple[int, str]:
        """Run `llm-proxy WORDS` on this stack's database; returns its exit code and what it printed."""
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llm_proxy", *words),
            env={**os.environ, "DATABASE_URL": self.database_url},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        printed, complaints = await run.communicate()
        return run.returncode or 0, (printed or complaints).decode()

    def stop(self, *names: str) -> None:
        """End these processes, by default all, the database last."""
        stopping = [one for one in names or self.running if self.running[one].is_alive()]
        for name in stopping:
            self.signal(name, signal.SIGCONT)
        process.stop([self.running[name] for name in stopping if name != "postgres"])
        process.stop([self.running[name] for name in stopping if name == "postgres"])


def migrate_to_this_version(made: StackProcesses) -> None:
    """The schema of this version."""
    process_specs.migrate_database(made.database_url, PASSWORD, made.folder, machine())


@contextmanager
def run_stack(
    config: Json,
    *,
    gateways: int = 1,
    sidecars: int = 1,
    settings: Mapping[str, str] | None = None,
    sidecar_env: Mapping[str, str] | None = None,
    record: bool = False,
    migrate: Callable[[StackProcesses], None] = migrate_to_this_version,
) -> Generator[StackProcesses]:
    """A running stack, until the block ends.

    Args:
        config: LiteLLM's configuration; `PROVIDER` in its text stands for the scripted provider's address.
        gateways: How many gateways.
        sidecars: How many sidecars, shared by all gateways.
        settings: Environment variables of the gateways; `{n}` is the gateway's number.
        sidecar_env: Environment variables of the sidecars.
        record: The provider writes its calls to `provider_record` instead of keeping them.
        migrate: Makes the database's schema, with the sidecars' role, whose password is `PASSWORD`.
    """
    folder = Path(tempfile.mkdtemp(prefix="llm-proxy-stack-"))
    folder.chmod(0o711)  # Postgres may have to run as `nobody`
    made = StackProcesses(folder)
    try:
        _add_stores(made, record=record)
        made.start("postgres", "limits", "cache", "provider")
        migrate(made)
        for number in range(1, sidecars + 1):
            _add_sidecar(made, number, config, sidecar_env or {})
        for _ in range(gateways):
            made.add_gateway(settings or {})
        made.start(*(name for name in made.specs if name not in made.running))
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _add_stores(made: StackProcesses, *, record: bool) -> None:
    at = {name: free_port() for name in ("postgres", "limits", "cache", "provider")}
    made.add("postgres", postgres_spec(made.folder, at["postgres"], PASSWORD), at["postgres"])
    made.add("limits", valkey_spec("limits", made.folder, at["limits"], PASSWORD), at["limits"])
    made.add("cache", valkey_spec("cache", made.folder, at["cache"], PASSWORD), at["cache"])
    played = provider_spec(at["provider"], made.provider_record if record else None)
    made.add("provider", played, at["provider"])


def _add_sidecar(made: StackProcesses, number: int, config: Json, env: Mapping[str, str]) -> None:
    file, port, given = made.folder / "litellm.yaml", free_port(), machine()
    file.write_text(json.dumps(config).replace("PROVIDER", made.url("provider")), encoding="utf-8")
    cache_url = valkey_url(made.ports["cache"], PASSWORD)
    behind = process_specs.SidecarBackends(MASTER_KEY, cache_url, made.call_log_url, None)
    given = replace(given, variables={**given.variables, **env})
    made.add(f"sidecar-{number}", process_specs.sidecar_spec(number, port, file, behind, given), port)
