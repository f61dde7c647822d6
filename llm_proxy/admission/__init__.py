"""A caller and a call in, a `Lease` out: requests, tokens, slots and money, all checked before any counts."""

from llm_proxy.admission.controller import AdmissionController, current_limits
from llm_proxy.admission.policy_resolver import PolicyDefaults
from llm_proxy.admission.rate_limit_response import LimitStatus, reset_time

__all__ = ["AdmissionController", "LimitStatus", "PolicyDefaults", "current_limits", "reset_time"]
