"""The noun upstream makes: what the sidecar answered, before a byte of it reaches the caller.

Invariants: `headers` of the sidecar never leave this stage; what may be told of them is in `Served`.
Money: integer nano-dollars, rounded up once, here.
"""

from dataclasses import dataclass
from typing import Literal

CacheState = Literal["hit", "miss", "off"]


@dataclass(frozen=True, slots=True)
class Served:
    """Who answered, as far as the sidecar says; None means it did not say.

    Attributes:
        group: The model group that answered (after a fallback, the fallback's).
        physical: The provider's own model name, without the provider prefix.
        provider: The provider's name (`openai`, `anthropic`, ...).
        deployment: The deployment's id in the sidecar's configuration.
        cost_nano_usd: What the sidecar says the call cost; streams say it in their usage frame.
        attempts: Calls made to providers for this request.
    """

    group: str | None = None
    physical: str | None = None
    provider: str | None = None
    deployment: str | None = None
    cost_nano_usd: int | None = None
    cache: CacheState = "miss"
    attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider stated them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_nano_usd: int | None = None
