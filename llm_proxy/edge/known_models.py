"""The catalogue of the moment, as the dialects and admission want it; read again only when it has changed."""

from llm_proxy.admission import Price
from llm_proxy.dialects import Call, Models
from llm_proxy.errors import BadRequest
from llm_proxy.pipeline import Upstream
from llm_proxy.telemetry import Metrics
from llm_proxy.upstream import Catalog


class KnownModels:
    """Names and prices; empty while nobody knows."""

    def __init__(self, upstream: Upstream, default: str, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._read: Catalog | None = None
        self._models = Models(default=default)

    def __call__(self) -> Models:
        """The names there are."""
        catalog = self._upstream.catalog
        if catalog is not self._read and catalog is not None:
            self._read = catalog
            behind = {
                name: frozenset(one.wire or one.provider for one in group.deployments)
                for name, group in catalog.groups.items()
            }
            groups = {
                name: providers for name, providers in behind.items() if not catalog.groups[name].wildcard
            }
            wildcards = {name: providers for name, providers in behind.items() if name not in groups}
            aliases = {name: one.alias_of for name, one in catalog.groups.items() if one.alias_of}
            self._models = Models(self._models.default, groups, wildcards, aliases)
            self._metrics.know_models(catalog.names)
        return self._models

    def check(self, call: Call) -> None:
        """Raises `BadRequest` for a conversation with a model that only embeds."""
        catalog = self._upstream.catalog
        if call.door == "embeddings" or catalog is None:
            return
        group = catalog.group(call.group)
        if group is not None and group.mode == "embedding":
            raise BadRequest(
                f"The model '{call.model[:200]}' only makes embeddings.",
                param="model",
                code="model_not_supported",
            )

    @property
    def names(self) -> tuple[str, ...] | None:
        """The groups configured by name; None while nobody knows."""
        catalog = self._upstream.catalog
        return None if catalog is None else catalog.names

    def resolved(self, name: str) -> str:
        """The group an alias stands for; any other name as it is."""
        catalog = self._upstream.catalog
        return name if catalog is None else catalog.resolved(name)

    def price(self, group: str) -> Price | None:
        """The dearest price of a group; None when one is not known."""
        catalog = self._upstream.catalog
        found = catalog.prices(group) if catalog else None
        return Price(*found, catalog.longest(group)) if catalog and found else None
