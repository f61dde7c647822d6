"""`keys.yaml`: keys, limits and kill switches kept in a file, applied as often as one likes.

Invariants: applying a file twice is applying it once; nothing that the file does not name is touched; a
secret is never in the file: it is minted and told once, or read from the key's `key_file`.
Errors: `BadRequest` naming the entry, and those of `Registry` and `Rulings`.
"""

from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

import yaml

from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.identity.audit import Actor
from llm_proxy.identity.keys import KeySpec, Minted, minted_as
from llm_proxy.identity.registry import Deed, Registry
from llm_proxy.identity.rules import Kill, Rule
from llm_proxy.identity.rulings import Ruling, Rulings
from llm_proxy.identity.spoken import flag, kill_from, rule_from, spec_from

Json = dict[str, Any]
_SECTIONS = {"keys", "limits", "kills"}


@dataclass(frozen=True, slots=True)
class FileKey:
    """A key of the file; `secret` when the operator brings one."""

    spec: KeySpec
    revoked: bool = False
    secret: Minted | None = None


@dataclass(frozen=True, slots=True)
class KeysFile:
    """What a file says."""

    keys: tuple[FileKey, ...] = ()
    rules: tuple[Rule, ...] = ()
    kills: tuple[tuple[Kill, str], ...] = ()


@dataclass(slots=True)
class Applied:
    """What applying a file did.

    Attributes:
        changes: One line a change.
        made: The keys that are new.
        epochs: What to announce.
        missing: Keys that limits or switches name and nobody made.
    """

    changes: list[str] = field(default_factory=list[str])
    made: list[Deed] = field(default_factory=list[Deed])
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    missing: list[str] = field(default_factory=list[str])


class _Exact(yaml.SafeLoader):
    """A loader that keeps decimals: a float would make 0 of 1.0e-400."""

    def construct_decimal(self, node: yaml.ScalarNode) -> Decimal | float:
        """The number as it is written."""
        try:
            return Decimal(str(self.construct_scalar(node)))
        except InvalidOperation:  # .inf, .nan, sexagesimal
            return float(self.construct_yaml_float(node))


_Exact.add_constructor("tag:yaml.org,2002:float", _Exact.construct_decimal)


def read(path: Path) -> KeysFile:
    """The file's content; raises `BadRequest`."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Exact)  # noqa: S506 -- it is a safe loader
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # `ValueError`: no such date
        raise BadRequest(f"{path}: cannot be read: {type(error).__name__}.") from error
    if document is None:
        return KeysFile()
    if not isinstance(document, dict) or not set(cast("Json", document)) <= _SECTIONS:
        raise BadRequest(f"{path}: expected only the sections {', '.join(sorted(_SECTIONS))}.")
    said = cast("Json", document)
    return KeysFile(
        tuple(_key(entry, path.parent) for entry in _entries(said, "keys")),
        tuple(rule_from(entry) for entry in _entries(said, "limits")),
        tuple(kill_from(entry) for entry in _entries(said, "kills")),
    )


async def apply(
    file: KeysFile, registry: Registry, rulings: Rulings, actor: Actor, *, mint_missing: bool = True
) -> Applied:
    """Bring keys, rules and switches to what the file says.

    Args:
        file: What to bring them to.
        registry: Where keys are kept.
        rulings: Where rules and switches are kept.
        actor: Who does it, for the record.
        mint_missing: Off where nobody would see a new secret: such keys are then left out.
    """
    applied = Applied()
    for key in file.keys:
        await _apply_key(key, registry, actor, applied, mint_missing=mint_missing)
    standing = set(await rulings.rules())
    for rule in file.rules:
        laid = await _with_id(rulings, rule, applied)
        if laid is not None and laid not in standing:
            applied.epochs |= await rulings.set_rule(laid, actor)
            applied.changes.append(f"limit of {rule.scope} {rule.subject} set")
    thrown = {Kill(one["kind"], one["subject"], one["tenant"]) for one in await rulings.kills()}
    for kill, reason in file.kills:
        switch = await _with_id(rulings, kill, applied)
        if switch is not None and switch not in thrown:
            applied.epochs |= await rulings.throw(switch, actor, reason=reason)
            applied.changes.append(f"{kill.kind} {kill.subject} switched off")
    return applied


async def _with_id(rulings: Rulings, ruling: Ruling, applied: Applied) -> Ruling | None:
    try:
        return await rulings.with_id(ruling)
    except NotFound:
        applied.missing.append(ruling.subject)
        return None


async def _apply_key(
    key: FileKey, registry: Registry, actor: Actor, applied: Applied, *, mint_missing: bool
) -> None:
    name = key.spec.name
    try:
        standing = await registry.show(name)
    except NotFound:
        if key.revoked or not (mint_missing or key.secret):
            return
        applied.made.append(await registry.create(key.spec, actor, key.secret))
        applied.changes.append(f"key {name} made")
        return
    if standing.revoked_at is not None:
        return
    if key.revoked:
        applied.epochs |= (await registry.revoke(name, actor)).epochs
        applied.changes.append(f"key {name} revoked")
    elif standing.spec != key.spec:
        applied.epochs |= (await registry.change(name, key.spec, actor)).epochs
        applied.changes.append(f"key {name} changed")


def _entries(document: Json, section: str) -> list[Json]:
    entries: object = document.get(section) or []
    found = cast("list[object]", entries) if isinstance(entries, list) else [None]
    if not all(isinstance(entry, dict) for entry in found):
        raise BadRequest(f"'{section}' must be a list of entries.", param=section)
    return cast("list[Json]", found)


def _key(entry: Json, folder: Path) -> FileKey:
    said = dict(entry)
    revoked, where = flag(said, "revoked", default=False), said.pop("key_file", None)
    said.pop("revoked", None)
    spec = spec_from(said)
    if where is None:
        return FileKey(spec, revoked)
    try:
        secret = minted_as((folder / str(where)).read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"The key file of {spec.name!r} holds no key of our form.", param="key_file"
        ) from error
    return FileKey(spec, revoked, secret)
