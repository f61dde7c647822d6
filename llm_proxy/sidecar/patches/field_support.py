"""Leaves out a documented default value where the chosen deployment's provider does not support the field.

LiteLLM rejects the call for `store: false` or `top_p: 1`, and translates some defaults into other values.
Invariants: decided for each attempt; a provider of OpenAI's format gets every field; a value that is no
default is rejected by name; as few fields as possible are left out; a default has its JSON type too.
Source: https://platform.openai.com/docs/api-reference (chat, completions, embeddings).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from itertools import combinations

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import call_outcome, litellm_internals
from llm_proxy.sidecar.embeddings import BASE64
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch

NEUTRAL_DEFAULTS: Mapping[str, object] = {
    "best_of": 1,
    "echo": False,
    "encoding_format": "float",
    "frequency_penalty": 0,
    "function_call": "auto",
    "logit_bias": {},
    "logprobs": False,
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "service_tier": "auto",
    "stop": [],
    "store": False,
    "suffix": "",
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
}
SAMPLING_DEFAULTS: Mapping[str, object] = {
    "reasoning_effort": "medium",
    "temperature": 1,
    "top_p": 1,
    "verbosity": "medium",
}
COMPLETIONS_ONLY = frozenset({"best_of", "echo", "suffix"})
"""Fields that only a completions endpoint has."""
CHOOSES_FROM = {"tool_choice": "tools", "function_call": "functions"}
"""Fields whose `none` is the default where the field they choose from is absent."""


def neutral_fields(fields: Mapping[str, object]) -> list[str]:
    """The names of the fields that may be left out anywhere."""
    return [
        name
        for name in fields
        if _is_default(NEUTRAL_DEFAULTS, name, fields) or _chooses_from_nothing(name, fields)
    ]


def sampling_fields(fields: Mapping[str, object]) -> list[str]:
    """The names of the fields that ask for OpenAI's default, which another provider may not share."""
    return [name for name in fields if _is_default(SAMPLING_DEFAULTS, name, fields)]


def _is_default(table: Mapping[str, object], name: str, fields: Mapping[str, object]) -> bool:
    value, default = fields[name], table.get(name)
    return default is not None and value == default and isinstance(value, bool) == isinstance(default, bool)


def _chooses_from_nothing(name: str, fields: Mapping[str, object]) -> bool:
    return fields[name] == "none" and name in CHOOSES_FROM and not fields.get(CHOOSES_FROM[name])


Translate = Callable[..., Untyped]
GENERIC_PROVIDERS = frozenset({"openai_like", "lm_studio"})
"""Providers of OpenAI's wire whose embedding fields LiteLLM refuses or loses, whatever the server can do."""
NEWER_CHOICES = frozenset({"allowed_tools", "custom"})
"""Kinds of `tool_choice` that LiteLLM takes for no choice at all."""
TARGET_OPTIONS = frozenset({"custom_llm_provider", "model"})
"""Options that say whom to ask."""
EMBEDDING_FIELDS = ("dimensions", "encoding_format", "user")


def install() -> None:
    """Patch where LiteLLM puts fields into a provider's words; before the first call."""
    main: Untyped = import_module("litellm.main")
    chat, embeddings = main.get_optional_params, main.get_optional_params_embeddings

    def map_chat(**options: Untyped) -> Untyped:
        free, chosen = neutral_fields(options), as_object(options.get("tool_choice")).get("type")
        if not free and chosen not in NEWER_CHOICES:
            return _translate_or_name_field(chat, options)
        translated = _is_translated(options)
        if translated and chosen in NEWER_CHOICES:
            raise _unsupported("tool_choice", options)
        return _translate_or_name_field(
            chat, _without(options, free if translated else _completions_only_fields(free, options))
        )

    def map_embeddings(**options: Untyped) -> Untyped:
        # `openai` stands for any server of that wire: LiteLLM cannot know whose model shortens vectors.
        allowed = [*as_list(options.pop("allowed_openai_params", None)), "dimensions"]
        passed: Json = {}
        if options.get("custom_llm_provider") in GENERIC_PROVIDERS:
            passed = {name: options.pop(name) for name in EMBEDDING_FIELDS if options.get(name) is not None}
        options["allowed_openai_params"] = allowed
        try:
            return _translate(embeddings, options) | passed
        except litellm_internals.litellm_module().UnsupportedParamsError:
            if options.get("encoding_format") != BASE64:
                raise
        return _translate(embeddings, _without(options, {"encoding_format"}))  # the answer is put into it

    check_choice = main.validate_chat_completion_tool_choice

    def take_choice(tool_choice: Untyped = None, *words: Untyped, **options: Untyped) -> Untyped:
        known = as_object(tool_choice).get("type") in NEWER_CHOICES
        return tool_choice if known else check_choice(tool_choice, *words, **options)

    def drops_no_choice(*_: Untyped, **__: Untyped) -> bool:
        return False  # whether a provider's wire has a choice is decided in `map_chat`

    main.validate_chat_completion_tool_choice = take_choice
    main.drops_unsupported_allowed_tools_tool_choice = drops_no_choice
    main.get_optional_params = map_chat
    main.get_optional_params_embeddings = map_embeddings


def _is_translated(options: Json) -> bool:
    """Whether the provider's wire is not OpenAI's, so that LiteLLM translates each field."""
    library, provider = litellm_internals.litellm_module(), str(options.get("custom_llm_provider") or "")
    if provider not in {one.value for one in library.LlmProviders}:
        return False
    words = library.ProviderConfigManager.get_provider_chat_config(
        model=options["model"],
        provider=library.LlmProviders(provider),
        base_model=options.get("base_model"),
    )
    wires = (library.OpenAIGPTConfig, library.OpenAIConfig, library.AzureOpenAIConfig)
    return words is not None and not isinstance(words, wires)


def _completions_only_fields(names: Collection[str], options: Json) -> Collection[str]:
    """Which of the fields only a completions endpoint has, where the call goes to another."""
    provider = str(options.get("custom_llm_provider") or "")
    completes = provider == "azure_text" or provider.startswith("text-completion-")
    completes = (
        completes
        or provider in litellm_internals.litellm_module().openai_text_completion_compatible_providers
    )
    return () if completes else COMPLETIONS_ONLY.intersection(names)


def _unsupported(name: str, options: Json) -> BaseException:
    """The refusal of a field, in the words LiteLLM has for it."""
    provider, model = options.get("custom_llm_provider"), options.get("model")
    error: BaseException = litellm_internals.litellm_module().UnsupportedParamsError(
        message=f"{provider} does not support parameters: ['{name}'], for model={model}.", status_code=400
    )
    return error


def _translate_or_name_field(translate: Translate, options: Json) -> Untyped:
    """As `_map`; of what cannot be translated at all, the field at fault is noted.

    It is the one without which the rest can be translated.
    """
    try:
        return _translate(translate, options)
    except litellm_internals.litellm_module().UnsupportedParamsError:
        raise
    except Exception:
        given = [name for name, value in options.items() if value is not None and name not in TARGET_OPTIONS]
        found = [name for name in given if _translates(translate, _without(options, {name}))]
        if len(found) == 1:
            call_outcome.record_untranslatable_field(found[0])
        raise


def _translates(translate: Translate, options: Json) -> bool:
    try:
        _translate(translate, options)
    except Exception:  # noqa: BLE001 -- LiteLLM stumbles with whatever its code raises
        return False
    return True


def _translate(translate: Translate, options: Json) -> Untyped:
    """The provider's words for the options, less the default values that it refuses."""
    refused = litellm_internals.litellm_module().UnsupportedParamsError
    try:
        return translate(**options)
    except refused as first:
        why = first
    for left_out in _sets_to_leave_out(options):
        try:
            return translate(**_without(options, left_out))
        except refused as again:
            why = again
    raise why


def _sets_to_leave_out(options: Json) -> Iterator[set[str]]:
    """Sets of default-valued fields to leave out: the neutral ones, then as few others as possible."""
    free, others = set(neutral_fields(options)), sampling_fields(options)
    if free:
        yield free
    for count in range(1, len(others) + 1):
        for chosen in map(set, combinations(others, count)):
            yield chosen
            if free:
                yield free | chosen


def _without(options: Json, names: Collection[str]) -> Json:
    return {name: value for name, value in options.items() if name not in names}


PATCH = LiteLLMPatch(
    name="field_support",
    install=install,
    reason=(
        "A value equal to OpenAI's documented default refuses the whole call where the provider does not "
        "know the field."
    ),
    since="1.106.2",
    report="To file: `drop parameters that equal the documented default without drop_params`.",
    until="LiteLLM leaves such values out by itself.",
    tests=(
        "tests/contract/test_default_values.py::test_a_documented_default_passes_everywhere",
        "tests/contract/test_default_values.py::test_a_default_is_never_translated_into_something_else",
    ),
)
