"""Headers in, a `Caller` out: who is calling and what they are bound to."""

from llm_proxy.identity.admin_keys import Admin, AdminKeys
from llm_proxy.identity.audit import (
    Actor,
    Person,
    deed,
    forget_person,
    note,
    note_refusal,
    on_record,
    retiring_audit_months,
)
from llm_proxy.identity.audit_log import AuditFilter, AuditLog
from llm_proxy.identity.auth_failures import RefusedCredentials
from llm_proxy.identity.authenticator import Identity, InternalSecrets
from llm_proxy.identity.caller import (
    ANY,
    NOBODY,
    Budget,
    Caller,
    Limits,
    Named,
    named_by_headers,
    on_behalf_of,
    tags_from,
)
from llm_proxy.identity.key_cache import KeyStore, VirtualKeys
from llm_proxy.identity.key_repository import Deed, Raises, Registry, ending_raises, knowing_agents
from llm_proxy.identity.keys_file import applying
from llm_proxy.identity.policies import Kill, Rule, Rulebook, RuleSource, allowed, killed_by, usable
from llm_proxy.identity.policy_repository import Rulings
from llm_proxy.identity.postgres_store import PostgresKeys
from llm_proxy.identity.virtual_keys import KeyRecord, KeySpec

__all__ = [
    "ANY",
    "NOBODY",
    "Actor",
    "Admin",
    "AdminKeys",
    "AuditFilter",
    "AuditLog",
    "Budget",
    "Caller",
    "Deed",
    "Identity",
    "InternalSecrets",
    "KeyRecord",
    "KeySpec",
    "KeyStore",
    "Kill",
    "Limits",
    "Named",
    "Person",
    "PostgresKeys",
    "Raises",
    "RefusedCredentials",
    "Registry",
    "Rule",
    "RuleSource",
    "Rulebook",
    "Rulings",
    "VirtualKeys",
    "allowed",
    "applying",
    "deed",
    "ending_raises",
    "forget_person",
    "knowing_agents",
    "killed_by",
    "named_by_headers",
    "note",
    "note_refusal",
    "on_record",
    "retiring_audit_months",
    "on_behalf_of",
    "tags_from",
    "usable",
]
