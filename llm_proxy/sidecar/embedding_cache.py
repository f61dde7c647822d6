"""An embedding that came out of the cache, whole or in part, says so, and what the rest of it cost.

LiteLLM marks no hit of an embedding, and prices a batch of which some inputs were cached now by what was
embedded, now by all of it, whichever of two tasks is first. Invariants: the cost is that of the inputs a
provider was asked for; where that is not known, none is told.
"""

from importlib import import_module

from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs

HIT = "embedding"
"""What stands where a chat's hit names its key: each input has a key of its own."""


def apply() -> None:
    """Patch the handler of cached answers; before the first call."""
    handler = import_module("litellm.caching.caching_handler").LLMCachingHandler
    look_up = handler._process_async_embedding_cached_response  # noqa: SLF001 -- where hits are counted
    combine = handler.combine_cached_embedding_response_with_api_result

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


PATCH = Patch(
    name="embedding_cache",
    install=apply,
    reason=(
        "A hit of an embedding is not told, and a batch of which some inputs were cached is priced by chance."
    ),
    since="1.106.2",
    report=(
        "https://github.com/BerriAI/litellm/issues/8570; to file: `cost of a partly cached embedding "
        "batch depends on task order`."
    ),
    until="The header is sent for embeddings, and the cost is that of the inputs sent.",
)
