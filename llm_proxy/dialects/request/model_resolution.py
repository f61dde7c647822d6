"""A model's name and a provider's in, the model group that serves them out.

Invariants: only a name spelled like a model's reaches a wildcard deployment (it may become part of a
provider's URL); a group the caller may not use does not exist for it; what is kept of a name ends with its
`ModelIndex`, which is another one for each catalog.
"""

import re
from collections.abc import Iterator, Mapping

from llm_proxy.dialects.dialect import ModelIndex, ServingGroup
from llm_proxy.errors import BadRequest, model_not_found
from llm_proxy.wildcards import wildcard_matches

MAX_NAME_CHARS = 256
MAX_KEPT_NAMES = 64
"""Names of one index whose groups are kept: a wildcard serves any number of them."""
_SPELLING = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(?:/[A-Za-z0-9@][A-Za-z0-9._:@+-]*)*")

PROVIDER_ALIASES = {
    "vertexai": ("vertex_ai", "gemini"),
    "vertex": ("vertex_ai", "gemini"),
    "google": ("gemini", "vertex_ai"),
    "claude": ("anthropic",),
    "together": ("together_ai",),
    "fireworks": ("fireworks_ai",),
    "local": ("ollama", "hosted_vllm", "vllm"),
}
"""Names callers use that are not the sidecar's; the first that is served counts."""

PROVIDER_VARIANTS = {
    "openai": ("openai", "text-completion-openai"),
    "azure": ("azure", "azure_text", "azure_ai"),
    "ollama": ("ollama", "ollama_chat"),
}
"""Providers that have several names at the sidecar."""

_PROVIDERS_BY_NAME = (
    (re.compile(r"(?:gpt-|chatgpt-|o[134](?![a-z])|text-embedding-|davinci-|babbage-)"), ("openai", "azure")),
    (re.compile(r"claude-"), ("anthropic",)),
    (re.compile(r"gemini-"), ("vertex_ai", "gemini")),
    (re.compile(r"llama"), ("ollama", "ollama_chat")),
    (re.compile(r"mistral"), ("ollama", "ollama_chat", "mistral")),
    (re.compile(r"deepseek-"), ("deepseek",)),
    (re.compile(r"voyage-"), ("voyage",)),
)
"""The providers that a name implies, for names that are no group themselves."""


def find_served(model: str, provider: str | None, models: ModelIndex) -> ServingGroup:
    """Returns what serves a name, with the provider the caller chose or the one the name implies.

    Raises:
        ModelNotFound: No group or wildcard serves it, or the caller may not use it: one answer for both.
        BadRequest: A name too long to be one.
    """
    known = models.resolved_names.get((model, provider))
    if known is not None:
        return known
    name = _group_of(model, provider, models)
    group = models.resolved(name)
    if not models.is_allowed(group):
        raise model_not_found(model, provider)
    if len(models.resolved_names) >= MAX_KEPT_NAMES:
        models.resolved_names.clear()
    found = ServingGroup(name, group, models.endpoints(group), reached_providers(group, models))
    models.resolved_names[model, provider] = found
    return found


def resolve(model: str, provider: str | None, models: ModelIndex) -> str:
    """Returns the name of the group that serves a name, or of an alias; raises as `find_served` does."""
    return find_served(model, provider, models).name


def _group_of(model: str, provider: str | None, models: ModelIndex) -> str:
    if len(model) > MAX_NAME_CHARS:
        raise BadRequest(
            f"Invalid 'model': string too long. Expected at most {MAX_NAME_CHARS} characters.",
            param="model",
            code="string_above_max_length",
        )
    if models.groups is None:
        return _without_catalog(model, provider)
    if provider is None and model in models.groups:
        return model
    spelled = _SPELLING.fullmatch(model) is not None
    candidates = (
        _candidates_at_provider(model, provider, models) if provider else _candidates_by_name(model, models)
    )
    for group, exact in candidates:
        if exact or spelled:
            return group
    raise model_not_found(model, provider)


def providers_for(group: str, models: ModelIndex) -> frozenset[str]:
    """The providers of a group as far as known; by its prefix when unknown."""
    known = (models.groups or {}).get(group)
    if known is None and isinstance(models.wildcards, Mapping):
        serving = [pattern for pattern in models.wildcards if wildcard_matches(pattern, group)]
        known = models.wildcards[max(serving, key=len)] if serving else None
    return known if known is not None else frozenset({group.partition("/")[0]})


def reached_providers(group: str, models: ModelIndex) -> frozenset[str]:
    """The providers that a call of a group may reach, through its fallbacks too."""
    return providers_for(group, models) | models.fallback_providers(models.resolved(group))


def _without_catalog(model: str, provider: str | None) -> str:
    """Without a catalog the sidecar judges; only what could never be a name is rejected."""
    if not _SPELLING.fullmatch(model):
        raise model_not_found(model, provider)
    if provider is None:
        return model
    first = PROVIDER_ALIASES.get(provider, (provider,))[0]
    return model if model.startswith(first + "/") else f"{first}/{model}"


def _candidates_at_provider(model: str, provider: str, models: ModelIndex) -> Iterator[tuple[str, bool]]:
    groups = models.groups or {}
    names = PROVIDER_ALIASES.get(provider, (provider,))
    if provider in groups.get(
        model, ()
    ):  # a deployment may be shown under such a name: `model_info.provider`
        yield model, True
    for name in names:
        variants = [(one, model.removeprefix(one + "/")) for one in PROVIDER_VARIANTS.get(name, (name,))]
        for one, bare in variants:
            if f"{one}/{bare}" in groups:
                yield f"{one}/{bare}", True
            for plain in (model, bare):
                if one in groups.get(plain, ()):
                    yield plain, True
        for one, bare in variants:
            if _matches_wildcard(f"{one}/{bare}", models, below=one + "/"):
                yield f"{one}/{bare}", False
    if "*" in models.wildcards:
        yield f"{names[0]}/{model.removeprefix(names[0] + '/')}", False


def _candidates_by_name(model: str, models: ModelIndex) -> Iterator[tuple[str, bool]]:
    groups = models.groups or {}
    if _matches_wildcard(model, models):
        yield model, False
    for pattern, providers in _PROVIDERS_BY_NAME:
        if pattern.match(model):
            for name in providers:
                full = f"{name}/{model}"
                if full in groups:
                    yield full, True
                elif _matches_wildcard(full, models, below=name + "/"):
                    yield full, False
    if "*" in models.wildcards:
        yield model, False


def _matches_wildcard(name: str, models: ModelIndex, below: str = "") -> bool:
    """Whether a wildcard other than the all-matching one serves a name."""
    return any(
        pattern != "*" and pattern.startswith(below) and wildcard_matches(pattern, name)
        for pattern in models.wildcards
    )
