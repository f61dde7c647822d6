"""A gateway before a real sidecar with prices, and what each call cost in the logs of both."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
from running_stack import ADMIN_KEY, say
from running_stack import KEY as CALLER_KEY
from sidecars import KEY, Json, Mode, Provider, run_sidecar
from stack_processes import serve_gateway

from llm_proxy.schema import migrate


@dataclass(frozen=True, slots=True)
class PricedGateway:
    """A gateway before a sidecar with prices, on a database of its own."""

    url: str
    dsn: str

    async def ask(self, path: str, **parameters: str) -> Json:
        """An admin's question."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx.AsyncClient(headers=headers, timeout=30) as client:
            answer = await client.get(self.url + path, params=parameters)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    async def call(self, group: str, text: str, mode: Mode = "chat", **more: Any) -> str:
        """One chat or completion; returns its request id."""
        words: Json = {"prompt": text} if group == "text" else {"messages": say(text)}
        path = "/v1/completions" if group == "text" else "/v1/chat/completions"
        return await self.post(path, {"model": group, "stream": mode == "stream"} | words | more)

    async def post(self, path: str, body: Json, file: tuple[str, bytes] | None = None) -> str:
        """One call, as a form if it has a file of this name; returns its request id."""
        headers = {"Authorization": f"Bearer {CALLER_KEY}"}
        async with httpx.AsyncClient(headers=headers, timeout=30) as client:
            if file is None:
                answer = await client.post(self.url + path, json=body)
            else:
                answer = await client.post(self.url + path, data=body, files={file[0]: ("a.png", file[1])})
        assert answer.status_code == 200, answer.text
        request_id: str = answer.headers["x-request-id"]
        return request_id

    async def logged(self, request_id: str) -> Json:
        """The call's story with what LiteLLM's log says of it."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx.AsyncClient(headers=headers, timeout=30) as client, asyncio.timeout(20):
            while True:
                reported = await client.get(f"{self.url}/v1/requests/{request_id}")
                story: Json = reported.json()
                if story.get("model_calls"):
                    return story
                await asyncio.sleep(0.1)


@contextmanager
def run_priced_gateway(
    provider: Provider, config: Json, folder: Path, *, postgres_url: str, limits_redis_url: str
) -> Generator[PricedGateway]:
    """A gateway whose sidecar has this configuration of LiteLLM, until the block ends."""
    name = f"prices_{uuid4().hex}"
    dsn = f"{postgres_url.rpartition('/')[0]}/{name}"

    async def made() -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        await migrate(dsn)

    asyncio.run(made())
    stores = {"DATABASE_URL": dsn, "LIMITS_REDIS_URL": limits_redis_url, "LLM_PROXY__ADMIN_KEY": ADMIN_KEY}
    keys = {"LITELLM_MASTER_KEY": KEY, "LLM_PROXY__INTERNAL_API_KEY": CALLER_KEY}
    with (
        run_sidecar(config, provider, folder, LLM_CALLS_DATABASE_URL=dsn) as sidecar,
        serve_gateway(folder, [sidecar.url], stores | keys) as gateway,
    ):
        yield PricedGateway(gateway.url, dsn)
