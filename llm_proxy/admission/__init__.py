"""`Caller` + `Call` in, a `Lease` out: requests, tokens, places and money, checked all and taken all."""

from llm_proxy.admission.admit import Admission, AdmissionState
from llm_proxy.admission.asking import Prices
from llm_proxy.admission.cap import capped
from llm_proxy.admission.explain import Explanation, explain, standing_of
from llm_proxy.admission.lease import Lease, Used
from llm_proxy.admission.once import EvictingStore, announce, refuse_evicting
from llm_proxy.admission.policy import Defaults, Policies
from llm_proxy.admission.replay import PastCall, Replay, Repriced, Verdict
from llm_proxy.admission.spend import Spent
from llm_proxy.admission.spending import Spending, SpendingWatch
from llm_proxy.admission.standing import Standing, resets

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
