"""Prints `docs/litellm/patches.md`, made from the patches themselves; run it with its output there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from llm_proxy.sidecar.patches.registry import PATCHES, TESTED_PATCHES

HEAD = """\
# Patches of LiteLLM

Made from `llm_proxy/sidecar/patches/registry.py` (do not edit). Patches change LiteLLM in memory when a
sidecar starts, in this order. Each patch has tests of its own and is installed only on releases where these
tests passed with the patch and failed without it (`llm_proxy/sidecar/patches/tried_patches.json`, written by
`make litellm`). On any other release it is off, with a line in the sidecar's log: the gateway also works in
front of an unpatched LiteLLM, with LiteLLM's own faults. `LLM_PROXY_SIDECAR_WITHOUT` names patches to leave
out, comma-separated, or `all`. `scripts/litellm_trials.py` runs their tests on the pinned release. Every
private name of LiteLLM that a patch uses is listed in `llm_proxy/sidecar/litellm_internals.py`; a test looks
for each.

One change is no patch and cannot be off: the start replaces LiteLLM's loader of configuration files
(`launch.py`). On a release where that fails the sidecar does not start.

Installed: {installed}.

"""


def page() -> str:
    """The whole page."""
    installed = "; ".join(
        f"on LiteLLM {release} {len(names)} of {len(PATCHES)}" for release, names in TESTED_PATCHES.items()
    )
    parts = [HEAD.format(installed=installed)]
    for patch in PATCHES:
        tests = ", ".join(f"`{test.rpartition('/')[2]}`" for test in patch.tests)
        report = f"* Upstream: {patch.report}\n" if patch.report else ""
        parts.append(
            f"## {patch.name}\n\n{patch.reason}\n\n"
            f"{report}* Can go when: {patch.until}\n"
            f"* Its own tests: {tests}\n\n"
        )
    return "".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(page(), end="")
