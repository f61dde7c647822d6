"""The protocol of gateway and sidecar around a call: fields we add, headers we read, cache keys.

Invariants: the cache namespace is the tenant's or the key's, always written by us; a call never falls back
to a model group its caller may not use; callers are named and text is shown to Langfuse only where the
operator says so; a header that is missing or invalid reads as None; a cached answer cost nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import orjson

from llm_proxy.dialects import Call
from llm_proxy.dialects.response_ids import ResponseIds
from llm_proxy.endpoints import NATIVE_ENDPOINTS, OPAQUE_ENDPOINTS
from llm_proxy.errors import Forbidden
from llm_proxy.identity import AccessPolicy, Caller, allowed_models, may_use_model
from llm_proxy.json_access import Json
from llm_proxy.money import usd_to_nano
from llm_proxy.telemetry.privacy import PayloadPolicy
from llm_proxy.upstream.catalog import Catalog, Deployment

CACHE_NAMESPACE = "litellm_caching"
TAGS_FIELD = "llm_proxy_tags"
"""The field that our sidecar shows to Langfuse, and LiteLLM does not choose deployments by."""
Headers = Mapping[bytes, bytes]
_SMALL_NUMBER = re.compile(rb"[0-9]{1,4}")
_MAX_MS = 86_400_000
_FALLBACKS = b"x-litellm-attempted-fallbacks"
_RETRY_HEADERS = (b"x-litellm-attempted-retries", _FALLBACKS)
_ROUTING_HEADERS = (
    b"x-litellm-model-name", b"x-litellm-model-group", b"x-llmp-attempts", b"x-llmp-hops", *_RETRY_HEADERS
)  # fmt: skip
_MAX_HOPS = 16
_MAX_HOPS_BYTES = 8192
_MAX_NAME_CHARS = 100
_OK = 200
CacheState = Literal["hit", "miss", "off"]


def cache_namespace(caller: Caller, group: str) -> str:
    """The namespace of a call's cached answer; LiteLLM and our sidecar append a digest of the call."""
    owner = f"key:{_quoted(caller.key_id)}" if caller.tenant is None else f"tenant:{_quoted(caller.tenant)}"
    return f"{CACHE_NAMESPACE}:{owner}:model={_quoted(group)}"


def cache_key_patterns(tenant: str | None, group: str | None) -> list[str]:
    """Redis patterns of the keys of a tenant, a model group, or both; without either, of all of them."""
    owners = ("key:*", "tenant:*", "direct:*") if tenant is None else (f"tenant:{_quoted(tenant)}",)
    model = "*" if group is None else f"model={_quoted(group)}"
    return [f"{CACHE_NAMESPACE}:{owner}:{model}:*" for owner in owners]


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return quote(text, safe="")


@dataclass(frozen=True, slots=True)
class LiteLLMControls:
    """What is added to a call for LiteLLM, by the operator's settings.

    Attributes:
        caching: Whether calls may be answered from the response cache at all.
        cache_streams: Whether streamed calls may too, at a sidecar of ours: an unmodified LiteLLM also
            caches truncated streams, and replays all with losses.
        default_models: What a caller without a list of its own may use.
        access: The kill switches; None without any.
        payload_policy: Whose text may be shown to Langfuse.
        response_ids: Makes the callers' ids of responses.
        affinity: What names calls that stay together, see `Affinity`.
    """

    caching: bool = True
    cache_streams: bool = True
    default_models: tuple[str, ...] = ()
    access: AccessPolicy | None = None
    payload_policy: PayloadPolicy = field(default_factory=PayloadPolicy)
    response_ids: ResponseIds = field(default_factory=partial(ResponseIds, None))
    affinity: tuple[str, ...] = ()

    def uses_cache(self, call: Call, caller: Caller, catalog: Catalog | None) -> bool:
        """Whether the response cache may answer this call."""
        if call.endpoint in OPAQUE_ENDPOINTS or not (self.caching and caller.cache):
            return False  # these answers do not pass through LiteLLM's cache
        if catalog is not None and call.group in catalog.test_chats:
            return False  # its answers are often wrong, and the next one may be right
        if call.endpoint == "responses" and call.body.get("store") is not False:
            return False  # the provider keeps it, under an id that two callers must not share
        return not call.streaming or (self.cache_streams and catalog is not None and catalog.is_ours)

    def body(self, call: Call, caller: Caller, catalog: Catalog | None, *, cached: bool) -> Json:
        """Returns the body to send: the call's, and our fields; `cached` is what `uses_cache` says.

        Raises:
            Forbidden: A form of a caller who may not use every fallback, which an unmodified LiteLLM ignores.
        """
        body = dict(call.body)
        if not call.files:
            body["cache"] = _cache(call, caller) if cached else {"no-cache": True, "no-store": True}
        if call.response is not None or not self._may_fall_back(str(call.body["model"]), caller, catalog):
            body["disable_fallbacks"] = True
            if call.files and not (catalog is not None and catalog.is_ours):
                raise Forbidden("Files of callers with a list of models need this project's sidecar.")
        if catalog is not None and catalog.has_langfuse:
            native = call.endpoint in NATIVE_ENDPOINTS
            body["litellm_metadata" if native else "metadata"] = _caller_metadata(caller)
        return body

    def shows_text(self, caller: Caller, catalog: Catalog | None) -> bool:
        """Whether Langfuse may have this call's prompt and answer."""
        return catalog is not None and catalog.has_langfuse and self.payload_policy.allows(caller.tenant)

    def _may_fall_back(self, name: str, caller: Caller, catalog: Catalog | None) -> bool:
        reached = catalog.fallbacks(name) if catalog else None
        if catalog is None or reached is None:  # unknown where to: only for callers that may use everything
            models = allowed_models(caller, self.default_models, catalog.names if catalog else None)
            return models is not None and all("*" in (one or ()) for one in (models, *caller.outer_models))
        return not reached or all(
            may_use_model(caller, self.default_models, catalog.names, one, catalog.resolved)
            and not (self.access is not None and self.access.is_disabled(caller, one))
            for one in reached
        )


def _cache(call: Call, caller: Caller) -> Json:
    requested = call.cache
    cache: Json = {"namespace": cache_namespace(caller, call.group)}
    if requested.no_cache:
        cache["no-cache"] = True
    if requested.no_store:
        cache["no-store"] = True
    if requested.max_age_s is not None:
        cache["s-maxage"] = requested.max_age_s
    return cache


def _caller_metadata(caller: Caller) -> Json:
    """User and session in Langfuse's fields as LiteLLM takes them; tags in a field of our sidecar's.

    LiteLLM would choose deployments by its own `tags` wherever `enable_tag_filtering` is set.
    """
    names = {"tenant": caller.tenant, "agent": caller.agent, "channel": caller.channel, "run": caller.run}
    named = [(kind, name) for kind, name in {**names, "key": caller.key_id}.items() if name]
    tags = [name if name.startswith(f"{kind}:") else f"{kind}:{name}" for kind, name in named]
    metadata: Json = {"session_id": caller.session, "trace_user_id": caller.user}
    metadata[TAGS_FIELD] = [*tags, *caller.tags]
    return {name: value for name, value in metadata.items() if value}


class ProviderAttempt(NamedTuple):
    """One attempt at a provider.

    Attributes:
        status: The provider's HTTP status; 0 where it did not answer.
        auth_rejected: The provider did not accept the deployment's credentials.
    """

    group: str
    deployment: str
    status: int
    auth_rejected: bool = False


class RoutingInfo(NamedTuple):
    """Which deployment answered, as far as the sidecar states it; None means unknown.

    Attributes:
        group: The model group that answered (after a fallback, the fallback's).
        provider_model: The provider's own model name, without the provider prefix.
        provider: The provider's name (`openai`, `anthropic`, ...).
        deployment: The deployment's id in the sidecar's configuration.
        attempts: Calls made to providers for this request.
        hops: Every attempt, in order; None when the sidecar does not list them.
        fallback_from: The model group that was requested, where another one answered.
        cost_nano_usd: The call's cost as the sidecar states it, be it 0; streams state it in their usage
            frame.
        sidecar_ms: The sidecar's own share of the time.
    """

    group: str | None = None
    provider_model: str | None = None
    provider: str | None = None
    deployment: str | None = None
    attempts: int | None = None
    hops: tuple[ProviderAttempt, ...] | None = None
    fallback_from: str | None = None
    cost_nano_usd: int | None = None
    cache: CacheState = "miss"
    sidecar_ms: float | None = None


NO_ROUTING = RoutingInfo()
_Route = tuple[
    str | None,
    str | None,
    str | None,
    str | None,
    int | None,
    tuple[ProviderAttempt, ...] | None,
    str | None,
]
"""The fields of a `RoutingInfo` that differ little from call to call: all before `cost_nano_usd`."""


def parse_routing_headers(
    headers: Headers, call: Call, catalog: Catalog | None, *, cached: bool
) -> RoutingInfo:
    """Returns who answered a call.

    Args:
        headers: Of the answer, names in lower case.
        call: The call.
        catalog: What the sidecar serves; None while unknown.
        cached: Whether the response cache could answer it.
    """
    hit = b"x-litellm-cache-key" in headers
    asked_cache = cached and headers.get(b"x-llmp-cache") != b"off"
    cache: CacheState = "hit" if hit else "miss" if asked_cache else "off"
    cost_nano_usd: int | None = 0
    if not hit:
        cost_nano_usd = None if call.streaming else usd_to_nano(_text(headers, b"x-litellm-response-cost"))
        unsound = not cost_nano_usd or call.endpoint == "audio.speech"
        if unsound and not (catalog is not None and catalog.is_ours):
            cost_nano_usd = None  # an unmodified LiteLLM writes 0 without a price, and counts no spaces
    deployment = _text(headers, b"x-litellm-model-id")
    known = _find_deployment(deployment, catalog)
    named = (known.provider, known.provider_model) if known is not None else (None, None)
    route = _route(*named, deployment, call.group, hit, *map(headers.get, _ROUTING_HEADERS))
    return RoutingInfo(*route, cost_nano_usd, cache, _milliseconds(headers))


@lru_cache(maxsize=1024)
def _route(
    provider: str | None,
    physical: str | None,
    deployment: str | None,
    asked: str,
    hit: bool,  # noqa: FBT001 -- a cache's key
    *stated: bytes | None,
) -> _Route:
    """Returns who answered a call of the group `asked`: the first fields of `RoutingInfo`.

    Most calls of a deployment state the same in `_ROUTING_HEADERS`.
    """
    headers = {name: value for name, value in zip(_ROUTING_HEADERS, stated, strict=True) if value is not None}
    attempts = _attempt_count(headers) or 1 + sum(_count(headers, name) for name in _RETRY_HEADERS)
    if not physical or "*" in physical:
        named, physical = _split_model_name(_text(headers, b"x-litellm-model-name"))
        provider = provider or named
    group = _text(headers, b"x-litellm-model-group") or asked
    hops = _hops(headers, group, deployment)
    fallback_from = _fallback_from(headers, hops, asked)
    if hit:
        hops = tuple(attempt for attempt in hops or () if attempt.status != _OK)
        attempts = len(hops)
    return group, physical, provider, deployment, attempts, hops, fallback_from


def parse_failure_headers(headers: Headers, call: Call, catalog: Catalog | None) -> RoutingInfo:
    """Returns who failed to answer a call, at a sidecar of ours; at an unmodified LiteLLM nothing is known.

    Args:
        headers: Of the sidecar's error, names in lower case.
        call: The call.
        catalog: What the sidecar serves; None while unknown.
    """
    deployment = _text(headers, b"x-llmp-deployment")
    known = _find_deployment(deployment, catalog)
    return RoutingInfo(
        group=call.group,
        provider_model=known.provider_model if known and "*" not in known.provider_model else None,
        provider=known.provider if known else None,
        deployment=deployment,
        attempts=_attempt_count(headers),
        hops=_hops(headers, None, None),
    )


def _attempt_count(headers: Headers) -> int | None:
    """Returns the attempts as our sidecar counts them; LiteLLM leaves out those before a fallback."""
    value = headers.get(b"x-llmp-attempts", b"")
    return int(value) if _SMALL_NUMBER.fullmatch(value) else None


def _hops(headers: Headers, group: str | None, deployment: str | None) -> tuple[ProviderAttempt, ...] | None:
    """Returns every attempt as our sidecar lists them; for a call answered at once, its answer alone."""
    listed = headers.get(b"x-llmp-hops")
    if listed is None:
        answered = group is not None and deployment is not None and _attempt_count(headers) == 1
        return (ProviderAttempt(group or "", deployment or "", _OK),) if answered else None
    try:
        rows: Any = orjson.loads(listed) if len(listed) <= _MAX_HOPS_BYTES else None
        return tuple(
            ProviderAttempt(
                _clean_name(group),
                _clean_name(deployment),
                max(0, min(int(status), 999)),
                refused == ["auth"],
            )
            for group, deployment, status, *refused in rows[:_MAX_HOPS]
        )
    except (TypeError, ValueError, KeyError, OverflowError):
        return None


def _clean_name(value: object) -> str:
    return str(value).replace("\0", "")[:_MAX_NAME_CHARS]


def _fallback_from(headers: Headers, hops: tuple[ProviderAttempt, ...] | None, asked: str) -> str | None:
    elsewhere = hops[0].group != hops[-1].group if hops else hops is None and _count(headers, _FALLBACKS)
    return asked if elsewhere else None


def _find_deployment(deployment: str | None, catalog: Catalog | None) -> Deployment | None:
    return catalog.deployments.get(deployment) if catalog is not None and deployment else None


def _text(headers: Headers, name: bytes) -> str | None:
    """Returns a header's text: UTF-8 as our sidecar sends it, Latin-1 as an unmodified LiteLLM does."""
    value = headers.get(name)
    if not value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _count(headers: Headers, name: bytes) -> int:
    value = headers.get(name, b"0")
    return int(value) if _SMALL_NUMBER.fullmatch(value) else 0


def _milliseconds(headers: Headers) -> float | None:
    try:
        duration_ms = float(headers[b"x-litellm-overhead-duration-ms"])
    except (KeyError, ValueError):
        return None
    return duration_ms if 0 <= duration_ms <= _MAX_MS else None


def _split_model_name(model_name: str | None) -> tuple[str | None, str | None]:
    provider, _, physical = (model_name or "").partition("/")
    return (provider, physical) if physical else (None, provider or None)
