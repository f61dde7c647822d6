"""The noun upstream makes: what the sidecar answered, before a byte of it reaches the caller.

Invariants: `headers` of the sidecar never leave this stage; what may be told of them is in `Served`.
Money: integer nano-dollars, rounded up once, here.
"""

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from llm_proxy.upstream.frames import Frames

CacheState = Literal["hit", "miss", "off"]


class Hop(NamedTuple):
    """One attempt at a provider.

    Attributes:
        status: The HTTP status it ended with; 0 when there was none.
        refused: The provider did not accept the deployment's credentials.
    """

    group: str
    deployment: str
    status: int
    refused: bool = False


class Served(NamedTuple):
    """Who answered, as far as the sidecar says; None means it did not say.

    Attributes:
        group: The model group that answered (after a fallback, the fallback's).
        physical: The provider's own model name, without the provider prefix.
        provider: The provider's name (`openai`, `anthropic`, ...).
        deployment: The deployment's id in the sidecar's configuration.
        cost_nano_usd: What the sidecar says the call cost, be it 0; streams say it in their usage frame.
        attempts: Calls made to providers for this request.
        sidecar_ms: The sidecar's own share of the time.
        hops: Every attempt, in order; None when the sidecar does not tell them.
        fallback_from: The model group that was asked first, where another one answered.
    """

    group: str | None = None
    physical: str | None = None
    provider: str | None = None
    deployment: str | None = None
    cost_nano_usd: int | None = None
    cache: CacheState = "miss"
    attempts: int | None = None
    sidecar_ms: float | None = None
    hops: tuple[Hop, ...] | None = None
    fallback_from: str | None = None


NOBODY_SERVED = Served()


class Usage(NamedTuple):
    """Tokens as an answer states them.

    Attributes:
        counted: The sidecar counted them, for want of the provider's word.
        details: JSON: further parts of the tokens, as `token_details` names them; None when there are none.
        service_tier: The tier the answer states.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_nano_usd: int | None = None
    counted: bool = False
    cache_write_tokens: int | None = None
    details: str | None = None
    service_tier: str | None = None


class Reply(Protocol):
    """An answer on its way: either one JSON body or a stream of frames.

    Attributes:
        served: Who answered.
        frames: The stream's frames; None when the answer is one body.
    """

    served: Served
    frames: "Frames | None"

    async def json(self) -> tuple[bytes, Usage | None]:
        """The whole body, LiteLLM's additions taken out, and what it says was used."""
        ...

    async def chunk(self) -> bytes | None:
        """The next bytes that may go out now (perhaps none); None when the stream has ended."""
        ...

    def close(self) -> None:
        """Let go of the connection; unread, it is closed, and the provider is cancelled."""
        ...
