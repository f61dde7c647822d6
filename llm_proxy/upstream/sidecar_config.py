"""The sidecars' reports: on their configuration file as it is now, and on deployments that cool down."""

import asyncio
from datetime import UTC, datetime

import orjson

from llm_proxy.errors import NotFound, backend_unreachable
from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.upstream.client import SidecarClient
from llm_proxy.upstream.pool import Sidecar

CONFIG_PATH, COOLDOWNS_PATH = "/llmp/config", "/llmp/cooldowns"
TIMEOUT_S, COOLDOWNS_TIMEOUT_S = 10.0, 2.0


async def read_sidecar_config(client: SidecarClient) -> Json:
    """Returns the file's name, by sidecar when it was loaded and whether it has changed since, and findings.

    Findings are those of one sidecar: all run with the same file and variables.

    Raises:
        NotFound: The sidecars have no such report: they are an unmodified LiteLLM.
        UpstreamUnreachable: No sidecar answers.
    """
    answers = await asyncio.gather(
        *(_read(client, one, CONFIG_PATH, TIMEOUT_S) for one in client.pool.sidecars)
    )
    found = [one for one in answers if one is not None]
    if not found:
        raise backend_unreachable()
    reports = [one for one in found if "findings" in one]
    if not reports:
        raise NotFound("The sidecars do not report their configuration.", code="no_config")
    latest = max(reports, key=lambda one: str(one.get("loaded_at")))
    return {
        "file": latest.get("file"),
        "sidecars": [{"loaded_at": one.get("loaded_at"), "changed": one.get("changed")} for one in reports],
        "findings": as_list(latest.get("findings")),
    }


async def read_cooldowns(client: SidecarClient) -> dict[str, Json]:
    """Returns the deployments that a sidecar leaves alone for now, by id: `until`, `status` and `sidecars`.

    Sidecars with one Redis share their cooldowns; `sidecars` is how many have this one. A sidecar that does
    not answer, or an unmodified LiteLLM, adds none.
    """
    answers = await asyncio.gather(
        *(_read(client, one, COOLDOWNS_PATH, COOLDOWNS_TIMEOUT_S) for one in client.pool.sidecars)
    )
    found: dict[str, Json] = {}
    for answer in answers:
        for name, one in as_object((answer or {}).get("cooldowns")).items():
            until, status = as_object(one).get("until"), as_object(one).get("status")
            if isinstance(until, int | float) and isinstance(status, str):
                before = found.setdefault(name, {"until": until, "status": status, "sidecars": 0})
                before["until"] = max(before["until"], until)
                before["sidecars"] += 1
    return {
        name: one | {"until": datetime.fromtimestamp(one["until"], UTC).isoformat(timespec="seconds")}
        for name, one in found.items()
    }


async def _read(client: SidecarClient, sidecar: Sidecar, path: str, timeout_s: float) -> Json | None:
    """Returns a sidecar's report, empty where it does not know the route; None when it does not answer."""
    try:
        status, body = await client.get(sidecar, path, timeout_s=timeout_s)
        return as_object(orjson.loads(body)) if status == 200 else {}
    except (OSError, TimeoutError):
        return None
    except orjson.JSONDecodeError:
        return {}
