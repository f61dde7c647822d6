"""What a call used and cost, as the provider and the configuration state it.

Invariants: tokens that LiteLLM counted itself are marked `llmp_counted` (the gateway removes the mark),
stated tokens never; a provider's service tier is kept; a stream costs what a complete answer with the same
usage costs, in its usage frame and in the log; a price of 0 covers every kind of token derived from it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import catalog, litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch

if TYPE_CHECKING:
    from collections.abc import Callable


def _install_service_tiers() -> None:
    """Patch LiteLLM's reader of Groq's answers."""
    config = litellm_internals.groq_config_class()
    inherited = config.__base__.transform_response

    def read(self: Untyped, **options: Untyped) -> Untyped:
        response = inherited(self, **options)
        self._add_web_search_usage(model_response=response)
        return response

    config.transform_response = read


SERVICE_TIERS = LiteLLMPatch(
    name="service_tiers",
    install=_install_service_tiers,
    reason=(
        "A whole answer of Groq's without a service tier fails, and another of its tiers is replaced with "
        "`auto`."
    ),
    since="1.108.6",
    report="To file: `Groq transform_response requires service_tier`.",
    until="Groq's tier is optional and kept.",
    tests=("tests/stages/test_sidecar_service_tiers.py::test_groq_s_tier_is_its_own",),
)

CHUNK_BUILDER = "litellm.litellm_core_utils.streaming_chunk_builder_utils"
OPENAI_OBJECTS = ("chat.completion.chunk", "text_completion")


def _install_stream_prices() -> None:
    """Patch what prices a stream; before the first call."""
    _price_frames(litellm_internals.request_processing_class())
    _price_whole_streams(import_module(CHUNK_BUILDER))


def _price_frames(processing: Untyped) -> None:
    read = processing._stream_usage_for_event  # noqa: SLF001 -- what a frame's usage is to the calculator
    price = processing._streamed_usage_cost  # noqa: SLF001 -- where every usage frame is priced

    def read_all(obj: Json, usage: Json) -> Untyped:
        if obj.get("object") not in OPENAI_OBJECTS:
            return read(obj, usage)
        try:
            return litellm_internals.litellm_module().Usage(**usage)
        except Exception:  # noqa: BLE001 -- whatever a provider wrote there
            return read(obj, usage)

    def price_as_whole(response: Untyped, model: str, tier: str | None, logging: Untyped) -> float | None:
        if tier:
            response.service_tier = tier
        details = as_object(getattr(logging, "model_call_details", None))
        provider = str(details.get("custom_llm_provider") or "")
        litellm_internals.stream_wrapper_class()._propagate_usage_cost_to_hidden_params(response, provider)  # noqa: SLF001 -- as for the whole stream
        cost: float | None = price(response, model, tier, logging)
        headers = as_object(response._hidden_params).get("additional_headers")  # noqa: SLF001 -- the same
        deployment = str(logging.get_router_model_id() if logging is not None else "")
        name = catalog.qualified_model(provider, str(getattr(logging, "model", model)))
        return cost if catalog.is_cost_known(cost, headers, deployment, name) else None

    processing._stream_usage_for_event = staticmethod(read_all)  # noqa: SLF001 -- the same
    processing._streamed_usage_cost = staticmethod(price_as_whole)  # noqa: SLF001 -- the same


def _price_whole_streams(builder: Untyped) -> None:
    """A call's log prices a stream as it does a whole answer; what a provider may state is read there too."""
    stated_cost = builder._stream_builder_response_cost  # noqa: SLF001 -- it believes any server

    def leave_to_the_log(response: Untyped, logging_obj: Untyped) -> float | None:
        cost: float | None = stated_cost(response, logging_obj) if logging_obj is None else None
        return cost

    builder._stream_builder_response_cost = leave_to_the_log  # noqa: SLF001 -- the same


STREAM_PRICES = LiteLLMPatch(
    name="stream_prices",
    install=_install_stream_prices,
    reason=(
        "The cost in a stream's usage frame leaves out the service tier, cache writes and reads stated "
        "beside `prompt_tokens_details`, and all of a text completion; in the log a server's own "
        "`usage.cost` comes before the deployment's prices."
    ),
    since="1.108.6",
    report=(
        "To file: `_openai_stream_usage drops cache_creation_input_tokens, prompt_cache_hit_tokens and cost; "
        "_streamed_usage_cost drops service_tier; _stream_builder_response_cost ignores custom pricing`."
    ),
    until="A stream's frame, its log and a whole answer of the same usage have one cost.",
    tests=(
        "tests/stages/test_sidecar_service_tiers.py::test_a_call_costs_what_its_tier_does",
        "tests/flow/test_token_prices.py::test_a_stream_costs_what_a_whole_answer_does",
    ),
)

COUNTED_MARK = "llmp_counted"
STREAMS = "litellm.litellm_core_utils.streaming_chunk_builder_utils"
OLLAMA = "litellm.llms.ollama.chat.transformation"
STATED_USAGE = "_llmp_usage_stated"
STREAM_COUNTS = ("prompt_tokens", "completion_tokens")
OLLAMA_COUNTS = ("prompt_eval_count", "eval_count")


def _install_counted() -> None:
    """Patch the two places that count; before the first call."""
    _mark_streams(import_module(STREAMS).ChunkProcessor)
    _mark_ollama_responses(import_module(OLLAMA).OllamaChatConfig)


def _mark_streams(processor: Untyped) -> None:
    """Every provider's stream ends here; what its frames stated is kept on the way to the sum."""
    sum_up: Callable[..., Any] = processor._calculate_usage_per_chunk  # noqa: SLF001 -- it alone knows
    calculate: Callable[..., Any] = processor.calculate_usage

    def sum_up_and_keep(self: Untyped, *words: Untyped, **options: Untyped) -> Untyped:
        stated = sum_up(self, *words, **options)
        setattr(self, STATED_USAGE, stated)
        return stated

    def calculate_and_mark(self: Untyped, *words: Untyped, **options: Untyped) -> Untyped:
        usage = calculate(self, *words, **options)
        stated = as_object(getattr(self, STATED_USAGE, None))
        _mark(usage, stated, STREAM_COUNTS)
        if not hasattr(
            usage, COUNTED_MARK
        ):  # LiteLLM counts what was thought, and takes all the rest for text
            usage.completion_tokens_details = stated.get("completion_tokens_details")
        return usage

    processor._calculate_usage_per_chunk = sum_up_and_keep  # noqa: SLF001 -- the same
    processor.calculate_usage = calculate_and_mark


def _mark_ollama_responses(config: Untyped) -> None:
    """Of the providers whose whole answers LiteLLM counts, the one that usually states its tokens."""
    transform: Callable[..., Any] = config.transform_response

    def transform_and_mark(
        self: Untyped, model: str, raw_response: Untyped, *words: Untyped, **options: Untyped
    ) -> Untyped:
        answer = transform(self, model, raw_response, *words, **options)
        _mark(answer.usage, as_object(raw_response.json()), OLLAMA_COUNTS)
        return answer

    config.transform_response = transform_and_mark


def _mark(usage: Untyped, stated: Json, names: tuple[str, str]) -> None:
    if any(stated.get(name) is None for name in names):
        setattr(usage, COUNTED_MARK, True)


COUNTED = LiteLLMPatch(
    name="counted",
    install=_install_counted,
    reason=(
        "Tokens LiteLLM counted itself look like the provider's own statement; to a stream's stated tokens "
        "it adds parts of its own count, by which audio is billed a second time as text."
    ),
    since="1.106.2",
    report="To file: `mark locally counted usage in the response`.",
    until="The response says who counted.",
    tests=("tests/stages/test_sidecar_fidelity.py::test_counts_of_litellm_s_own_are_marked",),
)
