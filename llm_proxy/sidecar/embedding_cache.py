"""An embedding that came out of the cache, whole or in part, says so, and what the rest of it cost.

LiteLLM marks no hit of an embedding, and prices a batch of which some inputs were cached now by what was
embedded, now by all of it, whichever of two tasks is first. Invariants: the cost is that of the inputs a
provider was asked for, else none is told; only texts are cached, each with its own vector; an answer of any
provider with another number of vectors than inputs is a failure.
"""

from importlib import import_module

from llm_proxy.json_access import Json
from llm_proxy.sidecar import seams, vectors
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import items, mapping

HIT = "embedding"
"""What stands where a chat's hit names its key: each input has a key of its own."""


def apply() -> None:
    """Patch the handler of cached answers; before the first call."""
    handler = import_module("litellm.caching.caching_handler").LLMCachingHandler
    look_up = handler._process_async_embedding_cached_response  # noqa: SLF001 -- where hits are counted
    combine = handler.combine_cached_embedding_response_with_api_result
    read, may_store, store = (
        handler._retrieve_from_cache,  # noqa: SLF001 -- where each input is looked up
        handler.should_store_result_in_cache,
        handler.async_set_cache,
    )

    async def read_texts(self: Theirs, *, kwargs: Json, **options: Theirs) -> Theirs:
        return None if _has_tokens(kwargs) else await read(self, kwargs=kwargs, **options)

    def may_store_texts(self: Theirs, original_function: Theirs, kwargs: Json) -> bool:
        return not _has_tokens(kwargs) and bool(may_store(self, original_function, kwargs))

    async def check_and_store(self: Theirs, result: Theirs, *words: Theirs, **options: Theirs) -> None:
        _check_count(result, mapping(options.get("kwargs")))
        await store(self, result, *words, **options)

    def mark(self: Theirs, *words: Theirs, logging_obj: Theirs, **options: Theirs) -> Theirs:
        found, whole = look_up(self, *words, logging_obj=logging_obj, **options)
        self.log_of_this_call = logging_obj
        if whole:
            found.hidden_params |= {"cache_key": HIT, "response_cost": 0.0}
        return found, whole

    def price(self: Theirs, *, embedding_response: Theirs, **options: Theirs) -> Theirs:
        merged = combine(self, embedding_response=embedding_response, **options)
        cost = self.log_of_this_call.response_cost_calculator(result=embedding_response)
        merged.hidden_params["response_cost"] = cost or 0.0
        return merged

    handler._process_async_embedding_cached_response = mark  # noqa: SLF001 -- the same
    handler.combine_cached_embedding_response_with_api_result = price
    handler._retrieve_from_cache = read_texts  # noqa: SLF001 -- the same
    handler.should_store_result_in_cache = may_store_texts
    handler.async_set_cache = check_and_store


def _has_tokens(call: Json) -> bool:
    """Whether an input is a list of tokens: LiteLLM takes each for an input, and 5 for the text "5"."""
    return any(not isinstance(one, str) for one in items(call.get("input")))


def _check_count(result: Theirs, call: Json) -> None:
    library = seams.library()
    if not isinstance(result, library.EmbeddingResponse) or call.get("input") is None:
        return
    if len(result.data or ()) != vectors.count_inputs(call["input"]):
        raise library.BadGatewayError(
            message="the provider's answer has not one vector for each input",
            llm_provider="",
            model=str(call.get("model") or ""),
        )


PATCH = Patch(
    name="embedding_cache",
    install=apply,
    reason=(
        "A hit of an embedding is not told, a batch of which some inputs were cached is priced by chance, "
        "tokens are cached as if each were a text, and a wrong number of vectors is an answer."
    ),
    since="1.106.2",
    report=(
        "https://github.com/BerriAI/litellm/issues/8570; to file: `cost of a partly cached embedding "
        'batch depends on task order`; `embedding input [5, 7] is cached per token, under the key of "5"`.'
    ),
    until=(
        "The header is sent for embeddings, the cost is that of the inputs sent, and lists of tokens are "
        "one input."
    ),
    tests=(
        "tests/stages/test_sidecar_cache.py::test_of_a_batch_only_what_was_embedded_is_paid_for",
        "tests/stages/test_sidecar_embeddings.py::test_a_list_of_tokens_is_one_input",
    ),
)
