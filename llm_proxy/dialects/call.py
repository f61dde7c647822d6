"""The noun dialects make: one request in OpenAI's shape, whatever shape it came in.

Invariants: `body` holds only what may travel to the sidecar, in a fixed field order; `model` is the
name as asked, `group` the model group it resolved to; nothing here names an HTTP framework.
"""

from dataclasses import dataclass
from typing import NamedTuple

from llm_proxy.endpoints import Endpoint
from llm_proxy.identity import NO_ATTRIBUTION, Attribution
from llm_proxy.json_access import Json


@dataclass(frozen=True, slots=True)
class CacheControl:
    """What the caller's `Cache-Control` asks of the response cache (RFC 9111, 5.2.1)."""

    no_cache: bool = False
    no_store: bool = False
    max_age_s: int | None = None


DEFAULT_CACHE_CONTROL = CacheControl()


class Call(NamedTuple):
    """One model call to be admitted and forwarded.

    Attributes:
        endpoint: Which OpenAI endpoint it is, whatever path it came by.
        dialect: Which vocabulary it came in (`openai`, `internal`, `generate`).
        model: The name the caller sent (or the default model).
        group: The model group of the sidecar that serves it.
        body: What goes upstream, OpenAI's schema.
        streaming: The caller wants server-sent events.
        wants_usage: The caller itself asked for the usage frame of a stream.
        attribution: Whom the body names.
        max_tokens: Completion tokens the request asks for at most; None when it does not say.
        prompt_bytes: Size of what is sent, the base of the token estimate.
        timeout_s: The caller's own deadline, already clamped; None for the default.
    """

    endpoint: Endpoint
    dialect: str
    model: str
    group: str
    body: Json
    streaming: bool = False
    wants_usage: bool = False
    attribution: Attribution = NO_ATTRIBUTION
    max_tokens: int | None = None
    prompt_bytes: int = 0
    choices: int = 1
    cache: CacheControl = DEFAULT_CACHE_CONTROL
    timeout_s: float | None = None
