"""A real sidecar before the scripted provider, for tests that ask LiteLLM itself and not the gateway.

`Sidecar` is what a test holds: it asks, and looks at what the provider saw.
"""

import asyncio
import json
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from uuid import uuid4

import httpx
import warm_sidecars
import yaml
from loopback import NO_TLS
from warm_sidecars import passed_on

from llm_proxy.stack import probe, process
from llm_proxy.stack.probe import is_up
from llm_proxy.stack.process_specs import forking, sidecar_python

Json = dict[str, Any]
Mode = Literal["chat", "stream"]
KEY = "sk-traffic-0123456789abcdef"
PROVIDER_KEY = "sk-canary-of-the-provider"
PROVIDER = Path(__file__).parent / "scripted_provider.py"
WATCHED = Path(__file__).parent / "offline_sidecar.py"
CUT = "upstream_stream_cut"


@dataclass(frozen=True, slots=True)
class Provider:
    """The running scripted provider."""

    url: str

    async def calls(self, mark: str = "") -> list[Json]:
        """The calls it saw whose body holds the mark, oldest first."""
        async with httpx.AsyncClient(verify=NO_TLS, timeout=40) as client:
            found: list[Json] = (await client.get(f"{self.url}/_calls?{quote(mark)}")).json()["calls"]
        return found

    async def client_left_s(self, mark: str) -> float:
        """Seconds until the caller of a call with this mark hung up before its end; waits for that."""
        async with asyncio.timeout(20):
            while True:
                for call in await self.calls(mark):
                    if call["client_left_s"] is not None:
                        return float(call["client_left_s"])
                await asyncio.sleep(0.02)

    async def requests(self) -> int:
        """How many requests of any kind it has answered."""
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            found: Json = (await client.get(f"{self.url}/_calls")).json()
        return len(found["calls"]) + int(found["polls"])

    def base(self, family: str) -> str:
        """The address a deployment of that family is given."""
        return self.url + {"anthropic": "", "ollama_chat": "", "gemini": "/v1beta"}.get(family, "/v1")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the sidecar; `events` are the data of a stream's frames, in order."""

    status: int
    headers: httpx.Headers
    text: str

    @property
    def json(self) -> Json:
        """The body."""
        found: Json = json.loads(self.text)
        return found

    @property
    def events(self) -> list[Json | str]:
        """Each frame's data, `[DONE]` as it is."""
        data = [line[6:] for line in self.text.split("\n") if line.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in data]

    @property
    def content(self) -> str:
        """The text of a stream's first choice."""
        chunks = [event for event in self.events if isinstance(event, dict) and event.get("choices")]
        deltas: list[Json] = [chunk["choices"][0].get("delta") or {} for chunk in chunks]
        return "".join(delta.get("content") or "" for delta in deltas)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A running sidecar."""

    url: str
    provider: Provider
    pid: int
    log: Path

    async def post(self, path: str, body: Json, **headers: str) -> Answer:
        """Send a body to a door."""
        sent = {"authorization": f"Bearer {KEY}", "accept-encoding": "identity"} | headers
        async with httpx.AsyncClient(verify=NO_TLS, timeout=40) as client:
            reply = await client.post(self.url + path, json=body, headers=sent)
        return Answer(reply.status_code, reply.headers, reply.text)

    async def get(self, path: str, key: str | None = KEY) -> Answer:
        """Ask a door."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(verify=NO_TLS, timeout=40) as client:
            reply = await client.get(self.url + path, headers=headers)
        return Answer(reply.status_code, reply.headers, reply.text)

    async def chat(
        self, model: str, mark: str = "", *, fields: Json | None = None, **directive: Any
    ) -> Answer:
        """One chat call; `mark` makes the prompt its own, the directive tells the provider what to play."""
        said = f"{mark} {json.dumps(directive)}" if directive else mark
        body: Json = {"model": model, "messages": [{"role": "user", "content": said or "hello"}]}
        return await self.post("/v1/chat/completions", body | (fields or {}))

    async def stream(
        self, model: str, mark: str = "", *, fields: Json | None = None, **directive: Any
    ) -> Answer:
        """The same as a stream, read to its end."""
        streamed: Json = {"stream": True, "stream_options": {"include_usage": True}}
        return await self.chat(model, mark, fields=streamed | (fields or {}), **directive)

    async def leave_stream(
        self, body: Json, events: int, path: str = "/v1/chat/completions", **headers: str
    ) -> None:
        """Request a stream, of a chat or at another path, and hang up after this many events."""
        sent = {"authorization": f"Bearer {KEY}"} | headers
        async with (
            httpx.AsyncClient(verify=NO_TLS, timeout=40) as client,
            client.stream("POST", self.url + path, json=body, headers=sent) as reply,
        ):
            received = 0
            async for line in reply.aiter_lines():
                received += line.startswith("data: ")
                if received == events:
                    break

    async def ask(self, mode: Mode, model: str, mark: str, **directive: Any) -> Answer:
        """A chat call, whole or streamed."""
        return await (self.stream if mode == "stream" else self.chat)(model, mark, **directive)


def deployment(group: str, model: str, provider: Provider, **more: Any) -> Json:
    """A deployment on the scripted provider; `id` and price are given, the rest goes to `litellm_params`."""
    family = model.partition("/")[0]
    identity = more.pop("id", group)
    params = {"model": model, "api_base": provider.base(family), "api_key": PROVIDER_KEY} | more
    info = {"id": identity, "input_cost_per_token": 0.000001, "output_cost_per_token": 0.000002}
    return {"model_name": group, "litellm_params": params, "model_info": info}


def provider_spec(port: int, record: Path | None = None) -> process.ProcessSpec:
    """The scripted provider as a program; with `record` each call is a line of that file, none is kept."""
    words = ("--port", str(port), *(("--record", str(record)) if record else ()))
    return process.ProcessSpec(
        name=f"provider-{port}",
        argv=(sys.executable, str(PROVIDER), *words),
        env=dict(os.environ),
        readiness_probe=lambda _: is_up(port, "/_calls"),
    )


@contextmanager
def run_provider(folder: Path) -> Generator[Provider]:
    """The scripted provider, until the block ends."""
    port = probe.free_port()
    started = process.start(provider_spec(port), folder / "logs")
    try:
        process.wait_until_ready([started])
        yield Provider(f"http://127.0.0.1:{port}")
    finally:
        process.stop([started])


def sidecar_spec(config: Path, port: int, env: Mapping[str, str]) -> process.ProcessSpec:
    """A sidecar as a program, with nothing in its environment but what is given.

    `WATCHED_FILE` in it takes its route out away; each connection and lookup is a line of that file.
    """
    watched = env.get("WATCHED_FILE")
    program = (str(WATCHED), watched) if watched else ("-m", "llm_proxy.sidecar")
    words = (*program, "--config", str(config), "--port", str(port))
    return process.ProcessSpec(
        name=f"sidecar-{port}",
        argv=(str(sidecar_python()), *words),
        env=passed_on() | {"LITELLM_MASTER_KEY": KEY, "LLM_PROXY_SIDECAR_LEAVE_S": "0"} | dict(env),
        readiness_probe=lambda _: is_up(port, "/health/readiness"),
        cwd=config.parent,
        ready_timeout_s=90,
    )


def forked_sidecars_spec(config: Path, ports: Sequence[int], env: Mapping[str, str]) -> process.ProcessSpec:
    """A parent that forks a sidecar for each port."""
    return forking(sidecar_spec(config, ports[0], env), ports)


@contextmanager
def run_sidecar(config: Json, provider: Provider, folder: Path, **env: str) -> Generator[Sidecar]:
    """A sidecar with this configuration, until the block ends."""
    file = folder / f"litellm-{uuid4()}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with run_sidecar_from_file(file, provider, folder, **env) as sidecar:
        yield sidecar


@contextmanager
def run_sidecar_from_file(file: Path, provider: Provider, folder: Path, **env: str) -> Generator[Sidecar]:
    """A sidecar with the configuration that lies there."""
    port = probe.free_port()
    started = warm_sidecars.start(sidecar_spec(file, port, env), folder / "logs")
    try:
        process.wait_until_ready([started])
        yield Sidecar(
            f"http://127.0.0.1:{port}", provider, started.popen.pid, folder / "logs" / f"sidecar-{port}.log"
        )
    finally:
        process.stop([started])
