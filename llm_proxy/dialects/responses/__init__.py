"""OpenAI's Responses: a body in, a native or a chat call out; the answer back, whole or in events."""

from llm_proxy.dialects.responses.dialect import responses_dialect

__all__ = ["responses_dialect"]
