"""What makes LiteLLM cheaper without changing what it answers; each patch says what it saves.

Measured as CPU of the process per request with `bench/sidecar_cpu.py`.
"""

from typing import Any

from llm_proxy.sidecar import seams
from llm_proxy.sidecar.seams import Theirs


def apply() -> None:
    """Put every patch in place; before LiteLLM's start."""
    _register_prices_once()


def _register_prices_once() -> None:
    """A deployment with prices of its own registers them on every call, and a map of 3,000 models with them."""
    library = seams.library()
    register = library.register_model
    seen: dict[tuple[str, ...], tuple[Any, Any]] = {}

    def once(model_cost: Theirs, *words: Theirs, **options: Theirs) -> Theirs:
        if not isinstance(model_cost, dict):
            return register(model_cost, *words, **options)
        names = tuple(model_cost)
        given = ({name: dict(values) for name, values in model_cost.items()}, options)
        if seen.get(names) == given:
            return library.model_cost
        seen[names] = given
        return register(model_cost, *words, **options)

    library.register_model = once
