"""Which model groups a caller may use: names, and wildcards (`gpt-*`).

Pure. Invariants: names and wildcards as in `wildcards`; what only a wildcard deployment serves is open to no
virtual key unless somebody wrote so.
"""

from collections.abc import Callable

from llm_proxy.identity.caller import Caller
from llm_proxy.wildcards import covers

EVERYTHING = ("*",)


def allowed(patterns: tuple[str, ...], group: str, resolved: Callable[[str], str] | None = None) -> bool:
    """Whether one of the names or wildcards covers a group; `resolved` tells what an alias stands for."""
    if "*" in patterns or group in patterns:
        return True
    if any("*" in one and covers(one, group) for one in patterns):
        return True
    return resolved is not None and any(resolved(one) == group for one in patterns)


def usable(caller: Caller, default: tuple[str, ...], named: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """What a caller may use, as names and wildcards; None while nobody knows.

    Args:
        caller: Whose own list comes first.
        default: The operator's list for callers without one; empty when nobody chose. A trusted service may
            then use everything, a key every group configured by name.
        named: Those groups, if they are known.
    """
    if caller.models is not None:
        return caller.models
    return default or (EVERYTHING if caller.kind == "internal" else named)
