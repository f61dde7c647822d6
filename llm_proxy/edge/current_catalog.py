"""The catalogue of the moment, as the dialects and admission want it; read again only when it has changed."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from llm_proxy.dialects import ModelIndex
from llm_proxy.identity import Caller, allowed_models, is_model_allowed
from llm_proxy.money import Price
from llm_proxy.pipeline import Upstream
from llm_proxy.settings import Settings
from llm_proxy.telemetry import Metrics

if TYPE_CHECKING:
    from llm_proxy.upstream import Catalog

MAX_CACHED_CALLERS = 1024
"""Lists of models remembered with what they allow."""


def _unjudged(_group: str) -> bool:
    """Nobody can judge yet; admission says so."""
    return True


class CurrentCatalog:
    """Names and prices; empty while nobody knows."""

    def __init__(self, upstream: Upstream, settings: Settings, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._read: Catalog | None = None
        chosen = "default_model" in settings.model_fields_set
        self._models = ModelIndex(default=settings.default_model, default_chosen=chosen)
        self._default_models = settings.default_models
        self._by_caller: dict[tuple[str, tuple[str, ...] | None], ModelIndex] = {}

    def models_for(self, caller: Caller) -> ModelIndex:
        """The names there are for a caller."""
        models, whose = self(), (caller.kind, caller.models)
        found = self._by_caller.get(whose)
        if found is None:
            if len(self._by_caller) >= MAX_CACHED_CALLERS:
                self._by_caller.clear()
            found = self._by_caller[whose] = replace(models, is_allowed=self._judge(caller))
        return found

    def _judge(self, caller: Caller) -> Callable[[str], bool]:
        patterns = allowed_models(caller, self._default_models, self.names)
        if patterns is None:
            return _unjudged
        return lambda group: is_model_allowed(patterns, group, self.resolved)

    def __call__(self) -> ModelIndex:
        """The names there are."""
        catalog = self._upstream.catalog
        if catalog is not self._read and catalog is not None:
            self._read = catalog
            self._by_caller.clear()
            behind = {
                name: frozenset(one.protocol or one.provider for one in group.deployments)
                for name, group in catalog.groups.items()
            }
            groups = {
                name: providers for name, providers in behind.items() if not catalog.groups[name].wildcard
            }
            wildcards = {name: providers for name, providers in behind.items() if name not in groups}
            aliases = {name: one.alias_of for name, one in catalog.groups.items() if one.alias_of}
            self._models = replace(
                self._models,
                groups=groups,
                wildcards=wildcards,
                aliases=aliases,
                is_embedding_only=catalog.is_embedding_only,
            )
            self._metrics.set_models(catalog.names)
        return self._models

    @property
    def names(self) -> tuple[str, ...] | None:
        """The groups configured by name; None while nobody knows."""
        catalog = self._upstream.catalog
        return None if catalog is None else catalog.names

    def resolved(self, name: str) -> str:
        """The group an alias stands for; any other name as it is."""
        catalog = self._upstream.catalog
        return name if catalog is None else catalog.resolved(name)

    def providers(self, group: str) -> tuple[str, ...]:
        """The providers of a group's deployments."""
        catalog = self._upstream.catalog
        found = catalog.find_group(group) if catalog else None
        return tuple(dict.fromkeys(one.provider for one in found.deployments)) if found else ()

    def fallback_providers(self, group: str) -> tuple[str, ...]:
        """The providers of the groups a call may fall back to."""
        catalog = self._upstream.catalog
        reached = (catalog.fallbacks(group) if catalog else None) or ()
        return tuple(dict.fromkeys(name for one in reached for name in self.providers(one)))

    def price(self, group: str) -> Price | None:
        """The dearest price of a group; None when one is not known."""
        catalog = self._upstream.catalog
        found = catalog.highest_prices(group) if catalog else None
        return Price(*found, catalog.max_output_tokens(group)) if catalog and found else None
