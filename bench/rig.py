"""The whole house for a long run: stores, scripted provider, sidecars and gateways, each a process by name.

Invariants: loopback and free ports only; everything ends with this process; a part that was killed can be
started again on its own port with its own data.
"""

import asyncio
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_proxy.stack import probe, process, process_specs
from llm_proxy.stack.operator_env import Surroundings
from llm_proxy.stack.probe import answers
from llm_proxy.stack.stores import CALLS_ROLE, postgres, postgres_url, valkey, valkey_url

KEY = "bench-key-0123456789abcdef"
MASTER_KEY = "sk-bench-master-0123456789abcdef"
PASSWORD = "only-for-this-run"  # noqa: S105 -- of stores that live as long as the run
SIDECARS_STOP = {"LLM_PROXY_SIDECAR_LEAVE_S": "3", "LLM_PROXY_SIDECAR_DRAIN_S": "10"}
"""They leave the pool before they stop, and let running streams end."""

CONFIG = """
model_list:
  - model_name: "p/*"
    litellm_params:
      model: openai/*
      api_base: http://127.0.0.1:{provider}/v1
      api_key: sk-scripted
      max_retries: 0
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000002
    model_info: {{id: scripted}}
router_settings: {{num_retries: 0, disable_cooldowns: true}}
"""


@dataclass(slots=True)
class Rig:
    """What runs, by name: `postgres`, `limits`, `cache`, `provider`, `sidecar-1`, ..., `gateway-1`, ..."""

    folder: Path
    at: dict[str, int]
    parts: dict[str, process.Part] = field(default_factory=dict[str, process.Part])
    running: dict[str, process.Running] = field(default_factory=dict[str, process.Running])

    @property
    def database_url(self) -> str:
        """The database of the gateways."""
        return postgres_url(self.at["postgres"], PASSWORD)

    @property
    def gateways(self) -> list[str]:
        """Addresses of the gateways, by number."""
        return [f"http://127.0.0.1:{port}" for name, port in self.at.items() if name.startswith("gateway")]

    @property
    def seen(self) -> Path:
        """The provider's lines."""
        return self.folder / "provider.jsonl"

    def start(self, *names: str, wait: bool = True) -> None:
        """Start parts, again if they ran before."""
        for name in names:
            self.running[name] = process.start(self.parts[name], self.folder / "logs")
        if wait:
            process.wait_until_ready([self.running[name] for name in names])

    def pid(self, name: str) -> int:
        """The process that does the part's work: of Postgres in a namespace, the postmaster all the same."""
        return self.running[name].process.pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """A signal to the part's whole group."""
        os.killpg(self.pid(name), number)

    async def ended(self, name: str, patience_s: float = 30) -> int:
        """Wait until a part has ended; its exit code."""
        return await asyncio.to_thread(self.running[name].process.wait, patience_s)

    async def kill(self, *names: str) -> None:
        """As the kernel does when memory is short: the whole group, at once."""
        for name in names:
            self.signal(name, signal.SIGKILL)
        for name in names:
            await self.ended(name)

    async def again(self, *names: str, tries: int = 5) -> None:
        """Start parts that have ended; one that does not come up gets another try."""
        for name in names:
            for left in range(tries, 0, -1):
                self.running[name] = process.start(self.parts[name], self.folder / "logs")
                try:
                    await asyncio.to_thread(process.wait_until_ready, [self.running[name]])
                    break
                except process.PartDied:
                    if left == 1:
                        raise
                    await asyncio.sleep(0.5)


@contextmanager
def rig(*, gateways: int, sidecars: int, names: Mapping[str, str] | None = None) -> Iterator[Rig]:
    """A running house, until the block ends.

    Args:
        gateways: How many gateway processes, each with a spool folder of its own.
        sidecars: How many sidecars, shared by all gateways.
        names: Settings of the gateways besides the usual; `{n}` is the gateway's number.
    """
    folder = Path(tempfile.mkdtemp(prefix="llm-proxy-bench-"))
    folder.chmod(0o711)
    for number in range(1, gateways + 1):
        (folder / f"spool-{number}").mkdir()
    wanted = ["postgres", "limits", "cache", "provider"]
    wanted += [f"sidecar-{n + 1}" for n in range(sidecars)] + [f"gateway-{n + 1}" for n in range(gateways)]
    made = Rig(folder, {name: probe.free_port() for name in wanted})
    given = of_the_machine()
    try:
        _stores(made, given)
        _sidecars(made, given, sidecars)
        _gateways(made, given, gateways, names or {})
        made.start(*(name for name in wanted if name not in made.running))
        yield made
    finally:
        for name in [name for name in made.running if name != "postgres"]:
            made.running[name].process.send_signal(signal.SIGCONT)
        process.stop([one for name, one in made.running.items() if name != "postgres"])
        process.stop([made.running["postgres"]] if "postgres" in made.running else [])


def _stores(made: Rig, given: Surroundings) -> None:
    at, folder = made.at, made.folder
    made.parts["postgres"] = postgres(folder, at["postgres"], PASSWORD)
    made.parts["limits"] = valkey("limits", folder, at["limits"], PASSWORD)
    made.parts["cache"] = valkey("cache", folder, at["cache"], PASSWORD)
    words = ("--port", str(at["provider"]), "--lines", str(made.seen))
    made.parts["provider"] = process.Part(
        name="provider",
        argv=(sys.executable, str(Path(__file__).with_name("played.py")), *words),
        env=dict(os.environ),
        ready=lambda _: answers(at["provider"], "/_calls"),
    )
    made.start("postgres", "limits", "cache", "provider")
    process_specs.migrate(made.database_url, PASSWORD, folder, given)


def _sidecars(made: Rig, given: Surroundings, many: int) -> None:
    config = made.folder / "litellm.yaml"
    config.write_text(CONFIG.format(provider=made.at["provider"]), encoding="utf-8")
    given = replace(given, names={**given.names, **SIDECARS_STOP})
    behind = process_specs.Behind(
        MASTER_KEY,
        valkey_url(made.at["cache"], PASSWORD),
        postgres_url(made.at["postgres"], PASSWORD, CALLS_ROLE),
        None,
    )
    for number in range(1, many + 1):
        name = f"sidecar-{number}"
        made.parts[name] = process_specs.sidecar(number, made.at[name], config, behind, given)


def _gateways(made: Rig, given: Surroundings, many: int, names: Mapping[str, str]) -> None:
    for number in range(1, many + 1):
        own = {key: value.replace("{n}", str(number)) for key, value in names.items()}
        made.parts[f"gateway-{number}"] = gateway_part(made, given, number, own)


def gateway_part(made: Rig, given: Surroundings, number: int, names: Mapping[str, str]) -> process.Part:
    """A gateway of this house, not started yet; its port is known to it, `names` are settings of its own."""
    name = f"gateway-{number}"
    urls = [f"http://127.0.0.1:{port}" for other, port in made.at.items() if other.startswith("sidecar")]
    usual = {
        "LLM_PROXY__ENVIRONMENT": "development",
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__ADMIN_KEY": secrets.token_hex(16),
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LLM_PROXY__LITELLM_PROXY_URL": ",".join(urls),
        "LLM_PROXY__AGENT_RPM": "60",
        "LLM_PROXY__SPOOL_DIR": str(made.folder / f"spool-{number}"),
        "DATABASE_URL": made.database_url,
        "LIMITS_REDIS_URL": valkey_url(made.at["limits"], PASSWORD),
    }
    return replace(process_specs.gateway(made.at[name], usual | dict(names), given), name=name, patience_s=60)


def of_the_machine() -> Surroundings:
    """What a program of the house may know of the machine."""
    return Surroundings(
        {name: os.environ[name] for name in process_specs.OF_THE_MACHINE if name in os.environ}
    )


def write_json(path: Path, report: object) -> None:
    """A report, whole or not at all."""
    half = path.with_suffix(".half")
    half.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    half.replace(path)
