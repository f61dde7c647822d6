"""What makes LiteLLM cheaper without changing what it answers; measured by `bench/sidecar_cpu.py`.

Each part is a patch of its own (see `patches`).
"""

from importlib import import_module
from typing import Any

from llm_proxy.sidecar import seams
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping

IDLE_HOOKS = (
    "autorouter_baseline_cache",
    "cache_control_check",
    "litellm_skills",
    "max_budget_per_session_limiter",
    "max_iterations_limiter",
    "parallel_request_limiter",
    "prompt_cache_prediction",
    "responses_id_security",
)
"""LiteLLM's names of hooks it adds to every proxy and that do nothing without its keys or its database."""
LIMITS = ("rpm", "tpm", "itpm", "otpm")
LISTS = (
    "callbacks",
    "success_callback",
    "failure_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


def _register_prices_once() -> None:
    """Prices of a deployment's own are registered on every call, with a map of 3,000 models."""
    library = seams.library()
    register = library.register_model
    seen: dict[tuple[str, ...], tuple[Any, Any]] = {}

    def once(model_cost: Theirs, *words: Theirs, **options: Theirs) -> Theirs:
        entries = mapping(model_cost)
        names = tuple(entries)
        given = ({name: mapping(values).copy() for name, values in entries.items()}, options)
        if entries and seen.get(names) == given:
            return library.model_cost
        seen[names] = given
        return register(model_cost, *words, **options)

    library.register_model = once


def _drop_hooks() -> None:
    """Hooks for virtual keys, budgets and stored responses run on each call; there are none here.

    The very objects that LiteLLM made for itself go, so that one a configuration names stays.
    """
    library = seams.library()
    idle = {id(one) for one in seams.hooks_of_its_own(IDLE_HOOKS)}
    for name in LISTS:
        getattr(library, name)[:] = [one for one in getattr(library, name) if id(one) not in idle]


def _take_bodies_as_they_are() -> None:
    """OpenAI's SDK walks each body by its types; it came as JSON and has nothing to be turned."""
    chat: Theirs = import_module("openai.resources.chat.completions.completions")
    is_given = import_module("openai._utils").is_given

    async def given(data: dict[str, Theirs], _: object) -> dict[str, Theirs]:
        return {name: value for name, value in data.items() if is_given(value)}

    chat.async_maybe_transform = given


def _count_only_for_limits() -> None:
    """Each call is counted twice against limits that, in most configurations, no deployment has."""
    router = seams.router()
    if router is None or str(router.routing_strategy).startswith("usage-based"):
        return
    stated = [
        mapping(one.get(part)) for one in router.model_list for part in ("litellm_params", "model_info")
    ]
    if any(values.get(limit) is not None for values in stated for limit in LIMITS):
        return

    async def nothing_to_count(**_: object) -> None:
        return None

    router._increment_deployment_usage = nothing_to_count  # noqa: SLF001 -- no setting does this


BEFORE_START = (
    Patch(
        name="prices",
        install=_register_prices_once,
        reason="A deployment's own prices are registered on every call, with a map of 3,000 models.",
        since="1.106.2",
        report="To file: `register_model runs on every call of a deployment with custom prices`.",
        until="Prices of a deployment are registered once.",
    ),
    Patch(
        name="bodies",
        install=_take_bodies_as_they_are,
        reason="OpenAI's SDK walks each body by its types, though it came as JSON.",
        since="1.106.2",
        report="To file at openai-python: `skip async_maybe_transform for bodies that are plain JSON`.",
        until="The SDK has a way to pass a body as it is, and LiteLLM uses it.",
    ),
)
AFTER_START = (
    Patch(
        name="hooks",
        install=_drop_hooks,
        reason="Hooks for virtual keys, budgets and stored responses run on each call, unused.",
        since="1.106.2",
        report="To file: `do not register hooks whose feature is not configured`.",
        until="Hooks run only where their feature is configured.",
        after_start=True,
    ),
    Patch(
        name="limits",
        install=_count_only_for_limits,
        reason="Each call is counted twice against limits that no deployment states.",
        since="1.106.2",
        report="To file: `count deployment usage only where rpm or tpm is stated`.",
        until="LiteLLM counts only against stated limits.",
        after_start=True,
    ),
)
