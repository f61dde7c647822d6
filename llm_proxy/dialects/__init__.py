"""Any accepted body in, a `Call` in OpenAI's shape out, and the reply back in the caller's vocabulary."""

from llm_proxy.dialects.call import CacheControl, Call

__all__ = ["CacheControl", "Call"]
