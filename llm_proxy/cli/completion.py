"""Shell completion of keys' and models' names, asked of the database and the running gateway.

Invariants: never fails and never prints: where nothing answers within `DEADLINE_S`, nothing is offered.
Set up with `eval "$(_LLM_PROXY_COMPLETE=bash_source llm-proxy)"` (docs/cli.md).
"""

import asyncio
from typing import Any

import click
import httpx

from llm_proxy.cli import nearby
from llm_proxy.errors import Refused
from llm_proxy.identity import Registry
from llm_proxy.identity.opened import opened_pool

DEADLINE_S = 2.0
MOST_KEYS = 1000


def complete_keys(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Names of keys that are not revoked."""
    try:
        return asyncio.run(_keys(incomplete))
    except (click.ClickException, Refused, TimeoutError, OSError):
        return []


def complete_models(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Names of model groups."""
    try:
        return [name for name in served_models() if name.startswith(incomplete)]
    except click.ClickException:
        return []


def served_models() -> list[str]:
    """The model groups of the running gateway; empty where none answers."""
    settings = nearby.settings()
    key = settings.admin_read_key or settings.admin_key
    if key is None:
        return []
    try:
        with nearby.gateway(settings, key, None, timeout_s=DEADLINE_S) as client:
            told: Any = client.get("/admin/models").raise_for_status().json()
        return [str(group["id"]) for group in told["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []


async def _keys(incomplete: str) -> list[str]:
    settings = nearby.settings()
    url = settings.database_url
    if url is None:
        return []
    async with (
        asyncio.timeout(DEADLINE_S),
        opened_pool(url.get_secret_value(), settings.tls_for(url)) as pool,
    ):
        page = await Registry(pool).page(limit=MOST_KEYS)
    return [one.spec.name for one in page if one.revoked_at is None and one.spec.name.startswith(incomplete)]
