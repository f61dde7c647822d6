"""Request formats: a body in, a `Call` in OpenAI's schema out, and the answer back in the caller's format."""

from llm_proxy.dialects.call import BYTES_PER_TOKEN, UNBOUNDED_TOKENS, CacheControl, Call
from llm_proxy.dialects.dialect import (
    BodyLimits,
    Dialect,
    ListedModel,
    ModelIndex,
    ResponseMeta,
    StreamRenderer,
)
from llm_proxy.dialects.generate import GENERATE, GENERATE_STREAM
from llm_proxy.dialects.internal import INTERNAL
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.openai import render_model as openai_model
from llm_proxy.dialects.request.field_policy import requested_max_tokens
from llm_proxy.dialects.request_options import NO_OPTIONS, RequestOptions, parse_request_options

__all__ = [
    "BodyLimits", "CacheControl", "Call", "Dialect", "ListedModel", "ModelIndex", "RequestOptions",
    "ResponseMeta", "StreamRenderer",
    "openai_model", "parse_request_options", "requested_max_tokens",
    "BYTES_PER_TOKEN", "NO_OPTIONS", "UNBOUNDED_TOKENS", "OPENAI", "INTERNAL", "GENERATE", "GENERATE_STREAM",
]  # fmt: skip
