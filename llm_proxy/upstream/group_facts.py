"""What holds of all deployments of a model group: how much they write, where else a call may end."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_proxy.upstream.catalog import Catalog


def fallback_providers(catalog: "Catalog", name: str) -> frozenset[str]:
    """Returns the providers of every group that a call may fall back to."""
    groups = [catalog.find_group(one) for one in catalog.fallbacks(name) or ()]
    return frozenset(one.protocol or one.provider for group in groups if group for one in group.deployments)


def common_output_tokens(catalog: "Catalog", name: str) -> int | None:
    """Returns the most completion tokens that every deployment of a group writes; None when unknown."""
    return min(_output_tokens(catalog, name), default=None)


def highest_output_tokens(catalog: "Catalog", name: str) -> int | None:
    """Returns the most completion tokens any deployment of a group writes; None when unknown."""
    return max(_output_tokens(catalog, name), default=None)


def _output_tokens(catalog: "Catalog", name: str) -> list[int]:
    group = catalog.find_group(name)
    return [one.max_output_tokens for one in group.deployments if one.max_output_tokens] if group else []
