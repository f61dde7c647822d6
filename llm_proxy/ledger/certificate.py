"""What an erasure found where, and what was done there.

Pure. Invariants: `complete` is said only when no store is `incomplete`; counts add up over all attempts; no
name is in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llm_proxy.json_access import Json

State = Literal["erased", "nothing", "incomplete", "kept"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One store.

    Attributes:
        state: `nothing` was there; `kept`: it stays, the note says why; `incomplete`: the note says what is
            left.
        found: Rows, records or traces, over all attempts.
    """

    store: str
    state: State
    found: int = 0
    note: str = ""


def merge_findings(before: Mapping[str, Any], findings: list[Finding]) -> Json:
    """The stores' part of a certificate after one more attempt."""
    stores: Json = {}
    for one in findings:
        found = one.found + int(before.get(one.store, {}).get("found", 0))
        state = "erased" if one.state == "nothing" and found else one.state
        stores[one.store] = {"state": state, "found": found, "note": one.note}
    return stores


def is_complete(stores: Mapping[str, Any]) -> bool:
    """Whether nothing is left to be done."""
    return bool(stores) and all(one["state"] != "incomplete" for one in stores.values())
