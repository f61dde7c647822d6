"""Wildcard patterns of names, such as `gpt-*`; the only place that matches them.

Pure, standard library only. Invariants: `*` matches any text, no other character is special, case counts;
matching takes one pass without backtracking.
"""


def wildcard_matches(pattern: str, name: str) -> bool:
    """Returns whether the pattern, a name or a wildcard, matches the name."""
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
