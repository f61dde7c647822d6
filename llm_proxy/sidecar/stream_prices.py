"""A stream costs what a whole answer with the same usage does, in its usage frame and in the log.

LiteLLM prices both by one calculator and gives it less of a stream: of a frame's usage only the fields that
OpenAI names, no service tier, no text completion; of the whole stream a cost that any server stated, before
the deployment's own price. Invariants: a frame states a cost where it is known, 0 among it, and nowhere else;
no usage that cannot be priced breaks a stream.
"""

from importlib import import_module

from llm_proxy.json_access import Json
from llm_proxy.sidecar import prices, seams
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping

BUILDER = "litellm.litellm_core_utils.streaming_chunk_builder_utils"
OF_OPENAI = ("chat.completion.chunk", "text_completion")


def apply() -> None:
    """Patch what prices a stream; before the first call."""
    _price_frames(seams.request_processing())
    _price_whole_streams(import_module(BUILDER))


def _price_frames(processing: Theirs) -> None:
    read = processing._stream_usage_for_event  # noqa: SLF001 -- what a frame's usage is to the calculator
    price = processing._streamed_usage_cost  # noqa: SLF001 -- where every usage frame is priced

    def read_all(obj: Json, usage: Json) -> Theirs:
        if obj.get("object") not in OF_OPENAI:
            return read(obj, usage)
        try:
            return seams.library().Usage(**usage)
        except Exception:  # noqa: BLE001 -- whatever a provider wrote there
            return read(obj, usage)

    def price_as_whole(response: Theirs, model: str, tier: str | None, logging: Theirs) -> float | None:
        if tier:
            response.service_tier = tier
        details = mapping(getattr(logging, "model_call_details", None))
        provider = str(details.get("custom_llm_provider") or "")
        seams.stream_wrapper()._propagate_usage_cost_to_hidden_params(response, provider)  # noqa: SLF001 -- as for the whole stream
        cost: float | None = price(response, model, tier, logging)
        headers = mapping(response._hidden_params).get("additional_headers")  # noqa: SLF001 -- the same
        deployment = str(logging.get_router_model_id() if logging is not None else "")
        name = prices.full_name(provider, str(getattr(logging, "model", model)))
        return cost if prices.is_known(cost, headers, deployment, name) else None

    processing._stream_usage_for_event = staticmethod(read_all)  # noqa: SLF001 -- the same
    processing._streamed_usage_cost = staticmethod(price_as_whole)  # noqa: SLF001 -- the same


def _price_whole_streams(builder: Theirs) -> None:
    """A call's log prices a stream as it does a whole answer; what a provider may state is read there too."""
    stated_cost = builder._stream_builder_response_cost  # noqa: SLF001 -- it believes any server

    def leave_to_the_log(response: Theirs, logging_obj: Theirs) -> float | None:
        cost: float | None = stated_cost(response, logging_obj) if logging_obj is None else None
        return cost

    builder._stream_builder_response_cost = leave_to_the_log  # noqa: SLF001 -- the same


PATCH = Patch(
    name="stream_prices",
    install=apply,
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
