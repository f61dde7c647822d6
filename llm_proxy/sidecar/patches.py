"""Every patch of LiteLLM in the order of installation, and the releases each is installed on.

Invariants: on a release where a patch's own tests were not seen to pass with it and to fail without it, it is
not installed, and a line says so; `make litellm` runs them and writes what it saw. Nothing else in this
package changes what LiteLLM does, but the start (`launch`), which hands it the configuration.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from llm_proxy.sidecar import (
    attempts,
    broken_streams,
    cache_gate,
    counted,
    embedding_cache,
    error_log,
    field_support,
    messages_as_sent,
    openai_frames,
    own_cache,
    prices,
    provider_only,
    round_robin,
    router_rules,
    service_tiers,
    stream_prices,
    trace_tags,
    translated_streams,
    tuning,
    whole_answers,
)
from llm_proxy.sidecar.patch import Patch

TRIED: Mapping[str, Collection[str]] = json.loads(
    (Path(__file__).parent / "tried_patches.json").read_text(encoding="utf-8")
)
"""By release: the patches whose own tests passed there with them, and failed without."""

PATCHES: tuple[Patch, ...] = (
    openai_frames.PATCH,
    broken_streams.PATCH,
    translated_streams.PATCH,
    whole_answers.PATCH,
    service_tiers.PATCH,
    stream_prices.PATCH,
    cache_gate.PATCH,
    embedding_cache.PATCH,
    counted.PATCH,
    provider_only.PATCH,
    field_support.PATCH,
    messages_as_sent.PATCH,
    trace_tags.PATCH,
    router_rules.PATCH,
    round_robin.PATCH,
    *tuning.PATCHES,
    prices.PATCH,
    error_log.PATCH,
    own_cache.PATCH,
    attempts.PATCH,
)
SETTING = "LLM_PROXY_SIDECAR_WITHOUT"


def wanted(
    release: str,
    without: str,
    *,
    patches: Sequence[Patch] = PATCHES,
    tried: Mapping[str, Collection[str]] = TRIED,
) -> tuple[list[Patch], list[str]]:
    """The patches for a release, and a line for each that is left out.

    Args:
        release: LiteLLM's version.
        without: Names of patches to leave out, comma-separated; `all` for every one.
        patches: The patches there are.
        tried: By release, the names of those that are in order there.
    """
    named = {name.strip() for name in without.split(",") if name.strip()}
    installed: list[Patch] = []
    left_out: list[str] = []
    for patch in patches:
        if named & {patch.name, "all"}:
            left_out.append(f"patch {patch.name} is off: {SETTING} names it")
        elif patch.fixed_in is not None and numbers(release) >= numbers(patch.fixed_in):
            left_out.append(f"patch {patch.name} is off: LiteLLM {patch.fixed_in} needs it no more")
        elif patch.name not in tried.get(release, ()):
            left_out.append(
                f"WARNING: patch {patch.name} is off: its own tests did not pass on LiteLLM {release}, "
                "or were not run"
            )
        else:
            installed.append(patch)
    return installed, left_out


def numbers(release: str) -> tuple[int, ...]:
    """A release's numbers, for comparison."""
    return tuple(int(part) for part in release.split(".") if part.isdigit())
