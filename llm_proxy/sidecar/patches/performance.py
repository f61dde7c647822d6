"""Less CPU per call without another answer; measured by `bench/sidecar_cpu.py`. Each part is a patch."""

from importlib import import_module

from llm_proxy.sidecar import direct_settings, litellm_internals
from llm_proxy.sidecar.direct_templates import states_limit
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

IDLE_HOOKS = (
    "autorouter_baseline_cache",
    "cache_control_check",
    "litellm_skills",
    "max_budget_per_session_limiter",
    "max_iterations_limiter",
    "parallel_request_limiter",
    "prompt_cache_prediction",
)
"""LiteLLM's names of hooks that it adds to every proxy and that have no effect without its database."""


def _install_routes() -> None:
    """Import LiteLLM's proxy without the routes of its application: the sidecar calls their functions."""
    router = litellm_internals.fastapi_router_class()
    add = router.add_api_route

    def add_nothing(*_: object, **__: object) -> None:
        return None

    router.add_api_route = add_nothing
    try:
        litellm_internals.proxy_module()
    finally:
        router.add_api_route = add


def _install_hooks() -> None:
    """Remove LiteLLM's hooks for virtual keys, budgets and stored responses, which the sidecar has not.

    Only the objects that LiteLLM created itself are removed; a hook that a configuration names stays.
    """
    idle = {id(one) for one in litellm_internals.built_in_hooks(IDLE_HOOKS)}
    for listed in litellm_internals.callback_lists():
        listed[:] = [one for one in listed if id(one) not in idle]


def _install_limits() -> None:
    """Skip counting calls against limits if no deployment states a limit."""
    router = litellm_internals.router()
    if router is None or str(router.routing_strategy).startswith("usage-based"):
        return
    if any(map(states_limit, router.model_list)):
        return

    async def count_nothing(**_: object) -> None:
        return None

    router._increment_deployment_usage = count_nothing  # noqa: SLF001 -- no setting does this


def _install_read_timeouts() -> None:
    """Let a connection's timer run on when data comes, and look at the time when it ends."""
    connection = import_module("aiohttp.client_proto").ResponseHandler

    def start_unless_running(self: Untyped) -> None:
        self.llmp_read_at_s = self._loop.time()
        if self._read_timeout_handle is None or self._read_timeout != self.llmp_timeout_s:
            self.llmp_timeout_s = self._read_timeout
            start(self)

    def time_out_if_idle(self: Untyped) -> None:
        left_s = self.llmp_read_at_s + self.llmp_timeout_s - self._loop.time()
        if left_s > 0:
            self._read_timeout_handle = self._loop.call_later(left_s, self._on_read_timeout)
        else:
            time_out(self)

    start = replace(connection, "_reschedule_timeout", start_unless_running)  # called for all data
    time_out = replace(connection, "_on_read_timeout", time_out_if_idle)


ROUTES = LiteLLMPatch(
    name="routes",
    install=_install_routes,
    reason="FastAPI prepares 640 routes that get no requests: a quarter of the start's CPU, and 20 MB.",
    until="LiteLLM has an application of the inference routes alone.",
    tests=("tests/stages/sidecar/test_performance.py::test_litellm_prepares_no_routes",),
)
HOOKS = LiteLLMPatch(
    name="hooks",
    install=_install_hooks,
    reason="Hooks for virtual keys, budgets and stored responses run on each call, unused.",
    until="Hooks run only where their feature is configured.",
    tests=("tests/stages/sidecar/test_performance.py::test_a_call_does_no_unused_work[hooks]",),
    after_start=True,
)
LIMITS = LiteLLMPatch(
    name="limits",
    install=_install_limits,
    reason=(
        "For each call the router serializes its deployment twice, looking for limits that none states: "
        "a tenth of a millisecond each time."
    ),
    until="A deployment that states no limits costs a call nothing.",
    tests=("tests/stages/sidecar/test_performance.py::test_a_call_does_no_unused_work[limits]",),
    after_start=True,
)
DIRECT_CALLS = LiteLLMPatch(
    name="direct_calls",
    install=direct_settings.enable,
    reason=(
        "A call that LiteLLM only passes on, and no callback or guardrail reads, costs it five times what "
        "the provider's request costs: copies of the call, OpenAI's SDK, objects of a log without a reader."
    ),
    until="Such a call costs LiteLLM little more than the provider's request.",
    tests=(
        "tests/stages/sidecar/test_direct_calls.py::test_an_answer_is_the_same",
        "tests/stages/sidecar/test_direct_calls.py::test_a_stream_is_the_same",
    ),
    after_start=True,
)
READ_TIMEOUTS = LiteLLMPatch(
    name="read_timeouts",
    install=_install_read_timeouts,
    reason=(
        "aiohttp, which LiteLLM reaches providers with, cancels a timer and starts another for each read: a "
        "fifth of what a streamed frame costs."
    ),
    until="aiohttp starts no timer for each read.",
    tests=("tests/stages/sidecar/test_performance.py::test_a_stream_does_no_unused_work",),
)
