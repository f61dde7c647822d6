"""A finished exchange in, a `UsageRecord` kept: and what was kept, asked."""

from llm_proxy.ledger.budget_spend import Spent
from llm_proxy.ledger.call_history import Histories
from llm_proxy.ledger.erasure import Erasures, Places
from llm_proxy.ledger.erasure_stores import Langfuse
from llm_proxy.ledger.exchange import Exchange
from llm_proxy.ledger.ledger import Ledger, LedgerState
from llm_proxy.ledger.observers import Witnesses
from llm_proxy.ledger.record import UsageRecord
from llm_proxy.ledger.store import Store
from llm_proxy.ledger.usage_store import Remembered, Usage
from llm_proxy.ledger.vitals import Vital, Vitals
from llm_proxy.ledger.vitals_shared import SharedVitals

__all__ = [
    "Erasures",
    "Exchange",
    "Histories",
    "Langfuse",
    "Ledger",
    "LedgerState",
    "Places",
    "Remembered",
    "Spent",
    "Store",
    "Usage",
    "UsageRecord",
    "Vital",
    "Vitals",
    "SharedVitals",
    "Witnesses",
]
