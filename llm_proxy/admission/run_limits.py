"""How the limits store knows a run: digests, below the key and the tenant that name it.

Pure. Invariants: no name of a run is in a key of the store; another key's run of that name, or another
tenant's, has another digest; every key of a run's counters ends with its digest.
"""

from functools import lru_cache
from hashlib import blake2b

from llm_proxy.identity import Caller

_DIGEST_BYTES = 16


def run_digest(caller: Caller) -> str:
    """Returns the digest of a caller's run: of its tenant, its key and its name; 32 hexadecimal digits."""
    return digest_of(caller.tenant, caller.key_id, caller.run_id or "")


def digest_of(tenant: str | None, key_id: str, name: str) -> str:
    """Returns the digest of the run of this name, below its tenant and key."""
    return _digest(tenant or "", key_id, name)


def runs_key(hash_tag: str, caller: Caller) -> str:
    """Returns the key under which the store has the latest runs of a caller's key."""
    return f"lp:{hash_tag}:runs:{_digest(caller.tenant or '', caller.key_id)}"


@lru_cache(maxsize=4096)
def _digest(*names: str) -> str:
    state = blake2b(digest_size=_DIGEST_BYTES, person=b"llm-proxy run")
    for name in names:
        text = name.encode("utf-8", "surrogatepass")
        state.update(b"%d:" % len(text) + text)
    return state.hexdigest()
