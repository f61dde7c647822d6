"""What the gateway itself tells the sidecar: the cache's namespace, when not to fall back, whose a call is.

Invariants: the namespace is the tenant's or the key's, always written by us; a call never falls back to a
model group its caller may not use; the caller's own words reach the cache only through `Cache-Control`; who
asked is told only where somebody watches the calls (Langfuse), who is shown text only where the operator
keeps it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from llm_proxy.dialects import Call
from llm_proxy.identity import Caller, allowed, usable
from llm_proxy.json_access import Json
from llm_proxy.telemetry.kept_text import KeptText
from llm_proxy.upstream.cache_keys import namespace
from llm_proxy.upstream.catalog import Catalog

TAGS = "llm_proxy_tags"
"""The field that our sidecar shows to who watches, and nobody chooses by."""


@dataclass(frozen=True, slots=True)
class Controls:
    """The operator's choices.

    Attributes:
        caching: Whether calls may be answered from the response cache at all.
        cache_streams: Whether streamed calls may too, before a sidecar of ours: an unmodified LiteLLM also
            keeps streams that were cut, and replays all with losses.
        default_models: What a caller without a list of its own may use.
        stopped: Whether a kill switch stops a caller at a model group.
        kept: Whose text may be shown to who watches the calls.
    """

    caching: bool = True
    cache_streams: bool = True
    default_models: tuple[str, ...] = ()
    stopped: Callable[[Caller, str], bool] = lambda _caller, _group: False
    kept: KeptText = field(default_factory=KeptText)

    def cached(self, call: Call, caller: Caller, catalog: Catalog | None) -> bool:
        """Whether the response cache has a say in this call."""
        if not (self.caching and caller.cache):
            return False
        return not call.streaming or (self.cache_streams and catalog is not None and catalog.own)

    def body(self, call: Call, caller: Caller, catalog: Catalog | None) -> Json:
        """The body to send: the call's, and ours."""
        body = {**call.body, "cache": self._cache(call, caller, catalog)}
        if not self._may_fall_back(str(call.body["model"]), caller, catalog):
            body["disable_fallbacks"] = True
        if catalog is not None and catalog.watched:
            body["metadata"] = _whose(caller)
        return body

    def shows_text(self, caller: Caller, catalog: Catalog | None) -> bool:
        """Whether who watches the calls may see this one's prompt and answer."""
        return catalog is not None and catalog.watched and self.kept.of(caller.tenant)

    def _may_fall_back(self, name: str, caller: Caller, catalog: Catalog | None) -> bool:
        models = usable(caller, self.default_models, catalog.names if catalog else None)
        reached = catalog.fallbacks(name) if catalog else None
        if models is None:
            return False
        if catalog is None or reached is None:  # nobody knows where: only who may use everything goes there
            return "*" in models
        return all(
            allowed(models, one, catalog.resolved) and not self.stopped(caller, one) for one in reached
        )

    def _cache(self, call: Call, caller: Caller, catalog: Catalog | None) -> Json:
        if not self.cached(call, caller, catalog):
            return {"no-cache": True, "no-store": True}
        wish = call.cache
        cache: Json = {"namespace": namespace(caller, call.group)}
        if wish.no_cache:
            cache["no-cache"] = True
        if wish.no_store:
            cache["no-store"] = True
        if wish.max_age_s is not None:
            cache["s-maxage"] = wish.max_age_s
        return cache


def _whose(caller: Caller) -> Json:
    """User and session, in Langfuse's words as LiteLLM takes them; tags in a field of our sidecar's.

    By LiteLLM's own `tags` it would choose deployments wherever `enable_tag_filtering` is set.
    """
    names = {"tenant": caller.tenant, "agent": caller.agent, "channel": caller.channel, "run": caller.run}
    named = [(kind, name) for kind, name in {**names, "key": caller.key_id}.items() if name]
    tags = [name if name.startswith(f"{kind}:") else f"{kind}:{name}" for kind, name in named]
    told: Json = {"session_id": caller.session, "trace_user_id": caller.user}
    told[TAGS] = [*tags, *caller.tags]
    return {name: value for name, value in told.items() if value}
