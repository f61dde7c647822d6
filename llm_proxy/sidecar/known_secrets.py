"""The texts of the configuration that no error message may hold: each deployment's keys, addresses, accounts.

A key without a known shape is found by its value alone. Pure.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping

SHOWN = frozenset({"model", "custom_llm_provider", "region_name", "aws_region_name", "vertex_location"})
"""Parameters whose values a caller may read."""
SHORTEST = 6


def configured(router: Theirs) -> frozenset[str]:
    """The values of every deployment's parameters that are not shown, and the hosts of its addresses."""
    if router is None:
        return frozenset()
    params = (mapping(one.get("litellm_params")) for one in router.model_list)
    return frozenset(value for one in params for value in _values(one))


def _values(params: dict[str, object]) -> Iterator[str]:
    for name, value in params.items():
        if name in SHOWN or not isinstance(value, str) or len(value) < SHORTEST:
            continue
        yield value
        host = urlsplit(value).hostname if "://" in value else None
        if host and len(host) >= SHORTEST:
            yield host
