"""Whether a key's models are served, asked of the gateway that runs; where none answers, nobody warns."""

from collections.abc import Iterable

from llm_proxy.cli.completion import served_models
from llm_proxy.cli.printing import warn
from llm_proxy.wildcards import covers


def warn_of_unserved(models: Iterable[str]) -> None:
    """One line on standard error for each name or wildcard that fits no model group; never fails."""
    groups = served_models()
    for one in models if groups else ():
        if not any(covers(one, group) or covers(group, one) for group in groups):
            warn(f"no model group served now fits {one!r} (`llm-proxy models` lists them)")
