"""`LiteLLMPatch`: one change to LiteLLM, its reason, what LiteLLM would have to change, its installation.

Invariant: a patch changes LiteLLM in memory only, by names that `litellm_internals` lists.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LiteLLMPatch:
    """One change of LiteLLM's behaviour.

    Attributes:
        name: What operators call it, in `LLM_PROXY_SIDECAR_WITHOUT` and in the log.
        install: Makes the change.
        reason: What LiteLLM does wrong, or needlessly, without it.
        since: The release it was first needed on.
        report: The issue at LiteLLM's, or the text of the one to file.
        tests: Its own tests, as pytest names them: all pass with it, one fails without it. On a release
            where that was not seen it is not installed (see `patches`).
        until: When it can go.
        fixed_in: The first release that needs it no more; None while none is known.
        after_start: It changes what LiteLLM's own start has built.
    """

    name: str
    install: Callable[[], None]
    reason: str
    since: str
    report: str
    until: str
    tests: tuple[str, ...]
    fixed_in: str | None = None
    after_start: bool = False
