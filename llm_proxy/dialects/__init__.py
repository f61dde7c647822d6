"""Request formats: a body in, a `Call` in OpenAI's schema out, and the answer back in the caller's format."""

from llm_proxy.dialects.call import BYTES_PER_TOKEN, GUARDRAILS_FIELD, UNBOUNDED_TOKENS, Call, wants_batch
from llm_proxy.dialects.dialect import Dialect

__all__ = ["BYTES_PER_TOKEN", "GUARDRAILS_FIELD", "UNBOUNDED_TOKENS", "Call", "Dialect", "wants_batch"]
