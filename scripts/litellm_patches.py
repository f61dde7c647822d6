"""Prints `docs/litellm/patches.md`, made from the patches themselves; run it with its output there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from llm_proxy.sidecar.patches import PATCHES, TRIED_ON

HEAD = """\
# Patches of LiteLLM

Made from `llm_proxy/sidecar/patches.py` (do not edit). They change LiteLLM in memory when a sidecar
starts, in this order, and were tried together on LiteLLM {releases}. On any other release every patch is
off, and the sidecar's log says so in a line for each: the gateway works in front of an unpatched LiteLLM,
too, with LiteLLM's own faults. `LLM_PROXY_SIDECAR_WITHOUT` names patches to leave out, comma-separated,
or `all`. Two things are in force on any release: what notes the attempts of a call for its status and the
call log (`attempts.py`), and what keeps streams out of LiteLLM's own cache (`response_cache.py`). Every
private name of LiteLLM that a patch touches is listed in `llm_proxy/sidecar/seams.py`, and a test looks for
each in the pinned release.

"""


def page() -> str:
    """The whole page."""
    parts = [HEAD.format(releases=" and ".join(TRIED_ON))]
    for patch in PATCHES:
        fixed = f"\n* Not needed from: {patch.fixed_in}" if patch.fixed_in else ""
        parts.append(
            f"## {patch.name}\n\n{patch.reason}\n\n"
            f"* Since: {patch.since}{fixed}\n* Upstream: {patch.report}\n* Can go when: {patch.until}\n\n"
        )
    return "".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(page(), end="")
