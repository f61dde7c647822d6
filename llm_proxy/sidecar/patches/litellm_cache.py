"""LiteLLM's own cache: embeddings are marked and priced per input, streams are not stored.

Invariants: the cost of a partly cached batch is that of the inputs sent to a provider; only texts are cached,
each with its own vector; an answer with another number of vectors than inputs is an error; a cache outside of
Redis stores complete answers only.
"""

from importlib import import_module

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import call_outcome, embeddings, litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

HIT_KEY = "embedding"
"""The cache key that a hit reports; each input has a key of its own."""


def _install_embedding_cache() -> None:
    """Patch LiteLLM's caching handler; before the first call.

    LiteLLM reports no hit, and prices a partly cached batch by the inputs sent or by all of them, depending
    on which of two tasks runs first.
    """
    handler = import_module("litellm.caching.caching_handler").LLMCachingHandler

    async def read_texts(self: Untyped, *, kwargs: Json, **options: Untyped) -> Untyped:
        return None if _has_tokens(kwargs) else await read(self, kwargs=kwargs, **options)

    def may_store_texts(self: Untyped, original_function: Untyped, kwargs: Json) -> bool:
        return not _has_tokens(kwargs) and bool(may_store(self, original_function, kwargs))

    async def check_and_store(self: Untyped, result: Untyped, *args: Untyped, **options: Untyped) -> None:
        _check_count(result, as_object(options.get("kwargs")))
        await store(self, result, *args, **options)

    def mark_hit(self: Untyped, *args: Untyped, logging_obj: Untyped, **options: Untyped) -> Untyped:
        found, complete = process_hits(self, *args, logging_obj=logging_obj, **options)
        self.log_of_this_call = logging_obj
        if complete:
            found.hidden_params |= {"cache_key": HIT_KEY, "response_cost": 0.0}
        return found, complete

    def combine_and_price(self: Untyped, *, embedding_response: Untyped, **options: Untyped) -> Untyped:
        merged = combine(self, embedding_response=embedding_response, **options)
        cost = self.log_of_this_call.response_cost_calculator(result=embedding_response)
        merged.hidden_params["response_cost"] = cost or 0.0
        return merged

    process_hits = replace(handler, "_process_async_embedding_cached_response", mark_hit)
    combine = replace(handler, "combine_cached_embedding_response_with_api_result", combine_and_price)
    read = replace(handler, "_retrieve_from_cache", read_texts)
    may_store = replace(handler, "should_store_result_in_cache", may_store_texts)
    store = replace(handler, "async_set_cache", check_and_store)


def _has_tokens(call: Json) -> bool:
    """Whether an input is a list of tokens: LiteLLM caches each token as an input, 5 like the text "5"."""
    return any(not isinstance(one, str) for one in as_list(call.get("input")))


def _check_count(result: Untyped, call: Json) -> None:
    """Raise LiteLLM's exception if an embedding answer has not one vector for each input."""
    library = litellm_internals.litellm_module()
    if not isinstance(result, library.EmbeddingResponse) or call.get("input") is None:
        return
    if call_outcome.provider_body() is not None:  # has vectors of several types; `cohere_embed` counts them
        return
    if len(result.data or ()) != embeddings.count_inputs(call["input"]):
        message = "the provider's answer has not one vector for each input"
        raise litellm_internals.bad_gateway(message, model=call.get("model"))


EMBEDDING_CACHE = LiteLLMPatch(
    name="embedding_cache",
    install=_install_embedding_cache,
    reason=(
        "An embedding's cache hit is not reported, a partly cached batch is priced at random, each token of "
        "a list is cached as a text, and a wrong number of vectors is accepted."
    ),
    report="https://github.com/BerriAI/litellm/issues/8570",
    until=(
        "The header is sent for embeddings, the cost is that of the inputs sent, and lists of tokens are "
        "one input."
    ),
    tests=(
        "tests/stages/sidecar/test_redis_cache.py::test_a_partly_cached_batch_costs_what_was_embedded",
        "tests/stages/sidecar/test_embeddings.py::test_a_list_of_tokens_is_one_input",
    ),
)


def _install_own_cache() -> None:
    """Keep streams out of LiteLLM's cache if that is not in Redis; after LiteLLM's start."""
    settings = litellm_internals.litellm_module().cache
    if settings is None or isinstance(settings.cache, litellm_internals.redis_cache_class()):
        return

    def unless_streamed(**options: Untyped) -> bool:
        return options.get("stream") is not True and bool(should_use_cache(**options))

    should_use_cache = replace(settings, "should_use_cache", unless_streamed)


OWN_CACHE = LiteLLMPatch(
    name="own_cache",
    install=_install_own_cache,
    reason="LiteLLM replays a cached stream with losses: choices, tool calls and usage among them.",
    until="A replayed stream equals the first one.",
    tests=(
        "tests/stages/sidecar/test_response_cache.py::test_litellm_s_in_memory_cache_stores_complete_answers_only",
    ),
    after_start=True,
)
