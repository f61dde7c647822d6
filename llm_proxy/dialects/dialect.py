"""What a dialect is: one frozen object that reads a body into a `Call` and writes the answer back.

Invariants: pure; `read` raises nothing but `APIError`; what a dialect reads and writes is fixed in
`docs/dialects.md`. A new dialect is one module with one such object.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from llm_proxy.dialects.call import CacheControl, Call
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What the request's headers say about the call; made by `hints.read_hints`.

    Attributes:
        provider: `X-Provider`, lower case.
        cache: The caller's `Cache-Control`.
        timeout_s: `X-Request-Timeout` in seconds, not clamped yet.
        may_omit_model: A body without `model` means the default model (callers of `x-internal-auth`).
    """

    provider: str | None = None
    cache: CacheControl = field(default_factory=CacheControl)
    timeout_s: float | None = None
    may_omit_model: bool = False


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How much a body may hold."""

    max_depth: int = 64
    max_messages: int = 4096


def _anything(_group: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ModelIndex:
    """The catalogue at one moment, as far as names go.

    Attributes:
        default: Model for a request that may leave it out.
        groups: Every exact group and the providers behind it; None while no catalogue was read, and then
            names pass as they are.
        wildcards: Groups with a `*` (`openai/*`); a mapping also tells the providers behind each.
        aliases: Other names of groups, and the group each stands for.
        default_chosen: An operator chose the default, so that any caller who may use it may name no model.
        is_allowed: Whether the caller may use a group; one that it may not does not exist for it.
    """

    default: str = "gpt-3.5-turbo"
    groups: Mapping[str, frozenset[str]] | None = None
    wildcards: Mapping[str, frozenset[str]] | tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    default_chosen: bool = False
    is_allowed: Callable[[str], bool] = _anything


class ResponseMeta(NamedTuple):
    """Who answered and how long it took, for the dialects that tell.

    Attributes:
        provider: The provider's name; None when the sidecar did not say.
        provider_model: The provider's model name without its prefix; None when the sidecar did not say.
        latency_ms: Milliseconds from admission to now.
    """

    provider: str | None = None
    provider_model: str | None = None
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model group as it is listed; None is what nobody knows.

    Attributes:
        context_window: Tokens a prompt may have at any of its deployments.
        created: When it was made, in seconds since 1970; 0 when nobody says.
    """

    name: str
    provider: str = "unknown"
    provider_model: str = ""
    max_tokens: int | None = None
    mode: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    created: int = 0


class StreamRenderer(Protocol):
    """One stream on its way to a caller whose frames are not OpenAI's."""

    def feed(self, chunk: bytes) -> bytes:
        """OpenAI's frames in, any chunking, without `[DONE]`; this dialect's frames out."""
        ...

    def end(self, answered: ResponseMeta) -> bytes:
        """The frames that close a stream that ran to its end, `[DONE]` included."""
        ...


class Dialect(Protocol):
    """One vocabulary callers may speak."""

    @property
    def name(self) -> str:
        """What records call it."""
        ...

    def parse(
        self, door: Endpoint, body: bytes, hints: RequestOptions, models: ModelIndex, bounds: BodyLimits
    ) -> Call:
        """The call a body asks for; raises `BadRequest` naming the field, or `ModelNotFound`."""
        ...

    def render(self, reply: bytes, answered: ResponseMeta) -> bytes:
        """OpenAI's JSON answer in this dialect's words; raises `ProviderFailed` when it is none."""
        ...

    def open_stream(self, call: Call) -> StreamRenderer | None:
        """A writer for one stream; None when OpenAI's bytes pass as they are."""
        ...

    def error(self, refused: APIError) -> Json:
        """The body of a refusal."""
        ...

    def stream_error(self, refused: APIError) -> bytes:
        """The frame that ends a stream that failed after it began; no `[DONE]` follows."""
        ...

    def render_models(self, offers: Iterable[ListedModel]) -> Json:
        """The body that lists the models."""
        ...
