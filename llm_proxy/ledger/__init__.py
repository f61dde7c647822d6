"""Records finished calls and rejected requests; answers queries about usage; erases people."""

from llm_proxy.ledger.budget_spend import LedgerSpend
from llm_proxy.ledger.call_history import CallHistoryReader
from llm_proxy.ledger.erasure import Erasures, ErasureTargets
from llm_proxy.ledger.erasure_stores import LangfuseClient
from llm_proxy.ledger.ledger import Ledger
from llm_proxy.ledger.model_health import ModelHealth, TrafficHealth
from llm_proxy.ledger.observers import CallObservers, keep_answer
from llm_proxy.ledger.record import UsageRecord, billed, overhead_ms, record_of
from llm_proxy.ledger.store import LedgerStore
from llm_proxy.ledger.stored_responses import (
    MAX_STORED_BYTES,
    StoredFirst,
    StoredResponse,
    StoredResponses,
    person_digest,
)
from llm_proxy.ledger.usage_store import MemoryUsage, PostgresUsage

__all__ = [
    "MAX_STORED_BYTES",
    "CallHistoryReader",
    "CallObservers",
    "ErasureTargets",
    "Erasures",
    "LangfuseClient",
    "Ledger",
    "LedgerSpend",
    "LedgerStore",
    "MemoryUsage",
    "ModelHealth",
    "PostgresUsage",
    "StoredFirst",
    "StoredResponse",
    "StoredResponses",
    "TrafficHealth",
    "UsageRecord",
    "billed",
    "keep_answer",
    "overhead_ms",
    "person_digest",
    "record_of",
]
