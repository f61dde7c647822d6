"""Reads `keys.yaml` as entries that know their lines.

Invariants: decimals are exact; a name that stands twice in one mapping is refused; every fault is told by
file and line. What is told passes `redact`: somebody may have pasted a key where a name belongs.
Errors: `BadRequest`.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

import yaml

from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json
from llm_proxy.telemetry.redact import redact

_LONGEST_LABEL = 60


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An entry of a section.

    Attributes:
        label: `keys entry 2 ('demo')`.
        line: Where it begins, counted from 1.
        lines: Where each of its fields stands.
    """

    path: Path
    label: str
    line: int
    fields: Json
    lines: dict[str, int]

    def told(self, fault: str, field: str | None = None) -> str:
        """A fault by file, line and entry."""
        line = self.lines.get(field or "", self.line)
        return f"{self.path}:{line}: {self.label}: {redact(fault)}"


class _Exact(yaml.SafeLoader):
    """A loader that keeps decimals (a float would make 0 of 1.0e-400) and refuses doubled names."""

    def construct_decimal(self, node: yaml.ScalarNode) -> Decimal | float:
        """The number as it is written."""
        try:
            return Decimal(str(self.construct_scalar(node)))
        except InvalidOperation:  # .inf, .nan, sexagesimal
            return float(self.construct_yaml_float(node))

    def construct_moment(self, node: yaml.ScalarNode) -> object:
        """A date, or a date and time."""
        try:
            return self.construct_yaml_timestamp(node)
        except (ValueError, OverflowError):
            raise yaml.constructor.ConstructorError(
                problem="no such date or time", problem_mark=node.start_mark
            ) from None

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """A whole number; Python reads none of thousands of digits."""
        try:
            return int(self.construct_yaml_int(node))
        except ValueError:
            raise yaml.constructor.ConstructorError(
                problem="no number of this length is read", problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 -- PyYAML's signature
        """A mapping whose names stand once."""
        seen: set[str] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{name.value!r} stands twice in one entry", problem_mark=name.start_mark
                )
            seen.add(str(name.value))
        return super().construct_mapping(node, deep=deep)


_Exact.add_constructor("tag:yaml.org,2002:float", _Exact.construct_decimal)
_Exact.add_constructor("tag:yaml.org,2002:int", _Exact.construct_whole)
_Exact.add_constructor("tag:yaml.org,2002:timestamp", _Exact.construct_moment)


def read_entries(path: Path, sections: tuple[str, ...]) -> dict[str, list[Entry]]:
    """The entries of each section; raises `BadRequest`."""
    found: dict[str, list[Entry]] = {section: [] for section in sections}
    try:
        loader = _Exact(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return found
        document: object = cast("Any", loader).construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise BadRequest(f"{path}{line}: {redact(error.problem or 'it is no YAML')}.") from None
    except yaml.YAMLError:
        raise BadRequest(f"{path}: it holds a character that YAML does not allow.") from None
    except UnicodeDecodeError:
        raise BadRequest(f"{path}: it is no UTF-8.") from None
    except RecursionError:
        raise BadRequest(f"{path}: it is nested too deeply, or in itself.") from None
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error.strerror}.") from None
    if not isinstance(document, dict) or not isinstance(root, yaml.MappingNode):
        raise BadRequest(f"{path}:1: expected the sections {', '.join(sections)}.")
    said = cast("Json", document)
    for name, node in root.value:
        line = name.start_mark.line + 1
        if name.value not in sections:
            given = redact(str(name.value)[:_LONGEST_LABEL])
            raise BadRequest(f"{path}:{line}: unknown section {given!r}; there are {', '.join(sections)}.")
        found[name.value] = _entries(path, name.value, node, said[name.value])
    return found


def _entries(path: Path, section: str, node: yaml.Node, value: object) -> list[Entry]:
    if value is None:
        return []
    line = node.start_mark.line + 1
    if not isinstance(value, list) or not isinstance(node, yaml.SequenceNode):
        raise BadRequest(f"{path}:{line}: {section!r} must be a list of entries.", param=section)
    entries: list[Entry] = []
    for number, (one, fields) in enumerate(zip(node.value, cast("list[object]", value), strict=True), 1):
        label = f"{section} entry {number}"
        if not isinstance(fields, dict):
            where = one.start_mark.line + 1
            raise BadRequest(f"{path}:{where}: {label}: expected fields and values.", param=section)
        known = cast("Json", fields)
        named = known.get("name") or known.get("subject") or known.get("tenant")
        if isinstance(named, str):
            label += f" ({redact(named[:_LONGEST_LABEL])!r})"
        lines = {str(name.value): name.start_mark.line + 1 for name, _ in one.value}
        entries.append(Entry(path, label, one.start_mark.line + 1, known, lines))
    return entries
