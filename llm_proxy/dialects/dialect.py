"""What a dialect is: one frozen object that parses a body into a `Call` and renders the answer.

Invariants: pure; `parse` raises only `APIError`; what a dialect accepts and renders is fixed in
`docs/dialects.md`. A new dialect is one module with one such object, and its line in `routes`. `parse`
chooses the call's endpoint: its own where `speaks_natively`, else chat completions, and translates.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from llm_proxy.dialects.call import Call, Count
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.endpoints import Endpoint, Wire
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The bounds of a body.

    Attributes:
        max_tokens_cap: Completion tokens that the caller's key may request at most; None without a cap.
        private_urls: Links into private networks are allowed.
    """

    max_depth: int = 64
    max_messages: int = 4096
    max_tokens_cap: int | None = None
    private_urls: bool = False


def _allow_all(_group: str) -> bool:
    return True


def _unknown_endpoints(_group: str) -> frozenset[Endpoint] | None:
    return None


def _no_providers(_group: str) -> frozenset[str]:
    return frozenset()


def _unknown_size(_group: str) -> int | None:
    return None


def _translated(_group: str, _wire: Wire) -> bool:
    return False


class ServingGroup(NamedTuple):
    """What serves a name.

    Attributes:
        name: The group's name, or an alias of it.
        group: The group.
        endpoints: What the group serves; None where that is unknown, and it may be anything.
        providers: The providers that a call may reach, through the group's fallbacks too.
    """

    name: str
    group: str
    endpoints: frozenset[Endpoint] | None
    providers: frozenset[str]


@dataclass(frozen=True, slots=True)
class ModelIndex:
    """The names of the catalog at one moment.

    Attributes:
        default: Model for a request that may omit it.
        groups: Every exact group and its providers; None while no catalog was read, and then names pass
            unchanged.
        wildcards: Groups with a `*` (`openai/*`); a mapping also has the providers of each.
        aliases: Other names of groups, and the group of each.
        default_models: Models for requests of other endpoints than conversations that omit it.
        default_chosen: An operator chose the default, so that any caller who may use it may omit the model.
        is_allowed: Whether the caller may use a group; one that it may not does not exist for it.
        endpoints: What a group serves; None where that is unknown, and it may be anything.
        served: What any group serves, whoever may use it; None where one may serve anything.
        fallback_providers: The providers that a call of a group may reach through its fallbacks.
        max_output_tokens: The most completion tokens that every deployment of a group can make, where known.
        speaks_natively: Whether every deployment a call of a group may reach, through its fallbacks too,
            speaks an endpoint's own protocol.
        guardrails: The guardrails that a request may name.
        resolved_names: What `model_resolution.find_served` has found, by name and chosen provider.
        repeated_settings: What `repeated_settings.build_chat` keeps of calls.
    """

    default: str = "gpt-3.5-turbo"
    groups: Mapping[str, frozenset[str]] | None = None
    wildcards: Mapping[str, frozenset[str]] | tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    default_models: Mapping[Endpoint, str] = field(default_factory=dict[Endpoint, str])
    default_chosen: bool = False
    is_allowed: Callable[[str], bool] = _allow_all
    endpoints: Callable[[str], frozenset[Endpoint] | None] = _unknown_endpoints
    served: frozenset[Endpoint] | None = None
    fallback_providers: Callable[[str], frozenset[str]] = _no_providers
    max_output_tokens: Callable[[str], int | None] = _unknown_size
    speaks_natively: Callable[[str, Wire], bool] = _translated
    guardrails: frozenset[str] = frozenset()
    resolved_names: dict[tuple[str, str | None], ServingGroup] = field(
        init=False, repr=False, compare=False, default_factory=dict[tuple[str, str | None], ServingGroup]
    )
    repeated_settings: dict[tuple[Any, ...], Call] = field(
        init=False, repr=False, compare=False, default_factory=dict[tuple[Any, ...], Call]
    )

    def resolved(self, name: str) -> str:
        """Returns the group of an alias; any other name unchanged."""
        return self.aliases.get(name, name)


class ResponseMeta(NamedTuple):
    """An answer's provider, model and duration, for the dialects that include them.

    Attributes:
        provider: The provider's name; None when unknown.
        provider_model: The provider's model name without its prefix; None when unknown.
        latency_ms: Milliseconds from admission to now.
    """

    provider: str | None = None
    provider_model: str | None = None
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model group as it is listed; None is unknown.

    Attributes:
        context_window: Tokens a prompt may have at any of its deployments.
        created: When it was made, in seconds since 1970; 0 when unknown.
        endpoints: The paths that serve it.
    """

    name: str
    provider: str = "unknown"
    provider_model: str = ""
    max_tokens: int | None = None
    mode: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    created: int = 0
    endpoints: tuple[str, ...] = ()


HeaderPairs = tuple[tuple[str, str], ...]


class StreamRenderer(Protocol):
    """One stream on its way to a caller whose frames are not the sidecar's."""

    def feed(self, chunk: bytes) -> bytes:
        """Takes frames of the call's `endpoint`, any chunking, without `[DONE]`; returns this dialect's."""
        ...

    def end(self, meta: ResponseMeta) -> bytes:
        """The frames that end a complete stream, `[DONE]` included where the dialect has it."""
        ...

    def fail(self, error: APIError) -> bytes:
        """The frames that end a stream that failed; `end` is not called."""
        ...

    def ping(self) -> bytes:
        """The frame for a caller who waits, before the first frame too; no bytes where there is none."""
        ...


class Dialect(Protocol):
    """One request and response format that callers may use."""

    @property
    def name(self) -> str:
        """Its name in records."""
        ...

    def parse(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Call:
        """Returns the call of a body; raises `BadRequest` naming the field, or `ModelNotFound`."""
        ...

    def render(self, call: Call, reply: bytes, meta: ResponseMeta) -> bytes:
        """Renders the JSON answer of the call's `endpoint`; raises `ProviderFailed` when it is none."""
        ...

    def open_stream(self, call: Call) -> StreamRenderer | None:
        """Returns the renderer of one stream; None when OpenAI's bytes pass unchanged, errors in a frame."""
        ...

    def error(self, error: APIError, request_id: str = "") -> Json:
        """The body of an error; of one in a stream, too, where `open_stream` returned None."""
        ...

    def status(self, error: APIError) -> int:
        """The HTTP status of an error; records have the error's own."""
        ...

    def headers(self, request_id: str, error: APIError | None = None) -> HeaderPairs:
        """The headers that this dialect's clients read, beside those of every answer."""
        ...

    def render_models(self, listed: Iterable[ListedModel]) -> Json:
        """The body that lists the models."""
        ...


class CountingDialect(Protocol):
    """A dialect whose prompts can be counted."""

    def parse_count(
        self, body: bytes, options: RequestOptions, models: ModelIndex, limits: BodyLimits
    ) -> Count:
        """Returns what to count of a body; raises `BadRequest` or `ModelNotFound`."""
        ...
