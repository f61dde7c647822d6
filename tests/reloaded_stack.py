"""`llm-proxy up` with the scripted provider, reloaded under a steady load."""

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import openai
import yaml
from running_stack import Json, say, script
from sidecars import Provider, deployment
from steady_calls import steady_calls
from up_command import UpCommand, bare_environment

EVERY_S = 0.05


def write(folder: Path, provider: Provider, *groups: str, **more: Json) -> None:
    """A configuration with these groups."""
    models = [deployment(group, f"openai/{group}", provider, api_key="none") for group in groups]
    (folder / "litellm.yaml").write_text(yaml.safe_dump({"model_list": models, **more}), encoding="utf-8")


def reload(stack: UpCommand) -> "subprocess.CompletedProcess[str]":
    """Runs `llm-proxy reload`."""
    argv = [sys.executable, "-m", "llm_proxy", "reload"]
    return subprocess.run(
        argv, cwd=stack.folder, env=bare_environment(), capture_output=True, text=True, check=False
    )


@dataclass(slots=True)
class Load:
    """The results of a steady load; `keys` are sent in turn."""

    keys: list[str]
    answered: int = 0
    streamed: int = 0
    failed: list[str] = field(default_factory=list[str])
    ids: list[str] = field(default_factory=list[str])


@asynccontextmanager
async def steady_load(stack: UpCommand) -> AsyncGenerator[Load]:
    """Twenty calls a second, every third a stream that takes a second, until the block ends."""
    load = Load([stack.client().api_key])
    async with (
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{stack.port}/v1", api_key="each call has its own", max_retries=0
        ) as sdk,
        steady_calls(EVERY_S, partial(_one, sdk, load)),
    ):
        yield load


async def _one(sdk: openai.AsyncOpenAI, load: Load, turn: int) -> None:
    sdk = sdk.with_options(api_key=load.keys[turn // 3 % len(load.keys)])
    try:
        if turn % 3 == 0:
            said = say(script(do="ok", frames=20, gap_ms=50))
            stream = await sdk.chat.completions.create(model="steady", messages=said, stream=True)
            load.ids.append(stream.response.headers["x-request-id"])
            ends = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
            assert ends[-1] == "stop"
            load.streamed += 1
        else:
            reply = await sdk.chat.completions.with_raw_response.create(model="steady", messages=say("hello"))
            load.ids.append(reply.headers["x-request-id"])
            load.answered += 1
    except (openai.OpenAIError, httpx.HTTPError, AssertionError) as fault:
        load.failed.append(repr(fault))
