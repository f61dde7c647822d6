"""Every patch of LiteLLM in the order of installation, and the releases they were tried on together.

Invariants: on a release that `TRIED_ON` does not name no patch is installed, and a line says so for each; a
patch that a release made superfluous is left out there. `make litellm` tries a release and adds it here.
What only observes calls (`attempts`) or keeps streams out of LiteLLM's own cache (`response_cache`) is no
patch of this list, and is in force on any release.
"""

from collections.abc import Sequence

from llm_proxy.sidecar import (
    broken_streams,
    cache_gate,
    counted,
    embedding_cache,
    error_log,
    field_support,
    messages_as_sent,
    openai_frames,
    provider_only,
    round_robin,
    router_rules,
    service_tiers,
    translated_streams,
    tuning,
    whole_answers,
)
from llm_proxy.sidecar.patch import Patch

TRIED_ON = ("1.108.6",)
"""Releases on which every test of every patch passed (docs/litellm)."""

PATCHES: tuple[Patch, ...] = (
    *tuning.BEFORE_START,
    openai_frames.PATCH,
    broken_streams.PATCH,
    translated_streams.PATCH,
    whole_answers.PATCH,
    service_tiers.PATCH,
    cache_gate.PATCH,
    embedding_cache.PATCH,
    counted.PATCH,
    provider_only.PATCH,
    field_support.PATCH,
    messages_as_sent.PATCH,
    router_rules.PATCH,
    round_robin.PATCH,
    *tuning.AFTER_START,
    error_log.PATCH,
)
SETTING = "LLM_PROXY_SIDECAR_WITHOUT"


def wanted(
    release: str, without: str, *, patches: Sequence[Patch] = PATCHES, tried_on: Sequence[str] = TRIED_ON
) -> tuple[list[Patch], list[str]]:
    """The patches for a release, and a line for each that is left out.

    Args:
        release: LiteLLM's version.
        without: Names of patches to leave out, comma-separated; `all` for every one.
        patches: The patches there are.
        tried_on: The releases they were tried on.
    """
    named = {name.strip() for name in without.split(",") if name.strip()}
    installed: list[Patch] = []
    left_out: list[str] = []
    for patch in patches:
        if named & {patch.name, "all"}:
            left_out.append(f"patch {patch.name} is off: {SETTING} names it")
        elif patch.fixed_in is not None and numbers(release) >= numbers(patch.fixed_in):
            left_out.append(f"patch {patch.name} is off: LiteLLM {patch.fixed_in} needs it no more")
        elif release not in tried_on:
            left_out.append(f"WARNING: patch {patch.name} is off: it was never tried on LiteLLM {release}")
        else:
            installed.append(patch)
    return installed, left_out


def numbers(release: str) -> tuple[int, ...]:
    """A release's numbers, for comparison."""
    return tuple(int(part) for part in release.split(".") if part.isdigit())
