"""Two gateways and two sidecars under a steady load while their processes are exchanged one after the other.

The load goes as a load balancer sends it: to gateways that reported a moment ago to be ready. The id of
every call is kept, so that a test can count its records.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import httpx
from loopback import NO_TLS
from running_stack import Json, script
from stack_processes import StackProcesses
from steady_calls import steady_calls

EVERY_S = 0.1
POLL_EVERY_S = 0.05
CHAT = "/v1/chat/completions"
CONFIG: Json = {
    "model_list": [
        {
            "model_name": "steady",
            "litellm_params": {
                "model": "openai/steady",
                "api_base": "PROVIDER/v1",
                "api_key": "os.environ/STEADY_API_KEY",
                "input_cost_per_token": 1e-6,
                "output_cost_per_token": 1e-6,
            },
        }
    ],
    "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    "litellm_settings": {"cache": False},
}
SETTINGS = {
    "LLM_PROXY__DRAIN_DELAY_S": "1",
    "LLM_PROXY__DRAIN_TIMEOUT_S": "20",
    "LLM_PROXY__STORE_TIMEOUT_MS": "5000",
    "LLM_PROXY__LIMITS_ON_STORE_FAILURE": "deny",
    "LLM_PROXY__STORE_RESPONSES": "all",
}
SIDECAR = {"LLM_PROXY_SIDECAR_LEAVE_S": "3", "LLM_PROXY_SIDECAR_DRAIN_S": "20"}


@dataclass(slots=True)
class Load:
    """What the load saw.

    Attributes:
        credentials: The keys that callers send, in turn.
        ids: The id of each call that succeeded.
        lost: What became of each other one.
    """

    credentials: Sequence[str]
    ids: list[str] = field(default_factory=list[str])
    streams: int = 0
    lost: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class RotatingStack:
    """A running stack whose processes get other settings, one after the other.

    Attributes:
        ready: The gateways that a load balancer sends to.
    """

    stack: StackProcesses
    clients: dict[str, httpx.AsyncClient]
    ready: set[str] = field(default_factory=set[str])

    @property
    def gateways(self) -> list[str]:
        """Their names."""
        return list(self.clients)

    async def roll(self, *names: str, settings: Mapping[str, str]) -> None:
        """Ends these processes in turn, when their calls have ended, and starts them with other settings."""
        for name in names:
            spec = self.stack.specs[name]
            self.stack.specs[name] = replace(spec, env={**spec.env, **settings})
            self.stack.running[name].popen.send_signal(spec.stop_signal)
            assert await self.stack.exit_code(name, 60) == 0
            await self.stack.restart(name)
            await self.until_ready(*self.clients.keys() & {name})

    async def until_ready(self, *names: str) -> None:
        """Waits until a load balancer would send to these gateways."""
        async with asyncio.timeout(60):
            while not self.ready.issuperset(names):  # noqa: ASYNC110 -- another process changes it
                await asyncio.sleep(POLL_EVERY_S)

    async def ask(
        self, name: str, method: str, path: str, key: str, body: Json | None = None
    ) -> httpx.Response:
        """One request to one gateway."""
        return await self.clients[name].request(
            method, path, json=body, headers={"authorization": f"Bearer {key}"}
        )

    async def statuses(self, path: str, key: str) -> set[int]:
        """What a GET of this path gets at the gateways."""
        return {(await self.ask(name, "GET", path, key)).status_code for name in self.gateways}

    async def old_uses(self, key: str) -> dict[str, float]:
        """Returns `llm_proxy_old_secret_uses_total` of both gateways by setting; `key` may read it."""
        found: Counter[str] = Counter()
        for name in self.gateways:
            page = (await self.ask(name, "GET", "/metrics", key)).text
            for line in page.splitlines():
                if line.startswith("llm_proxy_old_secret_uses_total{"):
                    found[line.split('"')[1]] += int(float(line.rpartition(" ")[2]))
        return dict(found)

    @asynccontextmanager
    async def load(self, *credentials: str) -> AsyncGenerator[Load]:
        """Ten calls a second, every third a stream that takes a second, until the block ends."""
        seen = Load(credentials)
        async with steady_calls(EVERY_S, partial(self._call, seen)):
            yield seen

    async def _call(self, seen: Load, turn: int) -> None:
        ready = sorted(self.ready)
        if not ready:
            seen.lost.append("no gateway was ready")
            return
        name, key = ready[turn % len(ready)], seen.credentials[turn // 2 % len(seen.credentials)]
        streamed = turn % 3 == 0
        said = script(do="ok", frames=20, gap_ms=50) if streamed else "hello"
        body = {"model": "steady", "stream": streamed, "messages": [{"role": "user", "content": said}]}
        try:
            reply = await self.ask(name, "POST", CHAT, key, body)
        except httpx.HTTPError as fault:
            seen.lost.append(f"{name}: {fault!r}")
            return
        if reply.status_code != 200 or (streamed and "data: [DONE]" not in reply.text):
            seen.lost.append(f"{name}: {reply.status_code} {reply.text[-300:]}")
            return
        seen.ids.append(reply.headers["x-request-id"])
        seen.streams += streamed

    async def watch(self) -> None:
        """Keeps `ready`, as a load balancer does."""
        while True:
            for name, client in self.clients.items():
                try:
                    is_ready = (await client.get("/health/ready")).status_code == 200
                except httpx.HTTPError:
                    is_ready = False
                (self.ready.add if is_ready else self.ready.discard)(name)
            await asyncio.sleep(POLL_EVERY_S)


@asynccontextmanager
async def rotating(stack: StackProcesses) -> AsyncGenerator[RotatingStack]:
    """The stack with clients of its gateways, when both are ready."""
    async with AsyncExitStack() as opened:
        clients: dict[str, httpx.AsyncClient] = {}
        for name in (one for one in stack.ports if one.startswith("gateway-")):
            client = httpx.AsyncClient(base_url=stack.url(name), verify=NO_TLS, timeout=60)
            clients[name] = await opened.enter_async_context(client)
        made = RotatingStack(stack, clients)
        watching = asyncio.create_task(made.watch())
        try:
            await made.until_ready(*clients)
            yield made
        finally:
            watching.cancel()
