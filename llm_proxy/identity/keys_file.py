"""`keys.yaml`: keys, limit policies and kill switches in a file, applied to the database.

Invariants: applying a file twice equals applying it once; what the file does not name is left alone; no
secret stands in the file. All faults are found before anything is applied and are reported by file, line and
entry, without any part of a key. Decimals are exact; a field that occurs twice in an entry is rejected.
Raises: `BadRequest` naming the entry; the errors of `key_repository` and `policy_repository`.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml

from llm_proxy.background import LOOP_DONE, BackgroundLoop
from llm_proxy.errors import APIError, BadRequest, NotFound
from llm_proxy.identity.admin_documents import parse_flag, parse_key_spec, parse_kill_switch, parse_policy
from llm_proxy.identity.audit import Actor
from llm_proxy.identity.key_repository import KeyMutation, KeyRepository
from llm_proxy.identity.policies import KillSwitch, LimitPolicy
from llm_proxy.identity.policy_repository import PolicyRepository, Ruling
from llm_proxy.identity.virtual_keys import GeneratedKey, KeyRecord, KeySpec, display_prefix, parse_key
from llm_proxy.json_access import Json
from llm_proxy.telemetry.privacy import redact

if TYPE_CHECKING:
    import asyncpg

_MAX_LABEL_CHARS = 60


@dataclass(frozen=True, slots=True, eq=False)
class KeysFileEntry:
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

    def describe_fault(self, fault: str, field: str | None = None) -> str:
        """A fault by file, line and entry."""
        line = self.lines.get(field or "", self.line)
        return f"{self.path}:{line}: {self.label}: {redact(fault)}"


class _ExactLoader(yaml.SafeLoader):
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


_ExactLoader.add_constructor("tag:yaml.org,2002:float", _ExactLoader.construct_decimal)
_ExactLoader.add_constructor("tag:yaml.org,2002:int", _ExactLoader.construct_whole)
_ExactLoader.add_constructor("tag:yaml.org,2002:timestamp", _ExactLoader.construct_moment)


def read_entries(path: Path, sections: tuple[str, ...]) -> dict[str, list[KeysFileEntry]]:
    """The entries of each section; raises `BadRequest`."""
    found: dict[str, list[KeysFileEntry]] = {section: [] for section in sections}
    try:
        loader = _ExactLoader(path.read_text(encoding="utf-8"))
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
            given = redact(str(name.value)[:_MAX_LABEL_CHARS])
            raise BadRequest(f"{path}:{line}: unknown section {given!r}; there are {', '.join(sections)}.")
        found[name.value] = _entries(path, name.value, node, said[name.value])
    return found


def _entries(path: Path, section: str, node: yaml.Node, value: object) -> list[KeysFileEntry]:
    if value is None:
        return []
    line = node.start_mark.line + 1
    if not isinstance(value, list) or not isinstance(node, yaml.SequenceNode):
        raise BadRequest(f"{path}:{line}: {section!r} must be a list of entries.", param=section)
    entries: list[KeysFileEntry] = []
    for number, (one, fields) in enumerate(zip(node.value, cast("list[object]", value), strict=True), 1):
        label = f"{section} entry {number}"
        if not isinstance(fields, dict):
            where = one.start_mark.line + 1
            raise BadRequest(f"{path}:{where}: {label}: expected fields and values.", param=section)
        known = cast("Json", fields)
        named = known.get("name") or known.get("subject") or known.get("tenant")
        if isinstance(named, str):
            label += f" ({redact(named[:_MAX_LABEL_CHARS])!r})"
        lines = {str(name.value): name.start_mark.line + 1 for name, _ in one.value}
        entries.append(KeysFileEntry(path, label, one.start_mark.line + 1, known, lines))
    return entries


Made = TypeVar("Made")
log = logging.getLogger(__name__)
RETRY_INTERVAL_S = 5.0
SECTIONS = ("keys", "limits", "kills")
MAX_FAULTS = 50
"""So many faults of a file are told at once."""
_TEXT_FIELDS = {"name", "tenant", "agent", "user", "scope", "subject", "model", "kind", "reason", "mode"}
"""Fields that hold text, where YAML may read a date or a number."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """A key of the file; `secret` when the operator brings one."""

    spec: KeySpec
    entry: KeysFileEntry
    revoked: bool = False
    secret: GeneratedKey | None = None


@dataclass(frozen=True, slots=True)
class KeysFile:
    """What a file says."""

    keys: tuple[FileKey, ...] = ()
    policies: tuple[tuple[LimitPolicy, KeysFileEntry], ...] = ()
    kill_switches: tuple[tuple[KillSwitch, str, KeysFileEntry], ...] = ()


@dataclass(slots=True)
class ApplyResult:
    """What applying a file did.

    Attributes:
        changes: One line a change.
        created: The keys that are new; with their secrets where nobody knows these yet.
        epochs: What to announce.
        missing: A sentence for each limit or switch of a key that nobody made.
    """

    changes: list[str] = field(default_factory=list[str])
    created: list[KeyMutation] = field(default_factory=list[KeyMutation])
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    missing: list[str] = field(default_factory=list[str])


def load_keys_file(path: Path) -> KeysFile:
    """The file's content; raises `BadRequest` with a line for every faulty entry."""
    entries = read_entries(path, SECTIONS)
    faults: list[BadRequest] = []
    keys = _parse_all(entries["keys"], lambda one: _parse_key(one, path.parent), faults)
    rules = _parse_all(entries["limits"], lambda one: (parse_policy(one.fields), one), faults)
    kills = _parse_all(entries["kills"], lambda one: (*parse_kill_switch(one.fields), one), faults)
    faults += _duplicate_faults([(one.spec.name, one.entry) for one in keys], "name")
    faults += _duplicate_faults(
        [(one.secret.lookup, one.entry) for one in keys if one.secret], "key_file's secret"
    )
    subjects = [((rule.scope, rule.tenant, rule.subject, rule.group), entry) for rule, entry in rules]
    faults += _duplicate_faults(subjects, "scope and subject")
    faults += _duplicate_faults([(kill, entry) for kill, _, entry in kills], "kind and subject")
    if faults:
        told = "\n".join(fault.message for fault in faults[:MAX_FAULTS])
        raise BadRequest(told, param=faults[0].param)
    return KeysFile(keys, rules, kills)


async def apply_keys_file(
    file: KeysFile,
    registry: KeyRepository,
    rulings: PolicyRepository,
    actor: Actor,
    *,
    mint_missing: bool = True,
) -> ApplyResult:
    """Bring keys, rules and switches to what the file says.

    Args:
        file: What to bring them to.
        registry: Where keys are kept.
        rulings: Where rules and switches are kept.
        actor: Who does it, for the record.
        mint_missing: Off where nobody would see a new secret: such keys are then left out.

    Raises:
        BadRequest: The file lists a key that was revoked, or another key's secret; nothing is applied.
    """
    applied = ApplyResult()
    standing = {key.spec.name: await _fetch_existing(key, registry) for key in file.keys}
    for key in file.keys:
        await _apply_key(key, standing[key.spec.name], registry, actor, applied, mint_missing=mint_missing)
    laid_down = set(await rulings.list_policies())
    for rule, entry in file.policies:
        laid = await _resolve_key(rulings, rule, entry, applied)
        if laid is not None and laid not in laid_down:
            applied.epochs |= await rulings.upsert(laid, actor)
            applied.changes.append(f"limit of {rule.scope} {rule.subject} set")
    thrown = {
        KillSwitch(one["kind"], one["subject"], one["tenant"]) for one in await rulings.list_kill_switches()
    }
    for kill, reason, entry in file.kill_switches:
        switch = await _resolve_key(rulings, kill, entry, applied)
        if switch is not None and switch not in thrown:
            applied.epochs |= await rulings.enable_switch(switch, actor, reason=reason)
            applied.changes.append(f"{kill.kind} {kill.subject} switched off")
    return applied


def keys_file_loop(path: Path, pool: "asyncpg.Pool[asyncpg.Record]") -> BackgroundLoop:
    """A loop that brings the database to what the file says, until the database has heard."""

    async def step() -> object:
        try:
            file = load_keys_file(path)
        except BadRequest as fault:
            log.error("the keys file is not applied", extra={"cause": fault.message})  # noqa: TRY400 -- a file's fault, no trace
            return LOOP_DONE
        try:
            applied = await apply_keys_file(
                file, KeyRepository(pool), PolicyRepository(pool), Actor("keys file"), mint_missing=False
            )
        except BadRequest as fault:
            log.error("the keys file is not applied", extra={"cause": fault.message})  # noqa: TRY400 -- the same
            return LOOP_DONE
        except APIError as fault:
            log.warning("the keys file is not applied yet", extra={"cause": fault.message})
            return None
        for missing in applied.missing:
            log.error("the keys file names a key that is not there", extra={"cause": missing})
        log.info("the keys file is applied", extra={"changes": len(applied.changes)})
        return LOOP_DONE

    return BackgroundLoop("keys-file", step, every_s=RETRY_INTERVAL_S, at_once=True)


async def _resolve_key(
    rulings: PolicyRepository, ruling: Ruling, entry: KeysFileEntry, applied: ApplyResult
) -> Ruling | None:
    try:
        return await rulings.resolve_key(ruling)
    except NotFound:
        fault = f"no key is called {ruling.subject}: what the file says of it does not hold"
        applied.missing.append(entry.describe_fault(fault, "subject"))
        return None


async def _fetch_existing(key: FileKey, registry: KeyRepository) -> KeyRecord | None:
    """The key as it is; raises `BadRequest` where the file cannot be applied to it."""
    standing = await _find_key(registry, key.spec.name)
    if standing is not None and standing.revoked_at is not None and not key.revoked:
        raise BadRequest(
            key.entry.describe_fault(
                f"this key was revoked at {standing.revoked_at:%Y-%m-%d %H:%M} UTC and stays so: take the"
                " entry out, say `revoked: true`, or give a new key another name"
            )
        )
    if key.secret is not None:
        owner = await _find_key(registry, display_prefix(key.secret.lookup))
        if owner is not None and (standing is None or owner.key_id != standing.key_id):
            raise BadRequest(
                key.entry.describe_fault("its key_file holds the secret of another key", "key_file")
            )
    return standing


async def _find_key(registry: KeyRepository, name: str) -> KeyRecord | None:
    try:
        return await registry.get(name)
    except NotFound:
        return None


async def _apply_key(
    key: FileKey,
    standing: KeyRecord | None,
    registry: KeyRepository,
    actor: Actor,
    applied: ApplyResult,
    *,
    mint_missing: bool,
) -> None:
    name = key.spec.name
    if standing is None:
        if key.revoked or not (mint_missing or key.secret):
            return
        made = await registry.create(key.spec, actor, key.secret)
        applied.created.append(made if key.secret is None else replace(made, generated=None))
        applied.changes.append(f"key {name} made{_expiry_note(key.spec)}")
    elif standing.revoked_at is not None:
        return
    elif key.revoked:
        applied.epochs |= (await registry.revoke(name, actor)).epochs
        applied.changes.append(f"key {name} revoked")
    elif standing.spec != key.spec:
        applied.epochs |= (await registry.update(name, key.spec, actor)).epochs
        applied.changes.append(f"key {name} changed{_expiry_note(key.spec)}")


def _expiry_note(spec: KeySpec) -> str:
    over = spec.expires_at is not None and spec.expires_at <= datetime.now(UTC)
    return f"; it expired on {spec.expires_at:%Y-%m-%d}" if over else ""


def _parse_all(
    entries: Sequence[KeysFileEntry], make: Callable[[KeysFileEntry], Made], faults: list[BadRequest]
) -> tuple[Made, ...]:
    """What the entries say; the faults of those that say nothing that can be are added to `faults`."""
    made: list[Made] = []
    for entry in entries:
        try:
            made.append(_parse_entry(entry, make))
        except BadRequest as fault:
            faults.append(fault)
    return tuple(made)


def _parse_entry(entry: KeysFileEntry, make: Callable[[KeysFileEntry], Made]) -> Made:
    """What an entry says; raises `BadRequest` that names the entry and the line."""
    try:
        return make(entry)
    except BadRequest as error:
        value = entry.fields.get(error.param) if error.param else None
        hint = ""
        if error.param in _TEXT_FIELDS and isinstance(value, bool | int | float | Decimal | date):
            hint = f" YAML reads it as a {_YAML_TYPES.get(type(value).__name__, 'number')}: put it in quotes."
        raise BadRequest(
            entry.describe_fault(error.message + hint, error.param), param=error.param
        ) from error


_YAML_TYPES = {"bool": "truth value", "date": "date", "datetime": "date and time"}


def _duplicate_faults(named: Sequence[tuple[Hashable, KeysFileEntry]], what: str) -> Iterator[BadRequest]:
    seen: dict[Hashable, KeysFileEntry] = {}
    for name, entry in named:
        first = seen.setdefault(name, entry)
        if first is not entry:
            yield BadRequest(entry.describe_fault(f"the same {what} as in {first.label}, line {first.line}"))


def _parse_key(entry: KeysFileEntry, folder: Path) -> FileKey:
    said = dict(entry.fields)
    revoked, where = parse_flag(said, "revoked", default=False), said.pop("key_file", None)
    said.pop("revoked", None)
    spec = parse_key_spec(said)
    if where is None:
        return FileKey(spec, entry, revoked)
    try:
        secret = parse_key((folder / str(where)).read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise BadRequest("the key_file holds no key of our form.", param="key_file") from error
    return FileKey(spec, entry, revoked, secret)
