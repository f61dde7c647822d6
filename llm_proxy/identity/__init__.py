"""Headers in, a `Caller` out: who is calling and what they are bound to."""

from llm_proxy.identity.admin_keys import Admin, AdminKeys
from llm_proxy.identity.audit import Actor, Person, forget_person
from llm_proxy.identity.audit_log import AuditFilter, AuditLog
from llm_proxy.identity.binding import named_by_headers, on_behalf_of
from llm_proxy.identity.caller import ANY, NOBODY, Budget, Caller, Limits, Named
from llm_proxy.identity.credentials import InternalSecrets
from llm_proxy.identity.deeds import deed, note, note_refusal, on_record, retiring_audit_months
from llm_proxy.identity.identify import Identity
from llm_proxy.identity.keys import KeyRecord, KeySpec
from llm_proxy.identity.keys_file import applying
from llm_proxy.identity.models import allowed, usable
from llm_proxy.identity.raises import Raises, ending_raises
from llm_proxy.identity.refused import RefusedCredentials
from llm_proxy.identity.registry import Deed, Registry, knowing_agents
from llm_proxy.identity.rules import Kill, Rule, Rulebook, RuleSource, killed_by
from llm_proxy.identity.rulings import Rulings
from llm_proxy.identity.store import PostgresKeys
from llm_proxy.identity.tags import tags_from
from llm_proxy.identity.virtual import KeyStore, VirtualKeys

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
