"""A finished exchange in, a `UsageRecord` kept: and what was kept, asked."""

from llm_proxy.ledger.erasure import Erasures, Places
from llm_proxy.ledger.exchange import Exchange
from llm_proxy.ledger.history import Histories
from llm_proxy.ledger.langfuse import Langfuse
from llm_proxy.ledger.ledger import Ledger, LedgerState
from llm_proxy.ledger.queries import Usage
from llm_proxy.ledger.record import UsageRecord
from llm_proxy.ledger.remembered import Remembered
from llm_proxy.ledger.spent import Spent
from llm_proxy.ledger.store import Store
from llm_proxy.ledger.vitals import Vital, Vitals
from llm_proxy.ledger.vitals_shared import SharedVitals
from llm_proxy.ledger.witnesses import Witnesses

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
