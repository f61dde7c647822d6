"""Headers in, a `Caller` out: who is calling and what they are bound to."""

from llm_proxy.identity.binding import on_behalf_of
from llm_proxy.identity.caller import NOBODY, Budget, Caller, Limits, Named
from llm_proxy.identity.identify import Identity, named_by_headers
from llm_proxy.identity.credentials import InternalSecrets
from llm_proxy.identity.models import allowed
from llm_proxy.identity.rules import ANY, Kill, Rule, Rulebook, RuleSource, killed_by

__all__ = [
    "ANY", "NOBODY", "Budget", "Caller", "Identity", "InternalSecrets", "Kill", "Limits", "Named", "Rule", "RuleSource",
    "Rulebook", "allowed", "killed_by", "named_by_headers", "on_behalf_of",
]  # fmt: skip
