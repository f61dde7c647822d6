"""How long a process that ended waits for its next start: the launcher's processes, and a sidecar's workers.

Pure. Invariant: each failure in a row doubles the pause, up to a longest one. Units: seconds.
"""

MIN_PAUSE_S, MAX_PAUSE_S = 0.5, 15.0
STABLE_AFTER_S = 60.0
"""A process that ran this long is restarted after the shortest pause again."""


def restart_pause_s(failures: int) -> float:
    """Returns the pause before the next start, after this many failures in a row."""
    return min(MIN_PAUSE_S * 2.0 ** max(0, failures - 1), MAX_PAUSE_S)
