"""Facts of a model group: the endpoints it serves, its maximum of output, its fallbacks' providers."""

from typing import TYPE_CHECKING, get_args

from llm_proxy.endpoints import Endpoint, endpoints_of_mode
from llm_proxy.json_access import Json, as_list, is_array

if TYPE_CHECKING:
    from llm_proxy.upstream.catalog import Catalog

_NAMES: tuple[Endpoint, ...] = get_args(Endpoint)


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


def known_endpoints(stated: object) -> frozenset[Endpoint] | None:
    """Returns the endpoints that the sidecar states of a group; None where it states none."""
    return frozenset(name for name in _NAMES if name in stated) if is_array(stated) else None


def stated_endpoints(info: Json) -> frozenset[Endpoint] | None:
    """Returns the endpoints of a group by its `model_info`; None where it says nothing of them."""
    return endpoints_of_mode(info.get("mode"), map(str, as_list(info.get("supported_endpoints"))))


def group_endpoints(catalog: "Catalog", name: str) -> frozenset[Endpoint] | None:
    """Returns what the group that serves a name serves; None where that is unknown."""
    group = catalog.find_group(name)
    return group.endpoints if group is not None else None


def served_endpoints(catalog: "Catalog") -> frozenset[Endpoint] | None:
    """Returns what any group serves; None where one may serve anything, and without groups."""
    found: set[Endpoint] = set()
    for group in catalog.groups.values():
        if group.endpoints is None:
            return None
        found |= group.endpoints
    if "chat.completions" in found:
        found.add("completions")
    return frozenset(found) or None


def common_wires(catalog: "Catalog", name: str) -> frozenset[str]:
    """Returns what every deployment that a call may reach speaks; a fallback counts where it may serve it."""
    groups = [catalog.find_group(one) for one in (name, *(catalog.fallbacks(name) or ()))]
    reached = [group for group in groups if group is not None and group.deployments]
    if not catalog.is_ours or len(reached) < len(groups):
        return frozenset()
    own, *others = [
        (group.endpoints, frozenset[str].intersection(*(one.native for one in group.deployments)))
        for group in reached
    ]
    return frozenset(
        wire
        for wire in own[1]
        if all(wire in spoken or not _may_serve(served, wire) for served, spoken in others)
    )


def _may_serve(served: frozenset[Endpoint] | None, wire: str) -> bool:
    return served is None or ("embeddings" if wire == "cohere_embed" else "chat.completions") in served
