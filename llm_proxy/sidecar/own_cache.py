"""LiteLLM's own cache, where a configuration keeps answers in it and not in a Redis: whole answers only.

Invariant: embeddings and whole answers are cached as LiteLLM does it; no stream is stored or replayed.
"""

from llm_proxy.sidecar import seams
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs


def apply() -> None:
    """Keep streams out of a cache that is not the response cache's Redis."""
    settings = seams.library().cache
    if settings is None or isinstance(settings.cache, seams.redis_cache()):
        return
    should_use_cache = settings.should_use_cache

    def unless_streamed(**options: Theirs) -> bool:
        return options.get("stream") is not True and bool(should_use_cache(**options))

    settings.should_use_cache = unless_streamed


PATCH = Patch(
    name="own_cache",
    install=apply,
    reason="LiteLLM replays a stream out of its cache with losses: choices, tool calls and usage among them.",
    since="1.106.2",
    report="To file: `a cached stream is rebuilt from the whole answer and loses what frames said`.",
    until="A replayed stream equals the first one.",
    tests=("tests/stages/test_sidecar_cache.py::test_litellm_s_own_cache_keeps_no_streams",),
    after_start=True,
)
