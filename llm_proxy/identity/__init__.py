"""Authenticates callers and admins; stores keys, limit policies, kill switches and the audit log."""

from llm_proxy.identity.admin_keys import Admin, AdminKeyRepository
from llm_proxy.identity.audit import (
    Actor,
    Person,
    admin_transaction,
    audit_retention_loop,
    audited_external_change,
    delete_person_name,
    record_action,
    record_rejected_action,
)
from llm_proxy.identity.audit_log import AuditFilter, AuditLog
from llm_proxy.identity.auth_failures import AuthFailureLog
from llm_proxy.identity.authenticator import Authenticator, InternalKeys
from llm_proxy.identity.caller import (
    ANY,
    NO_ATTRIBUTION,
    Attribution,
    Budget,
    Caller,
    Limits,
    attribution_from_headers,
    on_behalf_of,
    parse_tags,
)
from llm_proxy.identity.child_key_repository import ChildKeyRepository
from llm_proxy.identity.child_keys import ServedNames
from llm_proxy.identity.key_cache import KeyCache
from llm_proxy.identity.key_repository import (
    KeyMutation,
    KeyRaiseRepository,
    KeyRepository,
    agents_loop,
    raise_expiry_loop,
)
from llm_proxy.identity.keys_file import keys_file_loop
from llm_proxy.identity.policies import (
    AccessPolicy,
    KillSwitch,
    LimitPolicy,
    PolicySnapshot,
    PolicySource,
    PolicyWatcher,
    active_kill_switch,
    allowed_models,
    is_model_allowed,
    may_use_model,
)
from llm_proxy.identity.policy_repository import PolicyRepository
from llm_proxy.identity.postgres_store import PostgresKeyStore
from llm_proxy.identity.queue_shares import QueueShare, QueueShares
from llm_proxy.identity.run_names import RunSources
from llm_proxy.identity.virtual_keys import KeyRecord, KeySpec

__all__ = [
    "ANY",
    "NO_ATTRIBUTION",
    "AccessPolicy",
    "Actor",
    "Admin",
    "AdminKeyRepository",
    "Attribution",
    "AuditFilter",
    "AuditLog",
    "AuthFailureLog",
    "Authenticator",
    "Budget",
    "Caller",
    "ChildKeyRepository",
    "InternalKeys",
    "KeyCache",
    "KeyMutation",
    "KeyRaiseRepository",
    "KeyRecord",
    "KeyRepository",
    "KeySpec",
    "KillSwitch",
    "LimitPolicy",
    "Limits",
    "Person",
    "PolicyRepository",
    "PolicySnapshot",
    "PolicySource",
    "PolicyWatcher",
    "PostgresKeyStore",
    "QueueShare",
    "QueueShares",
    "RunSources",
    "ServedNames",
    "active_kill_switch",
    "admin_transaction",
    "agents_loop",
    "allowed_models",
    "attribution_from_headers",
    "audit_retention_loop",
    "audited_external_change",
    "delete_person_name",
    "is_model_allowed",
    "keys_file_loop",
    "may_use_model",
    "on_behalf_of",
    "parse_tags",
    "raise_expiry_loop",
    "record_action",
    "record_rejected_action",
]
