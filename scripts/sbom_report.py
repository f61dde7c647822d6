"""Prints the licences of software bills of materials, and the known vulnerabilities of what they list.

`scripts/sbom_report.py [--advisories FILE_OR_FOLDER] BOM...` reads CycloneDX in JSON. Advisories are read
from OSV's export for PyPI (a zip file or a folder of JSON files); nothing is asked of a network. Exit code 1
when an advisory matches. Source: https://google.github.io/osv.dev/data/
"""

import argparse
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

PERMISSIVE = re.compile(
    r"MIT|MIT-0|Apache|BSD|0BSD|Clause|ISC|PSF|Python|Unlicense|ZPL|Zlib|CC0|CNRI|License|OSI|Approved|Software|The|"
    r"and|or|with|only|[0-9.]+|AND|OR|WITH"
)
"""Words of licences that ask for no more than a notice; whatever holds another word is listed by name."""
WORD = re.compile(r"[A-Za-z0-9.]+")


@dataclass(frozen=True, slots=True)
class Component:
    """A package of a bill of materials."""

    name: str
    version: str
    licence: str


def components(bom: Path) -> list[Component]:
    """The packages a bill lists."""
    listed = json.loads(bom.read_text(encoding="utf-8"))["components"]
    return [Component(normalized(one["name"]), one["version"], licence(one)) for one in listed]


def normalized(name: str) -> str:
    """The name of a distribution as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(component: Mapping[str, Any]) -> str:
    """The licence a package declares; an SPDX expression where it has one."""
    found = {
        one.get("expression") or one["license"].get("id") or one["license"].get("name", "")
        for one in component.get("licenses", ())
    }
    return " / ".join(sorted(found)) or "not stated"


def asks_more(text: str) -> bool:
    """Whether a licence is other than the permissive ones."""
    return text == "not stated" or not all(PERMISSIVE.fullmatch(word) for word in WORD.findall(text))


def advisories(source: Path) -> Iterator[Mapping[str, Any]]:
    """Each advisory of OSV's export."""
    if source.is_dir():
        for file in sorted(source.glob("*.json")):
            yield json.loads(file.read_text(encoding="utf-8"))
        return
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            yield json.loads(archive.read(name))


def affects(affected: Mapping[str, Any], component: Component) -> bool:
    """Whether one `affected` entry of an advisory names this release (OSV schema 1.6, `affected[]`)."""
    package = affected.get("package", {})
    if package.get("ecosystem") != "PyPI" or normalized(package.get("name", "")) != component.name:
        return False
    if component.version in affected.get("versions", ()):
        return True
    ranges = [one for one in affected.get("ranges", ()) if one.get("type") in {"ECOSYSTEM", "SEMVER"}]
    try:
        return any(in_range(one["events"], Version(component.version)) for one in ranges)
    except InvalidVersion:
        return True  # what cannot be compared is for a person to look at


def in_range(events: list[Mapping[str, str]], version: Version) -> bool:
    """Whether a version lies in a range of events: introduced, fixed, last_affected."""
    inside = False
    for event in events:
        if "introduced" in event:
            inside = inside or event["introduced"] == "0" or version >= Version(event["introduced"])
        else:
            fixed, last = event.get("fixed"), event.get("last_affected")
            ended = (fixed and version >= Version(fixed)) or (last and version > Version(last))
            inside = inside and not ended
    return inside


def matches(found: set[Component], source: Path) -> list[str]:
    """A line for each release that an advisory names; withdrawn advisories are left out."""
    by_name = {component.name: component for component in found}
    return [
        f"{name} {by_name[name].version}: {advisory['id']} {advisory.get('summary', '')}".rstrip()
        for advisory in advisories(source)
        if not advisory.get("withdrawn")
        for name in {
            normalized(one.get("package", {}).get("name", "")) for one in advisory.get("affected", ())
        }
        if name in by_name and any(affects(one, by_name[name]) for one in advisory["affected"])
    ]


def main() -> int:
    """Print the report."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--advisories", type=Path)
    flags.add_argument("boms", type=Path, nargs="+")
    asked = flags.parse_args()
    every: set[Component] = set()
    for bom in asked.boms:
        found = components(bom)
        every |= set(found)
        special = sorted((one.name, one.version, one.licence) for one in found if asks_more(one.licence))
        print(f"{bom}: {len(found)} packages; all but these are under permissive licences:")
        for name, version, text in special:
            print(f"  {name} {version}: {text}")
    if asked.advisories is None:
        print("Known vulnerabilities: not compared, no advisories were given (ADVISORIES=file or folder).")
        return 0
    vulnerable = sorted(matches(every, asked.advisories))
    print(f"Known vulnerabilities: {len(vulnerable)}")
    for line in vulnerable:
        print(f"  {line}")
    return int(bool(vulnerable))


if __name__ == "__main__":
    sys.exit(main())
