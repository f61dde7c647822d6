"""Finds the calls that an operator's guardrail may check: the response cache never answers those.

A cache hit is answered before LiteLLM's hooks run, so it would bypass a guardrail.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.config import is_served
from llm_proxy.sidecar.litellm_internals import Untyped

CHECKING_HOOKS = (
    "async_pre_call_hook",
    "async_moderation_hook",
    "async_post_call_success_hook",
    "async_post_call_streaming_hook",
    "async_post_call_streaming_iterator_hook",
)
"""Methods a callback overrides to reject or change a prompt or an answer."""
OBSERVER_MODULES = (
    "litellm.integrations.opentelemetry",
    "litellm.integrations.otel",
    "litellm.integrations.prometheus",
    "llm_proxy.",
)
"""Modules whose callbacks override those methods only to observe."""
REQUEST_KEYS = frozenset({"guardrails", "policies"})
_KNOWN: list["ConfiguredGuardrails"] = []
"""The configured guardrails, set once LiteLLM has started."""


@dataclass(frozen=True, slots=True)
class ConfiguredGuardrails:
    """The guardrails of a configuration.

    Attributes:
        every_call: Names of the guardrails that run on every call.
        groups: Model groups with a guardrail of their own, wildcards among them.
    """

    every_call: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()

    def may_check(self, model: str, body: Json) -> bool:
        """Whether a guardrail may check a call for this model with this body."""
        if self.every_call or not REQUEST_KEYS.isdisjoint(body):
            return True
        if not self.groups:
            return False
        return any(is_served(name, self.groups) for name in litellm_internals.names_of_model(model))

    def notes(self) -> list[str]:
        """Return one log line for each guardrail or group for which the response cache is off."""
        every = [f"no answer is cached: {name} checks every call" for name in self.every_call]
        return every + [f"no answer of {name} is cached: it has a guardrail" for name in sorted(self.groups)]


def find_guardrails(config: Json) -> ConfiguredGuardrails:
    """Find a configuration's guardrails, after LiteLLM has started with it."""
    # LiteLLM's built-in hooks act only for its own keys or for guardrails that are found here.
    its_own = {
        id(one)
        for one in litellm_internals.built_in_hooks(
            litellm_internals.proxy_module().proxy_logging_obj.proxy_hook_mapping
        )
    }
    given = [one for one in litellm_internals.litellm_module().callbacks if id(one) not in its_own]
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
    return ConfiguredGuardrails(tuple(dict.fromkeys(everywhere)), groups)


def find_missing_guardrails(config: Json, accepted: Collection[str]) -> list[str]:
    """Return the paths of the guardrails that LiteLLM left out at its start and the operator does not accept.

    LiteLLM logs an invalid one and serves without it.
    """
    given = Counter(str(as_object(one).get("guardrail_name")) for one in as_list(config.get("guardrails")))
    if not given:
        return []  # the registry imports every guardrail there is
    running = Counter(str(one["guardrail_name"]) for one in litellm_internals.running_guardrails())
    return [path for name in given - running if (path := f"guardrails.{name}") not in accepted]


def list_guardrails() -> list[Json]:
    """Return each guardrail of the configuration by name: when it runs, and whether on every call."""
    every = _KNOWN[0].every_call if _KNOWN else ()
    found: dict[str, Json] = {name: {"name": name, "modes": [], "every_call": True} for name in every}
    for callback in litellm_internals.litellm_module().callbacks:
        if isinstance(callback, litellm_internals.guardrail_class()) and callback.guardrail_name:
            name = str(callback.guardrail_name)
            before: list[str] = as_list(found.get(name, {}).get("modes"))
            modes = list(dict.fromkeys([*before, *_modes(callback.event_hook)]))
            found[name] = {"name": name, "modes": modes, "every_call": callback.default_on is True}
    return list(found.values())


def _modes(event_hook: Untyped) -> list[str]:
    """Return the modes of a guardrail; those chosen by a call's tags are named by their tags too."""
    tagged = as_object(getattr(event_hook, "tags", None))
    given: list[Untyped] = (
        [*tagged.values(), getattr(event_hook, "default", None)]
        if tagged
        else as_list(event_hook) or [event_hook]
    )
    flat = [one for part in given for one in (as_list(part) or [part])]
    return list(dict.fromkeys(str(getattr(one, "value", one)) for one in flat if one))


def set_guardrails(found: ConfiguredGuardrails) -> None:
    """Set the guardrails that `may_check_running_call` uses."""
    _KNOWN[:] = [found]


def may_check_running_call(metadata: Json, request: Json) -> bool:
    """Whether a guardrail may check a running call, by LiteLLM's metadata and the request's body."""
    if not _KNOWN or any(request.get(name) or metadata.get(name) for name in REQUEST_KEYS):
        return True
    names = {str(request.get("model") or ""), str(metadata.get("model_group") or "")}
    return any(_KNOWN[0].may_check(name, {}) for name in names)


def only_guardrails_read_streams() -> bool:
    """Whether guardrails are the only callbacks that read streams."""
    readers = litellm_internals.proxy_logging_class().callback_capabilities().iterator_overrides
    return all(isinstance(callback, litellm_internals.guardrail_class()) for callback, _ in readers)


def _model_list(config: Json) -> Iterable[Json]:
    return map(as_object, config.get("model_list") or [])


def _checks_every_call(callback: Untyped) -> bool:
    base: Untyped = litellm_internals.custom_logger_class()
    kind = callback.__class__
    if not isinstance(callback, base):
        return False
    if isinstance(callback, litellm_internals.guardrail_class()):
        return callback.default_on is True
    if kind.__module__.startswith(OBSERVER_MODULES):
        return False
    return any(getattr(kind, name) is not getattr(base, name) for name in CHECKING_HOOKS)


def _name(callback: Untyped) -> str:
    return str(getattr(callback, "guardrail_name", None) or type(callback).__name__)
