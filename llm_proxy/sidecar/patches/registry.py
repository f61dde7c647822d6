"""All patches in the order of installation, and the LiteLLM releases on which each is installed.

Invariants: a patch is installed only on a release where its own tests passed with it and one failed without
it (`tried_patches.json`, written by `make litellm`); a skipped patch is logged. Outside of patches only
`launch` changes LiteLLM's behaviour: it passes the configuration.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from llm_proxy.sidecar.patches import (
    accounting,
    alike_frames,
    answer_headers,
    attempts,
    cohere_rerank,
    field_support,
    forms_as_sent,
    guarded_media,
    image_calls,
    litellm_cache,
    log_content,
    masked_streams,
    messages_as_sent,
    moderations,
    native_calls,
    openai_passthrough,
    performance,
    provider_only,
    redis_breaker,
    redis_sentinel,
    routing,
    session_affinity,
    speech_streams,
    translated_answers,
    truncated_streams,
)
from llm_proxy.sidecar.patches.patch import LiteLLMPatch

TESTED_PATCHES: Mapping[str, Collection[str]] = json.loads(
    (Path(__file__).parent / "tried_patches.json").read_text(encoding="utf-8")
)
"""Release -> the patches whose own tests passed there with the patch and failed without it."""

PATCHES: tuple[LiteLLMPatch, ...] = (
    performance.ROUTES,  # imports LiteLLM's proxy, so it stands before all that do
    openai_passthrough.PATCH,
    truncated_streams.PATCH,
    translated_answers.TRANSLATED_STREAMS,
    translated_answers.WHOLE_ANSWERS,
    accounting.SERVICE_TIERS,
    accounting.STREAM_PRICES,
    redis_breaker.PATCH,
    redis_sentinel.PATCH,
    litellm_cache.EMBEDDING_CACHE,
    accounting.COUNTED,
    provider_only.PATCH,
    field_support.PATCH,
    messages_as_sent.PATCH,
    native_calls.PATCH,
    alike_frames.PATCH,
    moderations.PATCH,
    cohere_rerank.PATCH,
    forms_as_sent.PATCH,
    guarded_media.PATCH,
    image_calls.PATCH,
    speech_streams.PATCH,
    log_content.TRACE_TAGS,
    masked_streams.PATCH,
    routing.ROUTER_RULES,
    routing.ROUND_ROBIN,
    session_affinity.PATCH,
    performance.HOOKS,
    performance.LIMITS,
    performance.DIRECT_CALLS,
    performance.READ_TIMEOUTS,
    answer_headers.PATCH,
    accounting.FREE_DEPLOYMENTS,
    log_content.ERROR_LOG,
    litellm_cache.OWN_CACHE,
    attempts.PATCH,
)
SPEEDING_UP = ("routes", "frames", "alike_frames", "hooks", "limits", "direct_calls", "read_timeouts")
"""Patches without which calls are answered, recorded and billed as with them, at a higher cost.

But for `frames`: it also keeps what LiteLLM's own frames lose.
"""
DISABLING_SETTING = "LLM_PROXY_SIDECAR_WITHOUT"


def select_patches(
    release: str,
    without: str,
    *,
    patches: Sequence[LiteLLMPatch] = PATCHES,
    tested: Mapping[str, Collection[str]] = TESTED_PATCHES,
) -> tuple[list[LiteLLMPatch], list[str]]:
    """Return the patches to install on a release, and a log line for each of the others.

    Args:
        release: LiteLLM's version.
        without: Names of patches to leave out, comma-separated; `all` for every one.
        patches: All patches.
        tested: Release -> names of the patches that may be installed there.
    """
    named = {name.strip() for name in without.split(",") if name.strip()}
    installed: list[LiteLLMPatch] = []
    left_out: list[str] = []
    for patch in patches:
        if named & {patch.name, "all"}:
            left_out.append(f"patch {patch.name} is off: {DISABLING_SETTING} names it")
        elif patch.name not in tested.get(release, ()):
            left_out.append(
                f"WARNING: patch {patch.name} is off: its own tests did not pass on LiteLLM {release}, "
                "or were not run"
            )
        else:
            installed.append(patch)
    return installed, left_out
