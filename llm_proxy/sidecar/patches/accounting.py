"""What a call used and cost, as the provider and the configuration state it.

Invariants: tokens that LiteLLM counted itself are marked `llmp_counted` (the gateway removes the mark),
stated tokens never; a provider's service tier is kept; a stream costs what a complete answer with the same
usage costs, in its usage frame and in the log; a price of 0 covers every kind of token derived from it.
"""

from importlib import import_module

from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import catalog, litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

CHUNK_BUILDER = "litellm.litellm_core_utils.streaming_chunk_builder_utils"
OPENAI_OBJECTS = ("chat.completion.chunk", "text_completion")
COUNTED_MARK = "llmp_counted"
OLLAMA = "litellm.llms.ollama.chat.transformation"
STATED_USAGE = "_llmp_usage_stated"
STREAM_COUNTS = ("prompt_tokens", "completion_tokens")
OLLAMA_COUNTS = ("prompt_eval_count", "eval_count")


def _install_service_tiers() -> None:
    """Replace LiteLLM's parser of Groq's answers by the one it inherits."""
    config = litellm_internals.groq_config_class()
    inherited = config.__base__.transform_response

    def transform_response(self: Untyped, **options: Untyped) -> Untyped:
        response = inherited(self, **options)
        self._add_web_search_usage(model_response=response)
        return response

    config.transform_response = transform_response


SERVICE_TIERS = LiteLLMPatch(
    name="service_tiers",
    install=_install_service_tiers,
    reason=(
        "A complete answer of Groq without a service tier fails; its other tiers are replaced with `auto`."
    ),
    until="Groq's tier is optional and kept.",
    tests=("tests/stages/sidecar/test_service_tiers.py::test_groq_s_tier_is_kept",),
)


def _install_stream_prices() -> None:
    """Patch the functions that price a stream; before the first call.

    LiteLLM prices streams and complete answers by one calculator, but passes it less of a stream: of a usage
    frame only OpenAI's fields, no service tier, no text completion. A frame states only a known cost.
    """
    _price_usage_frames(litellm_internals.request_processing_class())
    _price_complete_streams(import_module(CHUNK_BUILDER))


def _price_usage_frames(processing: Untyped) -> None:
    def parse_all_fields(obj: Json, usage: Json) -> Untyped:
        if obj.get("object") not in OPENAI_OBJECTS:
            return parse(obj, usage)
        try:
            return litellm_internals.litellm_module().Usage(**usage)
        except Exception:  # noqa: BLE001 -- a usage that cannot be priced must not break the stream
            return parse(obj, usage)

    def price_as_complete(response: Untyped, model: str, tier: str | None, logging: Untyped) -> float | None:
        if tier:
            response.service_tier = tier
        details = as_object(getattr(logging, "model_call_details", None))
        provider = str(details.get("custom_llm_provider") or "")
        litellm_internals.stream_wrapper_class()._propagate_usage_cost_to_hidden_params(response, provider)  # noqa: SLF001 -- as for the complete stream
        cost: float | None = price(response, model, tier, logging)
        headers = as_object(response._hidden_params).get("additional_headers")  # noqa: SLF001 -- the same
        deployment = str(logging.get_router_model_id() if logging is not None else "")
        name = catalog.qualified_model(provider, str(getattr(logging, "model", model)))
        return cost if catalog.is_cost_known(cost, headers, deployment, name) else None

    parse = replace(processing, "_stream_usage_for_event", parse_all_fields)
    price = replace(processing, "_streamed_usage_cost", price_as_complete)


def _price_complete_streams(builder: Untyped) -> None:
    """Leave the cost of a logged stream to the log, which prices it as a complete answer."""

    def only_without_log(response: Untyped, logging_obj: Untyped) -> float | None:
        cost: float | None = stated_cost(response, logging_obj) if logging_obj is None else None
        return cost

    stated_cost = replace(builder, "_stream_builder_response_cost", only_without_log)


STREAM_PRICES = LiteLLMPatch(
    name="stream_prices",
    install=_install_stream_prices,
    reason=(
        "The cost in a stream's usage frame leaves out the service tier, cache writes and reads stated "
        "beside `prompt_tokens_details`, and all of a text completion; in the log a server's own "
        "`usage.cost` comes before the deployment's prices."
    ),
    until="A stream's usage frame, its log and a complete answer with the same usage have one cost.",
    tests=(
        "tests/stages/sidecar/test_service_tiers.py::test_a_call_costs_the_price_of_its_tier",
        "tests/flow/test_token_prices.py::test_a_stream_costs_what_a_complete_answer_does",
    ),
)


def _install_counted() -> None:
    """Patch the two classes that count tokens; before the first call."""
    _mark_streams(import_module(CHUNK_BUILDER).ChunkProcessor)
    _mark_ollama_responses(import_module(OLLAMA).OllamaChatConfig)


def _mark_streams(processor: Untyped) -> None:
    """Mark the usage of a stream, of any provider, whose frames do not state both counts."""

    def sum_frames_and_keep(self: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        stated = sum_frames(self, *args, **options)
        setattr(self, STATED_USAGE, stated)
        return stated

    def calculate_and_mark(self: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        usage = calculate(self, *args, **options)
        stated = as_object(getattr(self, STATED_USAGE, None))
        _mark(usage, stated, STREAM_COUNTS)
        if not hasattr(
            usage, COUNTED_MARK
        ):  # LiteLLM adds details of its own count: reasoning, the rest text
            usage.completion_tokens_details = stated.get("completion_tokens_details")
        return usage

    sum_frames = replace(processor, "_calculate_usage_per_chunk", sum_frames_and_keep)
    calculate = replace(processor, "calculate_usage", calculate_and_mark)


def _mark_ollama_responses(config: Untyped) -> None:
    """Mark the usage of Ollama's complete answers that do not state both counts."""

    def transform_and_mark(
        self: Untyped, model: str, raw_response: Untyped, *args: Untyped, **options: Untyped
    ) -> Untyped:
        answer = transform(self, model, raw_response, *args, **options)
        _mark(answer.usage, as_object(raw_response.json()), OLLAMA_COUNTS)
        return answer

    transform = replace(config, "transform_response", transform_and_mark)


def _mark(usage: Untyped, stated: Json, names: tuple[str, str]) -> None:
    if any(stated.get(name) is None for name in names):
        setattr(usage, COUNTED_MARK, True)


COUNTED = LiteLLMPatch(
    name="counted",
    install=_install_counted,
    reason=(
        "Tokens LiteLLM counted itself look like the provider's; to a stream's stated tokens it adds details "
        "of its own count, by which audio is billed a second time as text."
    ),
    until="The response says who counted.",
    tests=("tests/stages/sidecar/test_passthrough.py::test_counts_of_litellm_are_marked",),
)

DERIVED_PRICE_PREFIXES = {
    "input_cost_per_token": ("input_cost_per_", "cache_read_input_", "cache_creation_input_"),
    "output_cost_per_token": ("output_cost_per_",),
}
"""A base price -> the beginnings of the names of prices derived from it."""


def _install_free_deployments() -> None:
    """Set prices derived from a price of 0 to 0, after LiteLLM has read the model list."""
    router = litellm_internals.router()
    for entry in router.model_list if router is not None else ():
        own = _own_prices(entry)
        prefixes = tuple(
            prefix
            for base, derived in DERIVED_PRICE_PREFIXES.items()
            if base in own and not float(own[base])
            for prefix in derived
        )
        if prefixes:
            deployment = str(as_object(entry.get("model_info")).get("id"))
            known = as_object(litellm_internals.litellm_module().model_cost.get(deployment))
            free = {name: 0.0 for name in known if name.startswith(prefixes) and name not in own}
            litellm_internals.litellm_module().register_model({deployment: free})


def _own_prices(entry: Json) -> Json:
    """Return the prices that an entry of the model list states itself."""
    params, info = as_object(entry.get("litellm_params")), as_object(entry.get("model_info"))
    given = [*info.items(), *params.items()]
    return {name: value for name, value in given if "cost" in name and value is not None}


FREE_DEPLOYMENTS = LiteLLMPatch(
    name="free_deployments",
    install=_install_free_deployments,
    reason=(
        "A deployment priced at 0 is billed the published price for cached tokens and for service tiers "
        "if its model has a published price."
    ),
    until="A custom price of 0 is 0 for all tokens of its kind.",
    tests=("tests/flow/test_token_prices.py::test_free_is_free_for_every_kind_of_token",),
    after_start=True,
)
