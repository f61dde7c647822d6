"""What the sidecars say of their configuration file: who has loaded it as it is now, what is found in it."""

import asyncio

import orjson

from llm_proxy.errors import NotFound, UpstreamUnreachable
from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.upstream.client import SidecarClient
from llm_proxy.upstream.pool import Sidecar

CONFIG_PATH = "/llmp/config"
TIMEOUT_S = 10.0


async def read_sidecar_config(client: SidecarClient) -> Json:
    """Returns the file's name, by sidecar when it was loaded and whether it has changed since, and findings.

    Findings are those of one sidecar: all run with the same file and variables.

    Raises:
        NotFound: The sidecars say nothing: they are an unmodified LiteLLM.
        UpstreamUnreachable: No sidecar answers.
    """
    answers = await asyncio.gather(*(_read(client, one) for one in client.pool.sidecars))
    found = [one for one in answers if one is not None]
    if not found:
        raise UpstreamUnreachable("No model backend can be reached.", retry_after_s=2)
    told = [one for one in found if "findings" in one]
    if not told:
        raise NotFound("The sidecars do not tell their configuration.", code="no_config")
    latest = max(told, key=lambda one: str(one.get("loaded_at")))
    return {
        "file": latest.get("file"),
        "sidecars": [{"loaded_at": one.get("loaded_at"), "changed": one.get("changed")} for one in told],
        "findings": as_list(latest.get("findings")),
    }


async def _read(client: SidecarClient, sidecar: Sidecar) -> Json | None:
    """Returns what a sidecar says, nothing where it does not know the route; None when it does not answer."""
    try:
        status, body = await client.get(sidecar, CONFIG_PATH, timeout_s=TIMEOUT_S)
        return as_object(orjson.loads(body)) if status == 200 else {}
    except (OSError, TimeoutError):
        return None
    except orjson.JSONDecodeError:
        return {}
