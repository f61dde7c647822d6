"""Cohere's rerank is called in the version that knows the request's fields.

Invariant: a request that version 2 knows goes there.
Source: https://docs.cohere.com/v1/reference/rerank, https://docs.cohere.com/v2/reference/rerank.
"""

from importlib import import_module

from llm_proxy.json_access import as_list
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

MAIN = "litellm.rerank_api.main"
V1, V2 = "CohereRerankConfig", "CohereRerankV2Config"


def install() -> None:
    """Patch LiteLLM's handler of rerank calls; before the first call."""
    handler: Untyped = import_module(MAIN).base_llm_http_handler
    configs = import_module("litellm")

    def rerank_by_version(
        *, provider_config: Untyped, optional_rerank_params: Untyped, **options: Untyped
    ) -> Untyped:
        if type(provider_config).__name__ == V2 and _needs_version_1(optional_rerank_params):
            provider_config = getattr(configs, V1)()
        return rerank(
            provider_config=provider_config, optional_rerank_params=optional_rerank_params, **options
        )

    rerank = replace(handler, "rerank", rerank_by_version)


def _needs_version_1(fields: Untyped) -> bool:
    if fields.get("max_tokens_per_doc") is not None:
        return False
    objects = any(not isinstance(one, str) for one in as_list(fields.get("documents")))
    return objects or bool(fields.get("rank_fields") or fields.get("return_documents"))


PATCH = LiteLLMPatch(
    name="cohere_rerank",
    install=install,
    reason="LiteLLM sends objects as documents, and fields of version 1, to version 2 of Cohere's rerank.",
    until="LiteLLM calls the version that knows a request's fields.",
    tests=(
        "tests/stages/sidecar/test_rerank.py::test_cohere_is_called_in_the_version_that_knows_the_fields",
    ),
)
