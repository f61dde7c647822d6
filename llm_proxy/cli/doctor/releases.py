"""Which releases are malicious, vulnerable or without support, by the table that comes with this version.

Invariants: pure; a version that cannot be read is not judged; a release of a line that the table does not
know is vulnerable if it is older than the newest repaired one. `known_releases.json` has sources and dates.
"""

import json
import re
from collections.abc import Iterator
from datetime import date
from functools import cache
from importlib import resources

from llm_proxy.cli.doctor.findings import DoctorFinding, finding
from llm_proxy.json_access import Json
from llm_proxy.sidecar.verify_environment import MALICIOUS_RELEASES, is_malicious

_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_LINE_PARTS = {"postgres": 1}
"""How many numbers name a line of releases; two for products that are not named here."""


def judge_release(product: str, version: str, where: str, today: date) -> list[DoctorFinding]:
    """Returns the findings of one release.

    Args:
        product: As in the table.
        version: As the product says it.
        where: Where it runs, for the findings.
        today: For ends of support.
    """
    if product in MALICIOUS_RELEASES and is_malicious(product, version):
        return [
            finding("release-malicious", f"{where}: {product} {version} was published with malicious code")
        ]
    numbers = _numbers(version)
    return (
        []
        if not numbers
        else [*_vulnerable(product, version, where), *_ended(product, version, where, today)]
    )


def _vulnerable(product: str, version: str, where: str) -> Iterator[DoctorFinding]:
    for entry in known_releases()["vulnerable"]:
        if entry["product"] == product and (fixed := _repaired_by(version, entry["fixed"], product)):
            what = f"{where}: {product} {version} has {entry['id']}: {entry['what']} ({entry['source']})"
            yield finding("release-vulnerable", what, fixed=f"{product} {fixed}")
            return


def _repaired_by(version: str, fixed: list[str], product: str) -> str | None:
    """Returns the release that repairs this one: of its own line, else the newest; None if it is repaired."""
    parts, mine = _LINE_PARTS.get(product, 2), _numbers(version)
    if len(fixed) == 1:
        return fixed[0] if mine < _numbers(fixed[0]) else None
    for one in fixed:
        if _numbers(one)[:parts] == mine[:parts]:
            return one if mine < _numbers(one) else None
    return fixed[0] if mine < max(map(_numbers, fixed)) else None


def _ended(product: str, version: str, where: str, today: date) -> Iterator[DoctorFinding]:
    for entry in known_releases()["supported"]:
        if entry["product"] != product:
            continue
        lines: dict[str, str] = entry["lines"]
        mine = ".".join(map(str, _numbers(version)[: _LINE_PARTS.get(product, 2)]))
        is_older = _numbers(mine) < min(map(_numbers, lines))
        ended = lines.get(mine)
        if is_older or (ended is not None and date.fromisoformat(ended) < today):
            newest = max(lines, key=_numbers)
            when = f"ended on {ended}" if ended else "ended long ago"
            what = f"{where}: support of {product} {mine} {when} ({entry['source']})"
            yield finding("release-unsupported", what, fixed=f"{product} {newest}")


def _numbers(version: str) -> tuple[int, ...]:
    found = _NUMBERS.search(version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


@cache
def known_releases() -> Json:
    """Returns the table."""
    found: Json = json.loads(
        resources.files("llm_proxy.cli.doctor").joinpath("known_releases.json").read_text()
    )
    return found
