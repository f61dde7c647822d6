"""Which model groups a caller may use: names, and wildcards (`gpt-*`).

Pure. Invariant: names are compared as they are, case and all; `*` stands for any text, nothing else does.
"""

import re
from functools import lru_cache


def allowed(patterns: tuple[str, ...], group: str) -> bool:
    """Whether one of the names or wildcards covers a model group."""
    if "*" in patterns or group in patterns:
        return True
    return any("*" in one and _expression(one).fullmatch(group) for one in patterns)


@lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
