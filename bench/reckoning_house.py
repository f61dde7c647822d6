"""The house of a reckoning: stores, scripted provider, one or two sidecars, two gateways, all processes.

Invariants: loopback and free ports only; everything ends with the block; Postgres can be killed and comes
back on its own port with its own data, and nothing else is touched.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.reckoning_models import config
from llm_proxy.stack import probe, process, process_specs
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.probe import is_up
from llm_proxy.stack.stores import SIDECAR_ROLE, postgres_spec, postgres_url, valkey_spec, valkey_url

KEY = "reckoning-key-0123456789abcdef"
ADMIN_KEY = "reckoning-admin-0123456789abcdef"
MASTER_KEY = "sk-reckoning-master-0123456789abcdef"
PASSWORD = "only-for-this-run"  # noqa: S105 -- of stores that live as long as the run
PROVIDER = Path(__file__).parents[1] / "tests" / "scripted_provider.py"
AGENT_RPM = 20
TRIES = 10


@dataclass(slots=True)
class House:
    """What runs, and where."""

    folder: Path
    at: dict[str, int]
    database: process.ManagedProcess

    @property
    def gateways(self) -> list[str]:
        """Their addresses."""
        return [f"http://127.0.0.1:{port}" for name, port in self.at.items() if name.startswith("gateway")]

    @property
    def provider(self) -> str:
        """The scripted provider's address."""
        return f"http://127.0.0.1:{self.at['provider']}"

    @property
    def database_url(self) -> str:
        """The gateways' database."""
        return postgres_url(self.at["postgres"], PASSWORD)

    @property
    def calls_url(self) -> str:
        """The same, as the role that may only write down model calls."""
        return postgres_url(self.at["postgres"], PASSWORD, SIDECAR_ROLE)

    async def kill_postgres(self, away_s: float) -> None:
        """Take Postgres away as the kernel does when memory is short, and bring it back after a while."""
        os.killpg(self.database.popen.pid, signal.SIGKILL)
        await asyncio.to_thread(self.database.popen.wait)
        await asyncio.sleep(away_s)
        for left in range(TRIES, 0, -1):
            self.database = process.start(self.database.spec, self.folder / "logs")
            try:
                await asyncio.to_thread(process.wait_until_ready, [self.database])
                break
            except process.ProcessFailed:  # its old shared memory is freed in a moment
                if left == 1:
                    raise
                await asyncio.sleep(0.5)

    def command(self, *words: str) -> tuple[int, str]:
        """Run a command of ours against this house's database; its exit code and what it printed."""
        ran = subprocess.run(
            [sys.executable, "-m", "llm_proxy", *words],
            env={**os.environ, "DATABASE_URL": self.database_url},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.returncode, ran.stdout or ran.stderr


@contextmanager
def house(*, sidecars: int = 1, gateways: int = 2) -> Iterator[House]:
    """A running house, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="llm-proxy-reckoning-"))
    folder.chmod(0o711)
    wanted = ["postgres", "limits", "cache", "provider"]
    wanted += [f"sidecar-{n + 1}" for n in range(sidecars)] + [f"gateway-{n + 1}" for n in range(gateways)]
    at = {name: probe.free_port() for name in wanted}
    given = OperatorEnv(
        {name: os.environ[name] for name in process_specs.MACHINE_VARIABLES if name in os.environ}
    )
    logs = folder / "logs"
    running: list[process.ManagedProcess] = []
    made: House | None = None
    try:
        running += [process.start(one, logs) for one in _behind(folder, at)]
        process.wait_until_ready(running)
        made = House(folder, at, running[0])
        process_specs.migrate_database(made.database_url, PASSWORD, folder, given)
        front = [process.start(one, logs) for one in _front(made, given)]
        running += front
        process.wait_until_ready(front)
        yield made
    finally:
        process.stop(running[1:])
        process.stop([made.database] if made else running[:1])
        shutil.rmtree(folder, ignore_errors=True)


def _behind(folder: Path, at: dict[str, int]) -> Iterator[process.ProcessSpec]:
    yield postgres_spec(folder, at["postgres"], PASSWORD)
    yield valkey_spec("limits", folder, at["limits"], PASSWORD)
    yield valkey_spec("cache", folder, at["cache"], PASSWORD)
    yield process.ProcessSpec(
        name="provider",
        argv=(sys.executable, str(PROVIDER), "--port", str(at["provider"])),
        env=dict(os.environ),
        readiness_probe=lambda _: is_up(at["provider"], "/_calls"),
    )


def _front(made: House, given: OperatorEnv) -> Iterator[process.ProcessSpec]:
    file = made.folder / "litellm.yaml"
    file.write_text(json.dumps(config(made.provider)), encoding="utf-8")
    behind = process_specs.SidecarBackends(
        MASTER_KEY, valkey_url(made.at["cache"], PASSWORD), made.calls_url, None
    )
    sidecars = [name for name in made.at if name.startswith("sidecar")]
    for number, name in enumerate(sidecars, 1):
        yield process_specs.sidecar_spec(number, made.at[name], file, behind, given)
    for name in (name for name in made.at if name.startswith("gateway")):
        own = {
            "LLM_PROXY__ENVIRONMENT": "development",
            "LLM_PROXY__INTERNAL_API_KEY": KEY,
            "LLM_PROXY__ADMIN_KEY": ADMIN_KEY,
            "LITELLM_MASTER_KEY": MASTER_KEY,
            "LLM_PROXY__LITELLM_PROXY_URL": ",".join(f"http://127.0.0.1:{made.at[one]}" for one in sidecars),
            "LLM_PROXY__AGENT_RPM": str(AGENT_RPM),
            "LLM_PROXY__SPOOL_DIR": str(made.folder / f"spool-{name}"),
            "LLM_PROXY__DRAIN_DELAY_S": "0",
            "DATABASE_URL": made.database_url,
            "LIMITS_REDIS_URL": valkey_url(made.at["limits"], PASSWORD),
        }
        started = process_specs.gateway_spec(made.at[name], own, given)
        yield process.ProcessSpec(
            name=name,
            argv=started.argv,
            env=started.env,
            readiness_probe=started.readiness_probe,
            cwd=made.folder,
        )
