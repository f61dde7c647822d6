"""From the bytes of a request to a `Call`: strict JSON, OpenAI's schema, field policy, model resolution."""

from llm_proxy.dialects.request.build_call import ParseContext, build_call
from llm_proxy.dialects.request.strict_json import parse_object
from llm_proxy.dialects.request.validators import invalid, wrong_type

__all__ = ["ParseContext", "build_call", "invalid", "parse_object", "wrong_type"]
