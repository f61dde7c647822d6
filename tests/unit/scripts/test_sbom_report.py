"""The report on what the environments are made of: licences that ask for more, and known vulnerabilities."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "sbom_report.py"


def component(name: str, version: str, *licences: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": version, "licenses": list(licences)}


BOM = {
    "components": [
        component("plain", "1.0", {"license": {"id": "MIT"}}),
        component("both", "1.0", {"expression": "Apache-2.0 OR BSD-3-Clause"}),
        component("classified", "1.0", {"license": {"name": "License :: OSI Approved :: BSD License"}}),
        component("copyleft", "1.0", {"license": {"id": "GPL-3.0-only"}}),
        component("half", "1.0", {"expression": "MIT AND MPL-2.0"}),
        component("silent", "1.0"),
        component("Some_Package", "2.5.1", {"license": {"id": "ISC"}}),
    ]
}


def advisory(name: str, **affected: Any) -> dict[str, Any]:
    return {
        "id": "PYSEC-1",
        "summary": "bad",
        "affected": [{"package": {"ecosystem": "PyPI", "name": name}, **affected}],
    }


def events(*found: dict[str, str]) -> list[dict[str, Any]]:
    return [{"type": "ECOSYSTEM", "events": list(found)}]


def report(folder: Path, *advisories: dict[str, Any], zipped: bool = False) -> tuple[int, list[str]]:
    """Exit code and lines of the report on one bill, with these advisories; without any, none are given."""
    bom = folder / "bom.json"
    bom.write_text(json.dumps(BOM))
    command = [sys.executable, str(SCRIPT), str(bom)]
    if advisories:
        source = folder / "advisories"
        source.mkdir()
        for at, one in enumerate(advisories):
            (source / f"{at}.json").write_text(json.dumps(one))
        if zipped:
            with zipfile.ZipFile(folder / "all.zip", "w") as archive:
                for file in source.iterdir():
                    archive.write(file, file.name)
            source = folder / "all.zip"
        command += ["--advisories", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_licences_that_ask_for_more_are_listed_by_name(tmp_path: Path) -> None:
    """Those that ask for no more than a notice are counted only."""
    _, lines = report(tmp_path)
    assert "7 packages" in lines[0]
    assert lines[1:4] == [
        "  copyleft 1.0: GPL-3.0-only",
        "  half 1.0: MIT AND MPL-2.0",
        "  silent 1.0: not stated",
    ]


def test_without_advisories_nothing_is_said_of_vulnerabilities(tmp_path: Path) -> None:
    """Neither zero nor none: they were not compared."""
    code, lines = report(tmp_path)
    assert code == 0
    assert lines[-1].startswith("Known vulnerabilities: not compared")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("affected", "matches"),
    [
        ({"versions": ["2.5.1"]}, True),
        ({"versions": ["2.5.0"]}, False),
        ({"ranges": events({"introduced": "0"})}, True),
        ({"ranges": events({"introduced": "0"}, {"fixed": "2.5.1"})}, False),
        ({"ranges": events({"introduced": "2.5"}, {"fixed": "2.10"})}, True),
        ({"ranges": events({"introduced": "0"}, {"last_affected": "2.5.1"})}, True),
        ({"ranges": events({"introduced": "0"}, {"last_affected": "2.5.0"})}, False),
        ({"ranges": events({"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"})}, True),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_an_advisory_matches_the_releases_it_names(
    tmp_path: Path, affected: dict[str, Any], *, matches: bool, zipped: bool
) -> None:
    """By list and by range, whatever the spelling of the package's name."""
    code, lines = report(tmp_path, advisory("some.package", **affected), zipped=zipped)
    assert code == int(matches)
    assert ("  some-package 2.5.1: PYSEC-1 bad" in lines) is matches


def test_withdrawn_and_foreign_advisories_do_not_count(tmp_path: Path) -> None:
    """An advisory for another ecosystem's package of the same name is not ours."""
    withdrawn = advisory("some-package", versions=["2.5.1"]) | {"withdrawn": "2026-01-01T00:00:00Z"}
    foreign = advisory("some-package", versions=["2.5.1"])
    foreign["affected"][0]["package"]["ecosystem"] = "npm"
    code, lines = report(tmp_path, withdrawn, foreign)
    assert (code, lines[-1]) == (0, "Known vulnerabilities: 0")
