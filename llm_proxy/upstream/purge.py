"""Deleting cached answers: the gateway has no connection to the cache's Redis, so its sidecars do it.

Invariants: every sidecar is asked, because each holds embeddings in its own memory; what was deleted is
returned also when some of it failed.
"""

import asyncio
from typing import NamedTuple

import orjson

from llm_proxy.errors import NotFound, UpstreamUnreachable
from llm_proxy.json_access import as_object
from llm_proxy.upstream.cache_keys import patterns
from llm_proxy.upstream.client import Client
from llm_proxy.upstream.pool import Sidecar
from llm_proxy.upstream.wire import NotConnected

PATH = "/llmp/cache"
TIMEOUT_S = 60.0


class Purged(NamedTuple):
    """What a purge did.

    Attributes:
        entries: Cached answers and embeddings that were deleted.
        complete: Every sidecar looked through the whole cache.
    """

    entries: int
    complete: bool


async def purge(client: Client, tenant: str | None, model: str | None) -> Purged:
    """Delete the cached answers of a tenant, a model, or both; all of them without either.

    Raises:
        NotFound: No sidecar has a cache it can purge.
        UpstreamUnreachable: No sidecar runs.
    """
    group = client.catalog.resolved(model) if client.catalog is not None and model is not None else model
    body = orjson.dumps({"patterns": patterns(tenant, group)})
    asked = await asyncio.gather(*(_purge_at(client, one, body) for one in client.pool.sidecars))
    answers = [one for one in asked if one is not None]
    if not answers:
        raise UpstreamUnreachable("No model backend can be reached.", retry_after_s=2)
    if all(status in {404, 405} for status, _ in answers):
        raise NotFound("There is no response cache that can be purged.", code="no_cache")
    return Purged(sum(entries for _, entries in answers), all(status == 200 for status, _ in answers))


async def _purge_at(client: Client, sidecar: Sidecar, body: bytes) -> tuple[int, int] | None:
    """The status of one sidecar's answer, 0 for none, and what it deleted; None when it does not run."""
    try:
        status, raw = await client.delete(sidecar, PATH, body, timeout_s=TIMEOUT_S)
        entries = as_object(orjson.loads(raw)).get("purged")
    except NotConnected:
        return None
    except OSError:
        return 0, 0
    except orjson.JSONDecodeError:
        return 404, 0  # an unmodified LiteLLM's page
    return status, entries if isinstance(entries, int) else 0
