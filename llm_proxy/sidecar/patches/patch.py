"""One change to LiteLLM: why it is needed, what LiteLLM would have to change, how it is installed.

Invariant: a patch changes LiteLLM in memory only, by names that `litellm_internals` lists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any

from llm_proxy.sidecar.litellm_internals import Untyped

installed: set[str] = set()
"""Names of the patches that are installed in this process; `launch` adds each."""


@dataclass(frozen=True, slots=True)
class LiteLLMPatch:
    """One change of LiteLLM's behaviour.

    Attributes:
        name: Its name in `LLM_PROXY_SIDECAR_WITHOUT`, in the log and in `tried_patches.json`.
        install: Makes the change.
        reason: What LiteLLM does wrong, or needlessly, without the patch.
        until: What LiteLLM would have to do, so that the patch can be deleted.
        tests: Its own tests, as pytest names them: all pass with it, at least one fails without it. Releases
            where that was not observed do not get it (see `registry`).
        report: LiteLLM's issue or pull request, if there is one.
        after_start: Whether it is installed after LiteLLM's start, because it changes what the start built.
    """

    name: str
    install: Callable[[], None]
    reason: str
    until: str
    tests: tuple[str, ...]
    report: str = ""
    after_start: bool = False


def replace(owner: Untyped, name: str, replacement: Callable[..., Any]) -> Callable[..., Any]:
    """Put a function in the place of LiteLLM's, a static method if that is one; return LiteLLM's."""
    replaced: Callable[..., Any] = getattr(owner, name)
    is_static = isinstance(getattr_static(owner, name), staticmethod)
    setattr(owner, name, staticmethod(replacement) if is_static else replacement)
    return replaced
