"""Wildcards: whether a pattern such as `gpt-*` covers a name; the only place that says so.

Pure, standard library alone. Invariants: `*` stands for any text and nothing else is special; names are
compared as they are, case and all; no pattern makes it go back, so it takes one pass.
"""


def wildcard_matches(pattern: str, name: str) -> bool:
    """Returns whether the pattern, a name or a wildcard, covers the name."""
    start, *others = pattern.split("*")
    if not others:
        return pattern == name
    *between, end = others
    at, stop = len(start), len(name) - len(end)
    if stop < at or not name.startswith(start) or not name.endswith(end):
        return False
    for part in between:
        at = name.find(part, at, stop)
        if at < 0:
            return False
        at += len(part)
    return True
