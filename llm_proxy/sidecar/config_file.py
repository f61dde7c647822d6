"""Reads a LiteLLM configuration strictly, with the files it includes; the report on a running sidecar's own.

Invariants: a key that appears twice is rejected; nothing of the environment but its names is in a report; an
unchanged file is checked once. Imports no LiteLLM.
"""

import hashlib
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar.config_check import ConfigFinding, check_config
from llm_proxy.sidecar.environment import accepted_settings

READ_FAULTS = (yaml.YAMLError, OSError, UnicodeDecodeError)


class DuplicateKey(yaml.YAMLError):
    """A key appears twice in one mapping; YAML would silently keep the last."""


class StrictLoader(yaml.SafeLoader):
    """A loader that rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 -- PyYAML's signature
        """The mapping; raises `DuplicateKey` with the line of the second key."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise DuplicateKey(
                    f"line {key.start_mark.line + 1}: {key.value} appears twice in one mapping"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_config(text: str, folder: Path | None = None) -> tuple[object, str]:
    """Returns the parsed configuration, and its text with those of the files that it includes.

    Args:
        text: The configuration.
        folder: Holds the files it includes; None: they are not looked for.

    Raises one of `READ_FAULTS`.
    """
    texts = [text]
    raw = _merge_includes(_read(text), folder, texts)
    return raw, "\n".join(texts)


def unreadable(fault: Exception) -> ConfigFinding:
    """Returns the finding for a configuration that cannot be read."""
    return ConfigFinding("", " ".join(str(fault).split()), prevents_start=True)


def _read(text: str) -> object:
    document: object = yaml.load(text, StrictLoader)  # noqa: S506 -- it is a safe loader
    return document


def _merge_includes(raw: object, folder: Path | None, texts: list[str]) -> object:
    """Adds the included files as LiteLLM does: lists are extended, other values replaced.

    The text of each included file is appended to `texts`.
    """
    waiting = [str(one) for one in as_list(as_object(raw).get("include"))]
    if folder is None or not waiting:
        return raw
    merged, seen = as_object(raw).copy(), set[Path]()
    while waiting:
        file = folder / waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        texts.append(file.read_text(encoding="utf-8"))
        included = as_object(_read(texts[-1])).copy()
        waiting += [str(one) for one in as_list(included.pop("include", None))]
        for key, value in included.items():
            more, before = as_list(value), as_list(merged.get(key))
            merged[key] = [*before, *more] if before and more else value
    return merged


class ConfigReport:
    """The report on a sidecar's configuration file: whether it has changed, and what is found in it."""

    def __init__(self, file: Path, env: Mapping[str, str]) -> None:
        """Reads the file as it is now, at the start. `env` is the sidecar's own environment."""
        self._file, self._env = file, dict(env)
        self._loaded_at = datetime.now(UTC)
        self._loaded = self._checked = _digest(self._read()[1])
        self._findings: list[Json] | None = None

    def current(self) -> Json:
        """Returns the report; a check takes a tenth of a second and is made in the caller's thread."""
        raw, texts = self._read()
        digest = _digest(texts)
        if self._findings is None or digest != self._checked:
            self._findings, self._checked = self._check(raw), digest
        return {
            "file": self._file.name,
            "loaded_at": self._loaded_at.isoformat(timespec="seconds"),
            "changed": digest != self._loaded,
            "findings": self._findings,
        }

    def _read(self) -> tuple[object, str]:
        """Returns the configuration and its text; of one that cannot be read the fault, and its message."""
        try:
            return read_config(self._file.read_text(encoding="utf-8"), self._file.parent)
        except READ_FAULTS as fault:
            return fault, f"{type(fault).__name__}: {fault}"

    def _check(self, raw: object) -> list[Json]:
        if isinstance(raw, READ_FAULTS):
            found = [unreadable(raw)]
        else:
            found = check_config(raw, self._env, self._file.parent, accepted_settings(self._env))
        return [
            {
                "where": one.path,
                "message": one.message,
                "fault": one.is_fault,
                "prevents_start": one.prevents_start,
            }
            for one in found
        ]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
