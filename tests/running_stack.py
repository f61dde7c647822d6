"""`RunningStack`, which a flow test holds: the gateway's address, its keys, the SDK, the provider's calls.

The stack is a gateway, a sidecar, stores and the scripted provider on loopback ports.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import openai
from loopback import NO_TLS

Json = dict[str, Any]

KEY = "stack-key-0123456789abcdef"
ADMIN_KEY = "stack-admin-0123456789abcdef"
MASTER_KEY = "sk-stack-master-0123456789abcdef"
PROVIDER_KEY = "sk-provider-canary-0123456789abcdef"


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A running gateway and what stands behind it."""

    url: str
    key: str
    admin_key: str
    provider_url: str
    openai: openai.AsyncOpenAI

    @property
    def auth(self) -> dict[str, str]:
        """The caller's credential as a header."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def port(self) -> int:
        """The gateway's port."""
        return int(self.url.rpartition(":")[2])

    async def new_key(self, **spec: object) -> str:
        """Returns a new virtual key of a tenant of its own, for every model."""
        body = {"name": uuid4().hex, "tenant": uuid4().hex, "models": ["*"], **spec}
        headers = {"Authorization": f"Bearer {self.admin_key}"}
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            made = await client.post(f"{self.url}/admin/keys", json=body, headers=headers)
        assert made.status_code == 201, made.text
        key: str = made.json()["key"]
        return key

    async def calls(self) -> list[Json]:
        """Returns the calls the provider saw, oldest first."""
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            found: list[Json] = (await client.get(f"{self.provider_url}/_calls")).json()["calls"]
        return found

    async def story_of_rejection(self, reject: Callable[[], Awaitable[httpx.Response]]) -> Json:
        """Returns the detail of a rejected request, which is sent again until it is in the sample.

        That has ten requests of a second, of all tests together.
        """
        for _ in range(5):
            answer = await reject()
            with contextlib.suppress(TimeoutError):
                return await self.story(answer.headers["x-request-id"], within_s=5)
        raise TimeoutError

    async def story(self, request_id: str, within_s: float = 15) -> Json:
        """Returns a request's detail once it is recorded; raises `TimeoutError`."""
        async with httpx.AsyncClient(
            verify=NO_TLS, headers={"Authorization": f"Bearer {self.admin_key}"}
        ) as client:
            async with asyncio.timeout(within_s):
                while (reply := await client.get(f"{self.url}/v1/requests/{request_id}")).status_code != 200:  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.05)
        found: Json = reply.json()
        return found


def say(text: str) -> Any:
    """Returns the messages of a chat with one user message."""
    return [{"role": "user", "content": text}]


def script(**directive: Any) -> str:
    """Returns a message text that tells the provider what to do; `do` comes first."""
    return "please " + json.dumps(directive)
