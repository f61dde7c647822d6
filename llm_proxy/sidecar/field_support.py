"""A documented default is left out where the chosen deployment's provider does not know the field.

LiteLLM refuses a whole call for `store: false` or `top_p: 1`, and translates some defaults into values that
mean something else (Ollama's `repeat_penalty: 0`, Gemini's `serviceTier: priority`). Invariants: decided for
each attempt, by the deployment that serves it; a provider of OpenAI's wire gets every field it knows; the
fewest fields are left out; what is no default is still refused by name.
"""

from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from itertools import combinations

from llm_proxy.sidecar import seams
from llm_proxy.sidecar.documented_defaults import OF_COMPLETIONS, neutral, sampling
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import Json, items

Map = Callable[..., Theirs]
OWN_SERVERS = frozenset({"openai_like", "lm_studio"})
"""Providers of OpenAI's wire whose embedding fields LiteLLM refuses or loses, whatever the server can do."""
OF_EMBEDDINGS = ("dimensions", "encoding_format", "user")


def apply() -> None:
    """Patch where LiteLLM puts fields into a provider's words; before the first call."""
    main: Theirs = import_module("litellm.main")
    chat, embeddings = main.get_optional_params, main.get_optional_params_embeddings

    def map_chat(**options: Theirs) -> Theirs:
        free = neutral(options)
        return _map(chat, _without(options, _not_known(free, options) if free else free))

    def map_embeddings(**options: Theirs) -> Theirs:
        # `openai` stands for any server of that wire: LiteLLM cannot know whose model shortens vectors.
        allowed = [*items(options.pop("allowed_openai_params", None)), "dimensions"]
        passed: Json = {}
        if options.get("custom_llm_provider") in OWN_SERVERS:
            passed = {name: options.pop(name) for name in OF_EMBEDDINGS if options.get(name) is not None}
        return _map(embeddings, options | {"allowed_openai_params": allowed}) | passed

    main.get_optional_params = map_chat
    main.get_optional_params_embeddings = map_embeddings


def _not_known(names: Collection[str], options: Json) -> Collection[str]:
    """Which of the neutral fields would reach a provider that does not know them, or by another meaning."""
    library, provider = seams.library(), str(options.get("custom_llm_provider") or "")
    if provider in {one.value for one in library.LlmProviders}:
        words = library.ProviderConfigManager.get_provider_chat_config(
            model=options["model"],
            provider=library.LlmProviders(provider),
            base_model=options.get("base_model"),
        )
        wires = (library.OpenAIGPTConfig, library.OpenAIConfig, library.AzureOpenAIConfig, type(None))
        if not isinstance(words, wires):
            return names
    completes = provider == "azure_text" or provider.startswith("text-completion-")
    completes = completes or provider in library.openai_text_completion_compatible_providers
    return () if completes else OF_COMPLETIONS.intersection(names)


def _map(translate: Map, options: Json) -> Theirs:
    """The provider's words for the options, less the default values that it refuses."""
    refused = seams.library().UnsupportedParamsError
    try:
        return translate(**options)
    except refused as first:
        why = first
    for left_out in _attempts(options):
        try:
            return translate(**_without(options, left_out))
        except refused as again:
            why = again
    raise why


def _attempts(options: Json) -> Iterator[set[str]]:
    """Sets of default-valued fields to leave out: the neutral ones, then as few others as possible."""
    free, others = set(neutral(options)), sampling(options)
    if free:
        yield free
    for count in range(1, len(others) + 1):
        for chosen in map(set, combinations(others, count)):
            yield chosen
            if free:
                yield free | chosen


def _without(options: Json, names: Collection[str]) -> Json:
    return {name: value for name, value in options.items() if name not in names}
