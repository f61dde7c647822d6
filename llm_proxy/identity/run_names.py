"""How a call names its run: the headers and fields of a body that are read for it, in order.

Pure. Invariants: the first source that holds a name decides; a name has 1 to `MAX_NAME_CHARS` printable
characters; a header of another vendor's client that holds anything else names no run, while our own headers
are checked before. A name is a run of the key and the tenant that named it, and of no other.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from llm_proxy.identity.caller import Attribution, parse_name

IN_METADATA = "metadata."
_DIGEST_BYTES = 16


@lru_cache(maxsize=8192)
def digest_of_names(*names: str) -> str:
    """Returns what other processes know these names by, in this order: 32 hexadecimal digits."""
    state = blake2b(digest_size=_DIGEST_BYTES, person=b"llm-proxy run")
    for name in names:
        text = name.encode("utf-8", "surrogatepass")
        state.update(b"%d:" % len(text) + text)
    return state.hexdigest()


@dataclass(frozen=True, slots=True)
class RunSources:
    """The sources of a run's name, in order.

    Attributes:
        order: Each a header, or a field of the body's attribution.
        headers: The headers among them, in lower case.
    """

    order: tuple[bytes | str, ...]
    headers: frozenset[bytes]

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "RunSources":
        """Returns the sources of a setting: `metadata.run_id`, `metadata.session_id`, or headers."""
        order = tuple(
            name.removeprefix(IN_METADATA).removesuffix("_id")
            if name.startswith(IN_METADATA)
            else name.lower().encode()
            for name in names
        )
        return cls(order, frozenset(one for one in order if isinstance(one, bytes)))

    def run_of(self, headers: Mapping[bytes, bytes], body: Attribution) -> str | None:
        """Returns the name of a call's run; None where it names none."""
        if body.run is None and body.session is None and self.headers.isdisjoint(headers):
            return None
        for source in self.order:
            if isinstance(source, bytes):
                name = parse_name(headers[source]) if source in headers else None
            else:
                name = body.run if source == "run" else body.session
            if name is not None:
                return name
        return None
