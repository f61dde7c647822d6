"""Leaves out what asks for nothing, or is optional, where the deployment's provider has no such field.

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
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

# Leaving out a neutral default changes no provider's answer; without a sampling default the provider's holds.
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
"""Field -> the field it chooses from: without that, `none` is its default."""
Translate = Callable[..., Untyped]
GENERIC_PROVIDERS = frozenset({"openai_like", "lm_studio"})
"""Providers of OpenAI's format whose embedding fields LiteLLM rejects or drops without knowing the server."""
NEWER_CHOICES = frozenset({"allowed_tools", "custom"})
"""Types of `tool_choice` that LiteLLM treats as no choice."""
TARGET_OPTIONS = frozenset({"custom_llm_provider", "model"})
"""Options that name the provider and model; never left out."""
LENGTH = "max_tokens"
EMBEDDING_FIELDS = ("dimensions", "encoding_format", "user")


def install() -> None:
    """Patch the functions that translate fields for a provider; before the first call."""
    main: Untyped = import_module("litellm.main")

    def translate_chat(**options: Untyped) -> Untyped:
        options |= _shortened(options)
        neutral, choice = neutral_fields(options), as_object(options.get("tool_choice")).get("type")
        if not neutral and choice not in NEWER_CHOICES:
            return _translate_or_name_field(chat, options)
        translated = _is_translated(options)
        if translated and choice in NEWER_CHOICES:
            raise _unsupported("tool_choice", options)
        left_out = neutral if translated else _completions_only_fields(neutral, options)
        return _translate_or_name_field(chat, _without(options, left_out))

    def translate_embeddings(**options: Untyped) -> Untyped:
        # `openai` is any server of that format: LiteLLM cannot know which models shorten vectors.
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
        return _translate(
            embeddings, _without(options, {"encoding_format"})
        )  # `embeddings` encodes the answer

    def accept_newer_choice(tool_choice: Untyped = None, *args: Untyped, **options: Untyped) -> Untyped:
        is_newer = as_object(tool_choice).get("type") in NEWER_CHOICES
        return tool_choice if is_newer else validate_choice(tool_choice, *args, **options)

    def drops_no_choice(*_: Untyped, **__: Untyped) -> bool:
        return False  # `translate_chat` rejects what the provider has no field for

    validate_choice = replace(main, "validate_chat_completion_tool_choice", accept_newer_choice)
    main.drops_unsupported_allowed_tools_tool_choice = drops_no_choice
    chat = replace(main, "get_optional_params", translate_chat)
    embeddings = replace(main, "get_optional_params_embeddings", translate_embeddings)
    _check_prompts(main)


def _check_prompts(main: Untyped) -> None:
    def complete_text(*args: Untyped, **options: Untyped) -> Untyped:
        _reject_what_no_chat_holds(options)
        return complete(*args, **options)

    complete = replace(main, "text_completion", complete_text)


def _shortened(options: Json) -> Json:
    """Return the most that the model writes where the call, which may, asks for more."""
    asked = options.get(LENGTH)
    if LENGTH not in call_outcome.optional_fields() or not isinstance(asked, int):
        return {}
    known, name = litellm_internals.litellm_module().model_cost, str(options.get("model"))
    model = as_object(known.get(f"{options.get('custom_llm_provider')}/{name}") or known.get(name))
    most = model.get("max_output_tokens")
    return {LENGTH: most} if isinstance(most, int) and 0 < most < asked else {}


def _translate_or_name_field(translate: Translate, options: Json) -> Untyped:
    """Translate the options; if that fails, record the field without which it succeeds."""
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
    except Exception:  # noqa: BLE001 -- LiteLLM's translations raise anything
        return False
    return True


def _translate(translate: Translate, options: Json) -> Untyped:
    """Return the options in the provider's format, without the default values that it rejects."""
    unsupported = litellm_internals.litellm_module().UnsupportedParamsError
    try:
        return translate(**options)
    except unsupported as first:
        error = first
    for left_out in _sets_to_leave_out(options):
        try:
            return translate(**_without(options, left_out))
        except unsupported as last:
            error = last
    raise error


def _sets_to_leave_out(options: Json) -> Iterator[set[str]]:
    """Yield sets of fields with default values: the neutral ones, then as few others as possible."""
    neutral, others = set(neutral_fields(options)), sampling_fields(options)
    others += [
        name for name in call_outcome.optional_fields() if options.get(name) and name not in {*others, LENGTH}
    ]
    if neutral:
        yield neutral
    for count in range(1, len(others) + 1):
        for chosen in map(set, combinations(others, count)):
            yield chosen
            if neutral:
                yield neutral | chosen


def neutral_fields(fields: Mapping[str, object]) -> list[str]:
    """Return the fields with a default value that changes no provider's answer."""
    return [
        name
        for name in fields
        if _is_default(NEUTRAL_DEFAULTS, name, fields) or _chooses_from_nothing(name, fields)
    ]


def sampling_fields(fields: Mapping[str, object]) -> list[str]:
    """Return the fields with OpenAI's default value, which another provider may not share."""
    return [name for name in fields if _is_default(SAMPLING_DEFAULTS, name, fields)]


def _is_default(table: Mapping[str, object], name: str, fields: Mapping[str, object]) -> bool:
    value, default = fields[name], table.get(name)
    return default is not None and value == default and isinstance(value, bool) == isinstance(default, bool)


def _chooses_from_nothing(name: str, fields: Mapping[str, object]) -> bool:
    return fields[name] == "none" and name in CHOOSES_FROM and not fields.get(CHOOSES_FROM[name])


def _without(options: Json, names: Collection[str]) -> Json:
    return {name: value for name, value in options.items() if name not in names}


def _is_translated(options: Json) -> bool:
    """Whether the provider's format is not OpenAI's, so that LiteLLM translates each field."""
    library, provider = litellm_internals.litellm_module(), str(options.get("custom_llm_provider") or "")
    if provider not in {one.value for one in library.LlmProviders}:
        return False
    config = library.ProviderConfigManager.get_provider_chat_config(
        model=options["model"],
        provider=library.LlmProviders(provider),
        base_model=options.get("base_model"),
    )
    openai_formats = (library.OpenAIGPTConfig, library.OpenAIConfig, library.AzureOpenAIConfig)
    return config is not None and not isinstance(config, openai_formats)


def _completions_only_fields(names: Collection[str], options: Json) -> Collection[str]:
    """Return those of the fields that the call's endpoint lacks because it is no completions endpoint."""
    is_completed = _completes(str(options.get("custom_llm_provider") or ""))
    return () if is_completed else COMPLETIONS_ONLY.intersection(names)


def _completes(provider: str) -> bool:
    """Whether LiteLLM sends text completions to the provider as such, and not as chats."""
    compatible = litellm_internals.litellm_module().openai_text_completion_compatible_providers
    return provider == "azure_text" or provider.startswith("text-completion-") or provider in compatible


def _reject_what_no_chat_holds(options: Json) -> None:
    """Reject a prompt that LiteLLM would make a chat of another meaning: several texts, or tokens."""
    library, prompt = litellm_internals.litellm_module(), options.get("prompt")
    prompts = as_list(prompt)
    if isinstance(prompt, str) or (len(prompts) == 1 and isinstance(prompts[0], str)):
        return
    stated = {name: options.get(name) for name in ("model", "custom_llm_provider", "api_base")}
    name, provider, *_ = library.get_llm_provider(**stated)
    if _completes(provider) or (provider == "openai" and name not in library.open_ai_chat_completion_models):
        return
    message = f"{name} is reached by chats: its `prompt` is one text a call. Send one call for each prompt."
    raise library.UnsupportedParamsError(message=message, status_code=400)


def _unsupported(name: str, options: Json) -> BaseException:
    """Return LiteLLM's exception for an unsupported field."""
    provider, model = options.get("custom_llm_provider"), options.get("model")
    error: BaseException = litellm_internals.litellm_module().UnsupportedParamsError(
        message=f"{provider} does not support parameters: ['{name}'], for model={model}.", status_code=400
    )
    return error


PATCH = LiteLLMPatch(
    name="field_support",
    install=install,
    reason=(
        "A value equal to OpenAI's documented default, `store: false`, rejects the call if the provider does "
        "not support the field, or is translated into another value. Several prompts become one chat."
    ),
    until="LiteLLM leaves such values out, and rejects such prompts, by itself.",
    tests=(
        "tests/stages/dialects/test_default_values.py::test_a_documented_default_passes_everywhere",
        "tests/stages/dialects/test_default_values.py::test_a_default_is_never_translated_into_another_value",
        "tests/stages/dialects/test_default_values.py::test_a_chat_model_takes_one_text_as_its_prompt",
    ),
)
