"""`Caller` + `Call` in, a `Lease` out: requests, tokens, places and money, checked all and taken all."""

from llm_proxy.admission.controller import (
    AdmissionController,
    AdmissionState,
    Explanation,
    current_limits,
    explain_call,
)
from llm_proxy.admission.lease import Lease, SettledUsage
from llm_proxy.admission.limit_planner import PriceSource
from llm_proxy.admission.policy_resolver import PolicyDefaults, PolicyResolver
from llm_proxy.admission.rate_limit_response import LimitStatus, reset_time
from llm_proxy.admission.redis.backend import EvictionEnabled, publish_epochs, require_noeviction
from llm_proxy.admission.renewal import SpendSource
from llm_proxy.admission.replay import PastCall, PriceOverrides, Replay, ReplayVerdict
from llm_proxy.admission.spending_watch import BudgetSpend, SpendingWatch

__all__ = [
    "AdmissionController",
    "AdmissionState",
    "PolicyDefaults",
    "EvictionEnabled",
    "Explanation",
    "Lease",
    "PastCall",
    "PolicyResolver",
    "PriceSource",
    "Replay",
    "PriceOverrides",
    "BudgetSpend",
    "SpendingWatch",
    "SpendSource",
    "LimitStatus",
    "SettledUsage",
    "ReplayVerdict",
    "publish_epochs",
    "explain_call",
    "require_noeviction",
    "reset_time",
    "current_limits",
]
