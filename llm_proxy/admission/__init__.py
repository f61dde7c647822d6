"""`Caller` + `Call` in, a `Lease` out: requests, tokens, places and money, checked all and taken all."""

from llm_proxy.admission.admit import Admission, AdmissionState
from llm_proxy.admission.asking import Prices
from llm_proxy.admission.budget import Price
from llm_proxy.admission.lease import Lease
from llm_proxy.admission.spend import Spent
from llm_proxy.admission.store import EvictingStore, refuse_evicting

__all__ = [
    "Admission",
    "AdmissionState",
    "EvictingStore",
    "Lease",
    "Price",
    "Prices",
    "Spent",
    "refuse_evicting",
]
