"""Who may answer a call in this process: the registered providers, and those the environment has keys for.

Invariants: a registered provider serves its own model; a provider of the environment serves any model of its
family. Where none serves the model, every registered provider stands in, unless failover is off. Names and
places may be read in any thread: they are read from copies, which calls do not change.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

from llm_proxy_service.catalog import LLMProvider, ModelCapability, ModelConfig
from llm_proxy_service.errors import ConfigurationError, InvalidRequestError, NotFoundError
from llm_proxy_service.meters import RequestWindow

Kind = Literal["chat", "embeddings"]
KEY_VARIABLES = {
    LLMProvider.OPENAI: ("OPENAI_API_KEY",),
    LLMProvider.ANTHROPIC: ("ANTHROPIC_API_KEY",),
    LLMProvider.GOOGLE: ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    LLMProvider.AZURE: ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"),
    LLMProvider.HUGGINGFACE: ("HUGGINGFACE_API_KEY", "HF_TOKEN"),
}
FAMILIES = {
    LLMProvider.OPENAI: ("gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-3", "text-embedding-ada"),
    LLMProvider.ANTHROPIC: ("claude",),
    LLMProvider.GOOGLE: ("gemini", "text-embedding-004"),
}
"""The beginnings of model names that say whose they are."""
PREFIXES = {
    LLMProvider.OPENAI: "openai",
    LLMProvider.ANTHROPIC: "anthropic",
    LLMProvider.GOOGLE: "gemini",
    LLMProvider.AZURE: "azure",
    LLMProvider.HUGGINGFACE: "huggingface",
    LLMProvider.OLLAMA: "ollama_chat",
    LLMProvider.LOCAL: "openai",
}
"""LiteLLM's names of the providers."""
NO_KEY = "none"
"""For servers of one's own that check none; LiteLLM wants one."""


@dataclass(frozen=True, slots=True)
class Place:
    """One model at one provider, as calls go there.

    Attributes:
        id: Unique in the process.
        name: The provider's name among callers.
        litellm_name: LiteLLM's name of the model, for a provider that only LiteLLM knows.
        window: The requests of its last minute.
    """

    id: str
    name: str
    config: ModelConfig = field(repr=False)
    litellm_name: str | None = None
    window: RequestWindow = field(default_factory=lambda: RequestWindow(None), repr=False, compare=False)

    def litellm_model(self, kind: Kind) -> str:
        """LiteLLM's name of the model."""
        if self.litellm_name is not None:
            return self.litellm_name
        own_prefix = f"{PREFIXES[self.config.provider]}/"
        if self.config.provider is LLMProvider.OLLAMA and kind == "embeddings":
            own_prefix = "ollama/"
        return own_prefix + self.config.model_name.removeprefix(own_prefix)

    def fits(self, kind: Kind, needed: set[ModelCapability]) -> bool:
        """Whether the model states what a call needs; one that states nothing may do everything."""
        if self.config.capabilities is None:
            return True
        stated = set(self.config.capabilities)
        if kind == "embeddings":
            return ModelCapability.EMBEDDINGS in stated
        return bool(stated - {ModelCapability.EMBEDDINGS}) and needed <= stated


class ProviderRegistry:
    """The providers of a service, by name.

    Attributes:
        litellm_providers: LiteLLM's names of providers; a model may be requested as `name/model`.
    """

    litellm_providers: frozenset[str] = frozenset()

    def __init__(self, owner: str, environment: Mapping[str, str] = os.environ) -> None:
        self._owner = owner
        self._environment = environment
        self._registered: dict[str, Place] = {}
        self._of_environment: dict[str, Place] = {}
        self._count = 0

    def add(self, name: str, config: ModelConfig) -> None:
        """Add a provider, or replace the one of this name.

        Raises:
            ConfigurationError: The configuration lacks what its kind of provider needs.
        """
        if config.provider in (LLMProvider.LOCAL, LLMProvider.AZURE) and not config.api_base:
            variable = {LLMProvider.AZURE: "AZURE_API_BASE"}.get(config.provider)
            if variable is None or not self._environment.get(variable):
                wanted = f"api_base or {variable}" if variable else "api_base"
                raise ConfigurationError(f"{name} needs {wanted}", code="no_api_base")
        self._count += 1
        identity = f"{self._owner}-{self._count}-{name}"
        self._registered[name] = Place(identity, name, config, window=RequestWindow(config.rate_limit))

    def names(self) -> list[str]:
        """The registered names, then those of the environment."""
        keyed = (kind.value for kind in KEY_VARIABLES if self._key_of(kind))
        made = (place.name for place in tuple(self._of_environment.values()))
        return list(dict.fromkeys([*self._registered, *keyed, *made]))

    def places(self, name: str) -> list[Place]:
        """What stands behind a name so far."""
        made = (place for place in tuple(self._of_environment.values()) if place.name == name)
        return [self._registered[name], *made] if name in self._registered else list(made)

    def has_key(self, name: str) -> bool:
        """Whether calls to this provider have a key, or need none."""
        place = self._registered.get(name)
        kind = place.config.provider if place else next((one for one in LLMProvider if one == name), None)
        return bool(kind not in KEY_VARIABLES or (place and place.config.api_key) or self._key_of(kind))

    def key_for(self, place: Place) -> str | None:
        """The key of a model's calls; None leaves it to LiteLLM, which then says what is missing."""
        if place.litellm_name is not None:
            return None
        kind = place.config.provider
        return place.config.api_key or self._key_of(kind) or (None if kind in KEY_VARIABLES else NO_KEY)

    def stages(
        self,
        model: str | None,
        provider: str | None,
        kind: Kind,
        needed: set[ModelCapability],
        *,
        failover: bool,
    ) -> list[list[Place]]:
        """Those that may answer: first those among which the strategy chooses, then who takes over, in order.

        Args:
            model: The requested model; None is any.
            provider: The only one that is wanted first.
            kind: What is called.
            needed: The capabilities without which a model cannot answer.
            failover: Whether others may take over.

        Raises:
            NotFoundError: No provider serves the model.
            InvalidRequestError: No provider that serves it can do what is needed.
        """
        serving = self._serving(model, provider)
        others = [place for place in self._registered.values() if place not in serving] if failover else []
        if not serving and (provider is not None or not others):
            raise self._not_served(model, provider)
        fitting = [
            [place for place in places if place.fits(kind, needed)]
            for places in ([serving, *_by_priority(others)] if serving else [others])
        ]
        stages = [stage for stage in fitting if stage]
        if not stages:
            wanted = ", ".join(sorted(one.name for one in needed)) or kind
            raise InvalidRequestError(
                f"no provider of {model or 'any model'} states {wanted}", code="unsupported_capability"
            )
        return stages

    def _serving(self, model: str | None, provider: str | None) -> list[Place]:
        """Those that serve the model, best priority first."""
        own = [
            place
            for place in self._registered.values()
            if (model is None or model in (place.name, place.config.model_name))
            and (provider is None or provider in (place.name, place.config.provider))
        ]
        if not own and model is not None and (made := self._from_environment(model, provider)):
            own = [made]
        return sorted(own, key=lambda place: place.config.priority)

    def _from_environment(self, model: str, provider: str | None) -> Place | None:
        """The model at the provider of its family, where the environment has a key for it."""
        prefix, slash, bare = model.partition("/")
        kind: LLMProvider | None
        if slash and prefix in PREFIXES.values():
            kind = next(one for one, known in PREFIXES.items() if known == prefix)
        else:
            families = (one for one, starts in FAMILIES.items() if model.startswith(starts))
            kind, bare = next((one for one in LLMProvider if one == provider), next(families, None)), model
        if kind is not None:
            place = Place("", kind.value, ModelConfig(provider=kind, model_name=bare))
            return self._made(place) if kind not in KEY_VARIABLES or self._key_of(kind) else None
        if slash and prefix in self.litellm_providers:
            config = ModelConfig(provider=LLMProvider.LOCAL, model_name=model)
            return self._made(Place("", prefix, config, litellm_name=model))
        return None

    def _made(self, place: Place) -> Place:
        identity = f"{self._owner}-{place.name}-{place.config.model_name}"
        return self._of_environment.setdefault(identity, replace(place, id=identity))

    def _key_of(self, kind: LLMProvider | None) -> str | None:
        variables = KEY_VARIABLES.get(kind, ()) if kind else ()
        return next((found for one in variables if (found := self._environment.get(one))), None)

    def _not_served(self, model: str | None, provider: str | None) -> NotFoundError:
        families = (kind for kind, starts in FAMILIES.items() if model and model.startswith(starts))
        variables = KEY_VARIABLES.get(next(families, LLMProvider.LOCAL), ())
        hint = f"set {variables[0]}, or register a provider" if variables else "register a provider"
        at = f" at {provider}" if provider else ""
        registered = ", ".join(self._registered) or "none"
        return NotFoundError(
            f"no provider serves {model or 'any model'}{at}: {hint}; registered: {registered}",
            code="model_not_found",
        )


def _by_priority(places: Sequence[Place]) -> Iterator[list[Place]]:
    """Places of equal priority together, the lowest number first."""
    ordered = sorted(places, key=lambda place: place.config.priority)
    for _, equal in groupby(ordered, key=lambda place: place.config.priority):
        yield list(equal)
