"""A key's cap on `max_tokens`, laid over a call.

Pure. Invariants: a call that asks for more, or does not say, gets the cap; whatever names the body already
uses for its maximum are kept; more in a provider's own words, which nobody here rewrites, is refused;
embeddings write nothing and are left alone.
"""

from llm_proxy.dialects import Call, requested_max_tokens
from llm_proxy.errors import BadRequest
from llm_proxy.identity import Caller

_NAMES = ("max_completion_tokens", "max_tokens")


def apply_max_tokens_cap(caller: Caller, call: Call) -> Call:
    """The call within the caller's cap; raises `BadRequest` for one that goes round it."""
    cap = caller.max_tokens_cap
    if (
        cap is None
        or call.endpoint == "embeddings"
        or (call.max_tokens is not None and call.max_tokens <= cap)
    ):
        return call
    own = requested_max_tokens({**call.body, **(call.body.get("extra_body") or {})})
    if own is not None and own > cap:
        raise BadRequest(
            f"This API key may ask for at most {cap} completion tokens.",
            param="max_tokens",
            code="integer_above_max_value",
        )
    named = [name for name in _NAMES if call.body.get(name) is not None] or ["max_tokens"]
    body = call.body | dict.fromkeys(named, cap)
    return call._replace(body=body, max_tokens=cap)
