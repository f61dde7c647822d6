"""Headers in, a `Caller` out: who is calling and what they are bound to."""

from llm_proxy.identity.caller import NOBODY, Budget, Caller, Limits, Named

__all__ = ["NOBODY", "Budget", "Caller", "Limits", "Named"]
