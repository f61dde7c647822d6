"""Any accepted body in, a `Call` in OpenAI's shape out, and the reply back in the caller's vocabulary."""

from llm_proxy.dialects.call import CacheControl, Call
from llm_proxy.dialects.dialect import Answered, Bounds, Dialect, Hints, Models, Offer, StreamWriter
from llm_proxy.dialects.generate import GENERATE, GENERATE_STREAM
from llm_proxy.dialects.internal import INTERNAL
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.openai import model as openai_model
from llm_proxy.dialects.request.field_policy import longest_asked
from llm_proxy.dialects.request_options import NO_HINTS, read_hints

__all__ = [
    "Answered", "Bounds", "CacheControl", "Call", "Dialect", "Hints", "Models", "Offer",
    "StreamWriter",
    "longest_asked", "openai_model", "read_hints",
    "NO_HINTS", "OPENAI", "INTERNAL", "GENERATE", "GENERATE_STREAM",
]  # fmt: skip
