"""Which patches of LiteLLM are installed on a release."""

from pathlib import Path

import pytest

from llm_proxy.sidecar.patches.registry import PATCHES, TESTED_PATCHES, select_patches

ROOT = Path(__file__).parents[4]
[PINNED] = TESTED_PATCHES


def test_every_patch_was_tested_on_the_pinned_release() -> None:
    """The lock names the release."""
    assert f"litellm[proxy]=={PINNED}\n" in (ROOT / "locks" / "sidecar.in").read_text()
    assert sorted(TESTED_PATCHES[PINNED]) == sorted(one.name for one in PATCHES)
    assert select_patches(PINNED, "")[0] == list(PATCHES)


@pytest.mark.parametrize("release", ["1.105.7", "1.999.0", "1.106.20", "2.0.0"])
def test_on_any_other_release_every_patch_is_off(release: str) -> None:
    """One line for each, with its name and the release."""
    installed, left_out = select_patches(release, "")
    assert installed == []
    assert len(left_out) == len(PATCHES)
    for patch, line in zip(PATCHES, left_out, strict=True):
        assert patch.name in line
        assert release in line
        assert line.startswith("WARNING")


def test_each_patch_depends_on_its_own_tests() -> None:
    """Where one patch's tests failed, the others are installed."""
    first, *others = PATCHES
    installed, left_out = select_patches("9.9.9", "", tested={"9.9.9": [one.name for one in others]})
    assert installed == others
    assert left_out == [
        f"WARNING: patch {first.name} is off: its own tests did not pass on LiteLLM 9.9.9, or were not run"
    ]


def test_patches_can_be_left_out_by_name() -> None:
    """Some, or all of them."""
    installed, left_out = select_patches(PINNED, "frames, hooks")
    assert {"frames", "hooks"}.isdisjoint(one.name for one in installed)
    assert len(installed) == len(PATCHES) - 2
    assert len(left_out) == 2
    assert select_patches(PINNED, "all")[0] == []


def test_every_patch_has_a_reason_and_an_end() -> None:
    """And a name and tests of its own."""
    assert len({patch.name for patch in PATCHES}) == len(PATCHES)
    for patch in PATCHES:
        assert all(len(text) > 20 for text in (patch.reason, patch.until)), patch.name
        assert patch.report.startswith("https://") or not patch.report, patch.name
        assert patch.tests, patch.name
        for test in patch.tests:
            file, _, name = test.partition("::")
            assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text(), test
