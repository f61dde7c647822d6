"""A `Call` in, a `Reply` out: the pool of sidecars, their catalogue, deadlines, errors and frames."""

from llm_proxy.upstream.catalog import Catalog, Deployment, Group
from llm_proxy.upstream.client import Client
from llm_proxy.upstream.controls import Controls
from llm_proxy.upstream.deadlines import Deadlines, Wait, deadlines
from llm_proxy.upstream.errors import stream_refusal
from llm_proxy.upstream.estimate import said_tokens
from llm_proxy.upstream.keeper import Keeper
from llm_proxy.upstream.pool import Pool
from llm_proxy.upstream.pretend import MockUpstream
from llm_proxy.upstream.purge import Purged, purge
from llm_proxy.upstream.reply import Reply
from llm_proxy.upstream.room import Room
from llm_proxy.upstream.said import NOBODY_SERVED, Hop, Served
from llm_proxy.upstream.usage import Usage
from llm_proxy.upstream.watch import Watch, Watches, Why, interruption

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
