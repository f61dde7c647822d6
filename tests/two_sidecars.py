"""A gateway of a test's own before two real sidecars that the run shares, to be killed, frozen and revived.

Behind them stands the scripted provider. Both sidecars run again when a test's gateway has ended.
"""

import json
import signal
import uuid
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import warm_sidecars
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY, MASTER_KEY
from sidecars import Provider, provider_spec
from stack_processes import serve_gateway
from warm_sidecars import passed_on

from llm_proxy.stack import probe as ports
from llm_proxy.stack import process
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.process_specs import SidecarBackends, sidecar_spec

Json = dict[str, Any]
GIVEN = OperatorEnv(passed_on())
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
        """Sends SIGKILL and waits for the end."""
        self.running[at].popen.send_signal(signal.SIGKILL)
        self.running[at].popen.wait()

    def freeze(self, at: int) -> None:
        """Sends SIGSTOP: it accepts connections and answers nothing."""
        self.running[at].popen.send_signal(signal.SIGSTOP)

    def thaw(self, at: int) -> None:
        """Sends SIGCONT."""
        self.running[at].popen.send_signal(signal.SIGCONT)

    def revive(self, at: int) -> None:
        """Starts it again with an empty memory; call this from the main thread only."""
        self.running[at] = warm_sidecars.start(self.running[at].spec, self.logs)
        process.wait_until_ready([self.running[at]])

    def answered(self, at: int) -> int:
        """Returns how many calls it has answered since it was started."""
        health = httpx.get(f"http://127.0.0.1:{self.ports[at]}/health/liveliness", verify=NO_TLS)
        return int(health.json()["answered"])

    def restore(self) -> None:
        """Makes both run again."""
        for at, running in enumerate(self.running):
            running.popen.send_signal(signal.SIGCONT)
            if not running.is_alive():
                self.revive(at)


def provider_as_sidecar(port: int) -> process.ProcessSpec:
    """A scripted provider in a sidecar's place, for tests of the gateways' own counting only.

    It answers hundreds of calls at once; a real sidecar on a test machine would fall behind.
    """
    return replace(provider_spec(port), name=f"stand-in-{port}")


@contextmanager
def run_two_sidecars(
    provider: Provider, folder: Path, text: str = CONFIG, cache_redis_url: str | None = None
) -> Generator[TwoSidecars]:
    """Runs both sidecars until the block ends; `text` is their configuration."""
    config = folder / "two-sidecars.yaml"
    config.write_text(text.format(base=provider.base("openai")), encoding="utf-8")
    at = [ports.free_port() for _ in range(2)]
    behind = SidecarBackends(MASTER_KEY, cache_redis_url, None, None)
    parts = [sidecar_spec(number, port, config, behind, GIVEN) for number, port in enumerate(at)]
    logs = folder / "two-sidecars"
    two_sidecars = TwoSidecars(provider, at, [warm_sidecars.start(one, logs) for one in parts], logs)
    try:
        process.wait_until_ready(two_sidecars.running)
        yield two_sidecars
    finally:
        for one in two_sidecars.running:
            one.popen.send_signal(signal.SIGCONT)
        process.stop(two_sidecars.running)


@dataclass(slots=True)
class GatewayOverSidecars:
    """A gateway and the sidecars behind it."""

    url: str
    gateway: process.ManagedProcess
    two_sidecars: TwoSidecars
    marks: list[str] = field(default_factory=list[str])

    @property
    def auth(self) -> dict[str, str]:
        """The caller's credential as a header."""
        return {"Authorization": f"Bearer {KEY}"}

    def body(self, *, model: str = "any", stream: bool = False, **directive: Any) -> Json:
        """Returns a chat body with a mark of its own; the directive tells the provider what to do."""
        self.marks.append(uuid.uuid4().hex)
        said = f"{self.marks[-1]} {json.dumps(directive) if directive else ''}"
        return {"model": model, "messages": [{"role": "user", "content": said}], "stream": stream}

    async def chat(
        self, client: httpx.AsyncClient, body: Json | None = None, **headers: str
    ) -> httpx.Response:
        """Makes one chat call; returns any response."""
        url = f"{self.url}/v1/chat/completions"
        return await client.post(url, json=body or self.body(), headers=self.auth | headers)

    async def seen(self) -> Counter[str]:
        """Returns how often the provider saw each mark of this test."""
        calls = await self.two_sidecars.provider.calls()
        found = Counter(str(call["body"]["messages"][0]["content"]).split()[0] for call in calls)
        return Counter({mark: found[mark] for mark in self.marks if mark in found})

    async def metric(self, name: str, *having: str) -> float:
        """Returns the sum of a metric's series whose labels hold these words."""
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            reported = await client.get(
                f"{self.url}/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
            )
        lines = [line for line in reported.text.splitlines() if line.startswith(name)]
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
        folder: For its spool and logs.
        two_sidecars: The sidecars.
        names: Settings, as environment variables.
        sidecars: How many of them it is given.
        dead_ports: How many addresses more it is given, where nothing listens.
        ready: Wait until it is ready; else until it is live.
    """
    at = [*two_sidecars.ports[:sidecars], *(ports.free_port() for _ in range(dead_ports))]
    urls = [f"http://127.0.0.1:{one}" for one in at]
    ready_path = "/health/ready" if ready else "/health/live"
    try:
        with serve_gateway(folder, urls, names, ready_path=ready_path) as made:
            yield GatewayOverSidecars(made.url, made.managed, two_sidecars)
    finally:
        two_sidecars.restore()
