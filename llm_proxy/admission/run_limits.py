"""How the limits store knows a run: digests, below the key and the tenant that name it.

Pure. Invariants: no name of a run is in a key of the store; another key's run of that name, or another
tenant's, has another digest; every key of a run's counters ends with its digest.
"""

from llm_proxy.identity import Caller
from llm_proxy.identity.run_names import digest_of_names


def run_digest(caller: Caller) -> str:
    """Returns the digest of a caller's run: of its tenant, its key and its name; 32 hexadecimal digits."""
    return digest_of(caller.tenant, caller.root_key_id, caller.run_id or "")


def digest_of(tenant: str | None, key_id: str, name: str) -> str:
    """Returns the digest of the run of this name, below its tenant and key."""
    return digest_of_names(tenant or "", key_id, name)


def runs_key(hash_tag: str, caller: Caller) -> str:
    """Returns the key under which the store has the latest runs of a caller's key."""
    return f"lp:{hash_tag}:runs:{digest_of_names(caller.tenant or '', caller.root_key_id)}"
