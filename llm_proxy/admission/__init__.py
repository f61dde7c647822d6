"""`Caller` + `Call` in, a `Lease` out: requests, tokens, places and money, checked all and taken all."""

from llm_proxy.admission.cap import capped
from llm_proxy.admission.controller import Admission, AdmissionState, Explanation, explain, standing_of
from llm_proxy.admission.lease import Lease, Used
from llm_proxy.admission.limit_planner import Prices
from llm_proxy.admission.policy_resolver import Defaults, Policies
from llm_proxy.admission.rate_limit_response import Standing, resets
from llm_proxy.admission.redis.backend import EvictingStore, announce, refuse_evicting
from llm_proxy.admission.renewal import Spent
from llm_proxy.admission.replay import PastCall, Replay, Repriced, Verdict
from llm_proxy.admission.spending_watch import Spending, SpendingWatch

__all__ = [
    "Admission",
    "AdmissionState",
    "Defaults",
    "EvictingStore",
    "Explanation",
    "Lease",
    "PastCall",
    "Policies",
    "Prices",
    "Replay",
    "Repriced",
    "Spending",
    "SpendingWatch",
    "Spent",
    "Standing",
    "Used",
    "Verdict",
    "announce",
    "capped",
    "explain",
    "refuse_evicting",
    "resets",
    "standing_of",
]
