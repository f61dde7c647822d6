"""A `Call` in, a `Reply` out: the pool of sidecars, their catalogue, deadlines, errors and frames."""

from llm_proxy.upstream.call_guard import Deadlines, Wait, Watch, Watches, Why, deadlines, interruption
from llm_proxy.upstream.catalog import Catalog, Deployment, Group
from llm_proxy.upstream.client import Client, Purged, purge
from llm_proxy.upstream.error_mapping import stream_refusal
from llm_proxy.upstream.litellm_protocol import NOBODY_SERVED, Controls, Hop, Served
from llm_proxy.upstream.mock.upstream import MockUpstream
from llm_proxy.upstream.monitor import Keeper
from llm_proxy.upstream.pool import Pool, Room
from llm_proxy.upstream.reply import Reply
from llm_proxy.upstream.token_usage import Usage, said_tokens

__all__ = [
    "NOBODY_SERVED",
    "Catalog",
    "Client",
    "Controls",
    "Deadlines",
    "Deployment",
    "Group",
    "Hop",
    "Keeper",
    "MockUpstream",
    "Pool",
    "Purged",
    "Reply",
    "Room",
    "Served",
    "Usage",
    "Wait",
    "Watch",
    "Watches",
    "Why",
    "deadlines",
    "interruption",
    "purge",
    "said_tokens",
    "stream_refusal",
]
