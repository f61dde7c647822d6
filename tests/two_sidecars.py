"""A gateway of a test's own before two real sidecars that the run shares, to be killed, frozen and revived.

Behind them stands the scripted provider. Whatever a test has taken is back when its gateway ends.
"""

import json
import os
import signal
import uuid
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY, MASTER_KEY
from sidecars import Provider, provider_spec
from stack_processes import serve_gateway

from llm_proxy.stack import probe as ports
from llm_proxy.stack import process
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.probe import completed_calls
from llm_proxy.stack.process_specs import SidecarBackends, sidecar_spec

Json = dict[str, Any]
GIVEN = OperatorEnv({name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ})
CONFIG = """
model_list:
  - model_name: "*"
    litellm_params: {{model: openai/*, api_base: "{base}", api_key: none}}
    model_info: {{id: any}}
router_settings: {{num_retries: 0, disable_cooldowns: true}}
"""


@dataclass(slots=True)
class TwoSidecars:
    """Two real sidecars before one scripted provider."""

    provider: Provider
    ports: list[int]
    running: list[process.ManagedProcess]
    logs: Path

    def kill(self, at: int) -> None:
        """As the kernel does when memory is short."""
        self.running[at].popen.send_signal(signal.SIGKILL)
        self.running[at].popen.wait()

    def freeze(self, at: int) -> None:
        """It accepts connections, and answers nothing."""
        self.running[at].popen.send_signal(signal.SIGSTOP)

    def thaw(self, at: int) -> None:
        """It goes on where it stood."""
        self.running[at].popen.send_signal(signal.SIGCONT)

    def revive(self, at: int) -> None:
        """It starts again, with an empty memory; from the main thread alone, whose child it is."""
        self.running[at] = process.start(self.running[at].spec, self.logs)
        process.wait_until_ready([self.running[at]])

    def answered(self, at: int) -> int:
        """How many calls it has answered since it was started."""
        return completed_calls(self.ports[at])

    def restore(self) -> None:
        """Both run again, whatever was done to them."""
        for at, running in enumerate(self.running):
            running.popen.send_signal(signal.SIGCONT)
            if not running.is_alive():
                self.revive(at)


def provider_as_sidecar(port: int) -> process.ProcessSpec:
    """A scripted provider in a sidecar's place, where only the gateways' own counting is looked at.

    It answers hundreds of calls at once, at which a real one on a test machine would fall behind.
    """
    return replace(provider_spec(port), name=f"stand-in-{port}")


@contextmanager
def run_two_sidecars(provider: Provider, folder: Path) -> Generator[TwoSidecars]:
    """The sidecars, running until the block ends."""
    config = folder / "two-sidecars.yaml"
    config.write_text(CONFIG.format(base=provider.base("openai")), encoding="utf-8")
    at = [ports.free_port() for _ in range(2)]
    behind = SidecarBackends(MASTER_KEY, None, None, None)
    parts = [sidecar_spec(number, port, config, behind, GIVEN) for number, port in enumerate(at)]
    logs = folder / "two-sidecars"
    two_sidecars = TwoSidecars(provider, at, [process.start(one, logs) for one in parts], logs)
    try:
        process.wait_until_ready(two_sidecars.running)
        yield two_sidecars
    finally:
        for one in two_sidecars.running:
            one.popen.send_signal(signal.SIGCONT)
        process.stop(two_sidecars.running)


@dataclass(slots=True)
class GatewayOverSidecars:
    """The gateway and who stands behind it."""

    url: str
    gateway: process.ManagedProcess
    two_sidecars: TwoSidecars
    marks: list[str] = field(default_factory=list[str])

    @property
    def auth(self) -> dict[str, str]:
        """The header that opens the doors."""
        return {"Authorization": f"Bearer {KEY}"}

    def body(self, *, model: str = "any", stream: bool = False, **directive: Any) -> Json:
        """A chat body with a mark of its own; the directive tells the provider what to play."""
        self.marks.append(uuid.uuid4().hex)
        said = f"{self.marks[-1]} {json.dumps(directive) if directive else ''}"
        return {"model": model, "messages": [{"role": "user", "content": said}], "stream": stream}

    async def chat(
        self, client: httpx.AsyncClient, body: Json | None = None, **headers: str
    ) -> httpx.Response:
        """One chat call, whatever comes of it."""
        url = f"{self.url}/v1/chat/completions"
        return await client.post(url, json=body or self.body(), headers=self.auth | headers)

    async def seen(self) -> Counter[str]:
        """How often the provider saw each mark of this test's."""
        calls = await self.two_sidecars.provider.calls()
        found = Counter(str(call["body"]["messages"][0]["content"]).split()[0] for call in calls)
        return Counter({mark: found[mark] for mark in self.marks if mark in found})

    async def metric(self, name: str, *having: str) -> float:
        """The sum of a metric's series whose labels hold these words."""
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            told = await client.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
        lines = [line for line in told.text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(word in line for word in having))


@contextmanager
def run_gateway(
    folder: Path,
    two_sidecars: TwoSidecars,
    names: Mapping[str, str] | None = None,
    *,
    sidecars: int = 2,
    dead_ports: int = 0,
    ready: bool = True,
) -> Generator[GatewayOverSidecars]:
    """A running gateway.

    Args:
        folder: Of this test alone.
        two_sidecars: The sidecars.
        names: Settings.
        sidecars: How many of them it knows.
        dead_ports: How many more addresses it knows, with nobody behind them.
        ready: Whether it is to be waited for until it can serve.
    """
    at = [*two_sidecars.ports[:sidecars], *(ports.free_port() for _ in range(dead_ports))]
    urls = [f"http://127.0.0.1:{one}" for one in at]
    ready_path = "/health/ready" if ready else "/health/live"
    try:
        with serve_gateway(folder, urls, names, ready_path=ready_path) as made:
            yield GatewayOverSidecars(made.url, made.managed, two_sidecars)
    finally:
        two_sidecars.restore()
