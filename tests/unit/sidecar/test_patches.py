"""Which patches of LiteLLM a release gets."""

from dataclasses import replace
from typing import Any

import pytest

from llm_proxy.sidecar.patches import PATCHES, TRIED_ON, numbers, wanted


@pytest.mark.parametrize("release", TRIED_ON)
def test_a_release_they_were_tried_on_gets_every_patch_that_it_needs(release: str) -> None:
    """In order, without a word."""
    installed, left_out = wanted(release, "")
    needed = [one for one in PATCHES if one.fixed_in is None or numbers(release) < numbers(one.fixed_in)]
    assert installed == needed
    assert len(left_out) == len(PATCHES) - len(needed)


@pytest.mark.parametrize("release", ["1.105.7", "1.999.0", "1.106.20", "2.0.0"])
def test_on_any_other_release_every_patch_is_off_and_says_so(release: str) -> None:
    """One line for each, with its name and the release."""
    installed, left_out = wanted(release, "")
    assert installed == []
    assert len(left_out) == len(PATCHES)
    for patch, line in zip(PATCHES, left_out, strict=True):
        assert patch.name in line
        assert release in line
        assert line.startswith("WARNING")


def test_patches_can_be_left_out_by_name() -> None:
    """Some, or all of them."""
    installed, left_out = wanted(TRIED_ON[0], "frames, hooks")
    assert {"frames", "hooks"}.isdisjoint(one.name for one in installed)
    assert len(installed) == len(PATCHES) - 2
    assert len(left_out) == 2
    assert wanted(TRIED_ON[0], "all")[0] == []


def test_a_release_that_mended_the_fault_goes_without_the_patch() -> None:
    """From the release named on, compared by number and not by text."""
    mended = replace(PATCHES[0], fixed_in="1.108.6")
    given: Any = {"patches": (mended,), "tried_on": ("1.20.0", "1.108.6", "1.108.10")}
    assert wanted("1.20.0", "", **given)[0] == [mended]
    assert wanted("1.108.6", "", **given) == ([], ["patch prices is off: LiteLLM 1.108.6 needs it no more"])
    assert wanted("1.108.10", "", **given)[0] == []


def test_every_patch_says_why_it_is_there_and_when_it_can_go() -> None:
    """And each has a name of its own."""
    assert len({patch.name for patch in PATCHES}) == len(PATCHES)
    for patch in PATCHES:
        assert all(len(text) > 20 for text in (patch.reason, patch.report, patch.until)), patch.name
        assert patch.report.startswith(("https://", "To file")), patch.name
        assert numbers(patch.since) <= numbers(TRIED_ON[0]), patch.name
