"""Whether a key's models are served, asked of the gateway that runs; where none answers, nobody warns."""

from collections.abc import Iterable
from typing import Any

import click
import httpx

from llm_proxy.cli import nearby
from llm_proxy.wildcards import covers

_PATIENCE_S = 2


def warn_of_unserved(models: Iterable[str]) -> None:
    """One line on standard error for each name or wildcard that fits no model group; never fails."""
    groups = _groups()
    for one in models if groups else ():
        if not any(covers(one, group) or covers(group, one) for group in groups):
            click.echo(
                f"llm-proxy: no model group served now fits {one!r} (`llm-proxy models` lists them)", err=True
            )


def _groups() -> list[str]:
    settings = nearby.settings()
    key = settings.admin_read_key or settings.admin_key
    if key is None:
        return []
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
    try:
        url = f"{nearby.gateway_url(settings)}/admin/models"
        told: Any = httpx.get(url, headers=headers, timeout=_PATIENCE_S).raise_for_status().json()
        return [str(group["id"]) for group in told["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []
