"""The calls whose prompt or answer a guardrail of the owner's checks: the response cache leaves them alone.

A hit is answered before LiteLLM's hooks run, so a cached answer would pass a guardrail unseen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.config import served
from llm_proxy.sidecar.litellm_internals import Theirs

HOOKS = (
    "async_pre_call_hook",
    "async_moderation_hook",
    "async_post_call_success_hook",
    "async_post_call_streaming_hook",
    "async_post_call_streaming_iterator_hook",
)
"""What a callback overrides that may reject or change a prompt or an answer."""
NO_GUARDRAILS = (
    "litellm.integrations.opentelemetry",
    "litellm.integrations.otel",
    "litellm.integrations.prometheus",
    "llm_proxy.",
)
"""Modules whose callbacks use those hooks to observe."""
REQUESTED = frozenset({"guardrails", "policies"})
_KNOWN: list["Guardrails"] = []
"""Those of this process, once it has started."""


@dataclass(frozen=True, slots=True)
class Guardrails:
    """Where guardrails run.

    Attributes:
        everywhere: Names of those that run on every call.
        groups: Model groups with a guardrail of their own, wildcards among them.
    """

    everywhere: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()

    def watch(self, model: str, body: Json) -> bool:
        """Whether a guardrail may check this call."""
        if self.everywhere or not REQUESTED.isdisjoint(body):
            return True
        names = litellm_internals.names_of_group(model) if self.groups else ()
        return any(served(name, self.groups) for name in names)

    def notes(self) -> list[str]:
        """One line for each place the response cache is off."""
        every = [f"no answer is cached: {name} checks every call" for name in self.everywhere]
        return every + [f"no answer of {name} is cached: it has a guardrail" for name in sorted(self.groups)]


def configured(config: Json) -> Guardrails:
    """Those of a configuration, once LiteLLM has started with it."""
    # What LiteLLM adds to every proxy acts only for its own keys, or for guardrails that are found here.
    its_own = {
        id(one)
        for one in litellm_internals.hooks_of_its_own(
            litellm_internals.proxy().proxy_logging_obj.proxy_hook_mapping
        )
    }
    given = [one for one in litellm_internals.library().callbacks if id(one) not in its_own]
    everywhere = [_name(one) for one in given if _checks_every_call(one)]
    if config.get("policies"):
        everywhere.append("policies")
    defaults = as_object(as_object(config.get("router_settings")).get("default_litellm_params"))
    if defaults.get("guardrails") or as_object(defaults.get("metadata")).get("guardrails"):
        everywhere.append("router_settings.default_litellm_params.guardrails")
    groups = frozenset(
        str(one["model_name"])
        for one in _model_list(config)
        if as_object(one.get("litellm_params")).get("guardrails")
    )
    return Guardrails(tuple(dict.fromkeys(everywhere)), groups)


def remember(found: Guardrails) -> None:
    """Let `in_force` know them."""
    _KNOWN[:] = [found]


def in_force(metadata: Json, asked: Json) -> bool:
    """Whether a guardrail may check a call that runs, by the groups asked for and serving it."""
    if not _KNOWN or any(asked.get(name) or metadata.get(name) for name in REQUESTED):
        return True
    names = {str(asked.get("model") or ""), str(metadata.get("model_group") or "")}
    return any(_KNOWN[0].watch(name, {}) for name in names)


def only_guardrails_watch() -> bool:
    """Whether nobody but guardrails looks into streams as a whole."""
    watching = litellm_internals.proxy_logging().callback_capabilities().iterator_overrides
    return all(isinstance(callback, litellm_internals.guardrail()) for callback, _ in watching)


def _model_list(config: Json) -> Iterable[Json]:
    return map(as_object, config.get("model_list") or [])


def _checks_every_call(callback: Theirs) -> bool:
    base: Theirs = litellm_internals.custom_logger()
    kind = callback.__class__
    if not isinstance(callback, base):
        return False
    if isinstance(callback, litellm_internals.guardrail()):
        return callback.default_on is True
    if kind.__module__.startswith(NO_GUARDRAILS):
        return False
    return any(getattr(kind, name) is not getattr(base, name) for name in HOOKS)


def _name(callback: Theirs) -> str:
    return str(getattr(callback, "guardrail_name", None) or type(callback).__name__)
