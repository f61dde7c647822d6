"""A gateway before several stand-ins for sidecars: scripted providers, who know LiteLLM's doors well enough.

They start in a moment, and can be killed, frozen and started again without anybody else noticing.
"""

import json
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from llm_proxy.stack import part, ports
from llm_proxy.stack.probe import answers
from llm_proxy.stack.programs import gateway
from llm_proxy.stack.surroundings import Surroundings

Json = dict[str, Any]
KEY = "crew-key-0123456789abcdef"
ADMIN_KEY = "crew-admin-0123456789abcdef"
PROVIDER = Path(__file__).parent / "provider.py"


@dataclass(slots=True)
class Crew:
    """The gateway and its sidecars."""

    url: str
    gateway: part.Running
    sidecars: list[part.Running]
    ports: list[int]
    logs: Path
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

    async def seen(self, at: int) -> Counter[str]:
        """How often a sidecar saw each mark; nothing of one that does not answer."""
        async with httpx.AsyncClient(timeout=2) as client:
            try:
                calls = (await client.get(f"http://127.0.0.1:{self.ports[at]}/_calls")).json()["calls"]
            except httpx.HTTPError:
                return Counter()
        return Counter(call["body"]["messages"][0]["content"].split()[0] for call in calls)

    async def metric(self, name: str, *having: str) -> float:
        """The sum of a metric's series whose labels hold these words."""
        async with httpx.AsyncClient() as client:
            told = await client.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
        lines = [line for line in told.text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(word in line for word in having))

    def kill(self, at: int) -> None:
        """As the kernel does when memory is short."""
        self.sidecars[at].process.send_signal(signal.SIGKILL)
        self.sidecars[at].process.wait()

    def freeze(self, at: int) -> None:
        """It accepts connections, and answers nothing."""
        self.sidecars[at].process.send_signal(signal.SIGSTOP)

    def thaw(self, at: int) -> None:
        """It goes on where it stood."""
        self.sidecars[at].process.send_signal(signal.SIGCONT)

    def revive(self, at: int) -> None:
        """It starts again, with an empty memory."""
        self.sidecars[at] = part.start(self.sidecars[at].part, self.logs)
        part.wait_until_ready([self.sidecars[at]])


def stand_in(port: int) -> part.Part:
    """A scripted provider in a sidecar's place."""
    return part.Part(
        name=f"stand-in-{port}",
        argv=(sys.executable, str(PROVIDER), "--port", str(port)),
        env=dict(os.environ),
        ready=lambda _: answers(port, "/_calls"),
    )


@contextmanager
def crew(
    folder: Path,
    names: Mapping[str, str] | None = None,
    *,
    sidecars: int = 2,
    dead_ports: int = 0,
    ready: bool = True,
) -> Generator[Crew]:
    """A running crew; `dead_ports` more addresses have nobody behind them; `names` are settings."""
    given = Surroundings(
        {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    )
    at = [ports.free_port() for _ in range(sidecars + dead_ports)]
    port = ports.free_port()
    settings = {
        "LLM_PROXY__ENVIRONMENT": "development",
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__ADMIN_KEY": ADMIN_KEY,
        "LLM_PROXY__LITELLM_PROXY_URL": ",".join(f"http://127.0.0.1:{one}" for one in at),
        "LLM_PROXY__SPOOL_DIR": str(folder / "spool"),
        "LLM_PROXY__DRAIN_DELAY_S": "0",
    }
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    running = [part.start(stand_in(one), logs) for one in at[:sidecars]]
    try:
        part.wait_until_ready(running)
        program = replace(gateway(port, settings | dict(names or {}), given), cwd=folder)
        if not ready:
            live: Callable[[int], bool] = lambda _: answers(port, "/health/live")  # noqa: E731 -- typed
            program = replace(program, ready=live)
        running.append(part.start(program, logs))
        part.wait_until_ready(running[-1:])
        made = Crew(f"http://127.0.0.1:{port}", running[-1], running[:-1], at, logs)
        try:
            yield made
        finally:
            running = [*made.sidecars, made.gateway]
    finally:
        for one in running:
            one.process.send_signal(signal.SIGCONT)
        part.stop(running)
