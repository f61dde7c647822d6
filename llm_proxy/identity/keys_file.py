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
from typing import Any, TypeVar, cast

import yaml

from llm_proxy.background import LOOP_DONE, BackgroundLoop
from llm_proxy.errors import APIError, BadRequest, NotFound
from llm_proxy.identity.admin_documents import parse_flag, parse_key_spec, parse_kill_switch, parse_policy
from llm_proxy.identity.audit import Actor
from llm_proxy.identity.key_repository import KeyMutation, KeyRepository
from llm_proxy.identity.policies import KillSwitch, LimitPolicy
from llm_proxy.identity.policy_repository import Policy, PolicyRepository
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.identity.virtual_keys import GeneratedKey, KeyRecord, KeySpec, display_prefix, parse_key
from llm_proxy.json_access import Json
from llm_proxy.telemetry.privacy import redact

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")
SECTIONS = ("keys", "limits", "kills")
RETRY_INTERVAL_S = 5.0
MAX_FAULTS = 50
"""The maximum of faults of a file that an error names."""
_TEXT_FIELDS = {"name", "tenant", "agent", "user", "scope", "subject", "model", "kind", "reason", "mode"}
"""Fields that hold text, where YAML may read a date or a number."""
_YAML_TYPES = {"bool": "truth value", "date": "date", "datetime": "date and time"}
_MAX_LABEL_CHARS = 60


@dataclass(frozen=True, slots=True, eq=False)
class KeysFileEntry:
    """An entry of a section.

    Attributes:
        label: `keys entry 2 ('demo')`.
        line: The line in which the entry begins, counted from 1.
        lines: The line of each field.
    """

    path: Path
    label: str
    line: int
    fields: Json
    lines: dict[str, int]

    def describe_fault(self, fault: str, field: str | None = None) -> str:
        """Returns the text of a fault with its file, line and entry, redacted: a key may stand anywhere."""
        line = self.lines.get(field or "", self.line)
        return f"{self.path}:{line}: {self.label}: {redact(fault)}"


class _ExactLoader(yaml.SafeLoader):
    """Loads decimals exactly (a float would turn 1.0e-400 into 0) and rejects duplicate field names."""

    def construct_decimal(self, node: yaml.ScalarNode) -> Decimal | float:
        """Returns a decimal number exactly as it is written."""
        try:
            return Decimal(str(self.construct_scalar(node)))
        except InvalidOperation:  # .inf, .nan, sexagesimal
            return float(self.construct_yaml_float(node))

    def construct_moment(self, node: yaml.ScalarNode) -> object:
        """Returns a date, or a date and time."""
        try:
            return self.construct_yaml_timestamp(node)
        except (ValueError, OverflowError):
            raise yaml.constructor.ConstructorError(
                problem="no such date or time", problem_mark=node.start_mark
            ) from None

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """Returns an integer; raises `ConstructorError` beyond the digits that Python parses."""
        try:
            return int(self.construct_yaml_int(node))
        except ValueError:
            raise yaml.constructor.ConstructorError(
                problem="no number of this length is read", problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 -- PyYAML's signature
        """Returns a mapping; rejects a field name that occurs twice."""
        seen: set[str] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{name.value!r} stands twice in one entry", problem_mark=name.start_mark
                )
            seen.add(str(name.value))
        return super().construct_mapping(node, deep=deep)


_ExactLoader.add_constructor("tag:yaml.org,2002:float", _ExactLoader.construct_decimal)
_ExactLoader.add_constructor("tag:yaml.org,2002:int", _ExactLoader.construct_integer)
_ExactLoader.add_constructor("tag:yaml.org,2002:timestamp", _ExactLoader.construct_moment)


def read_entries(path: Path, sections: tuple[str, ...]) -> dict[str, list[KeysFileEntry]]:
    """Reads the entries of each section; raises `BadRequest` naming file and line."""
    entries: dict[str, list[KeysFileEntry]] = {section: [] for section in sections}
    try:
        loader = _ExactLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return entries
        document: object = cast("Any", loader).construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise BadRequest(f"{path}{line}: {redact(error.problem or 'it is not YAML')}.") from None
    except yaml.YAMLError:
        raise BadRequest(f"{path}: it holds a character that YAML does not allow.") from None
    except UnicodeDecodeError:
        raise BadRequest(f"{path}: it is not UTF-8.") from None
    except RecursionError:
        raise BadRequest(f"{path}: it is nested too deeply, or in itself.") from None
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error.strerror}.") from None
    if not isinstance(document, dict) or not isinstance(root, yaml.MappingNode):
        raise BadRequest(f"{path}:1: expected the sections {', '.join(sections)}.")
    values = cast("Json", document)
    for name, node in root.value:
        line = name.start_mark.line + 1
        if name.value not in sections:
            section = redact(str(name.value)[:_MAX_LABEL_CHARS])
            raise BadRequest(f"{path}:{line}: unknown section {section!r}; there are {', '.join(sections)}.")
        entries[name.value] = _entries(path, name.value, node, values[name.value])
    return entries


def _entries(path: Path, section: str, node: yaml.Node, value: object) -> list[KeysFileEntry]:
    if value is None:
        return []
    line = node.start_mark.line + 1
    if not isinstance(value, list) or not isinstance(node, yaml.SequenceNode):
        raise BadRequest(f"{path}:{line}: {section!r} must be a list of entries.", param=section)
    entries: list[KeysFileEntry] = []
    for number, (item, fields) in enumerate(zip(node.value, cast("list[object]", value), strict=True), 1):
        label, line = f"{section} entry {number}", item.start_mark.line + 1
        if not isinstance(fields, dict):
            raise BadRequest(f"{path}:{line}: {label}: expected fields and values.", param=section)
        entry = cast("Json", fields)
        name = entry.get("name") or entry.get("subject") or entry.get("tenant")
        if isinstance(name, str):
            label += f" ({redact(name[:_MAX_LABEL_CHARS])!r})"
        lines = {str(field_name.value): field_name.start_mark.line + 1 for field_name, _ in item.value}
        entries.append(KeysFileEntry(path, label, line, entry, lines))
    return entries


@dataclass(frozen=True, slots=True)
class FileKey:
    """A key of the file; `secret` is read from the entry's `key_file`, if it has one."""

    spec: KeySpec
    entry: KeysFileEntry
    revoked: bool = False
    secret: GeneratedKey | None = None


@dataclass(frozen=True, slots=True)
class KeysFile:
    """The content of a keys file; a kill switch comes with its reason."""

    keys: tuple[FileKey, ...] = ()
    policies: tuple[tuple[LimitPolicy, KeysFileEntry], ...] = ()
    kill_switches: tuple[tuple[KillSwitch, str, KeysFileEntry], ...] = ()


@dataclass(slots=True)
class ApplyResult:
    """The result of applying a file.

    Attributes:
        changes: One line for each change.
        created: The new keys, with their secrets if these were generated.
        epochs: To be published.
        missing: One sentence for each limit or kill switch of a key that does not exist.
    """

    changes: list[str] = field(default_factory=list[str])
    created: list[KeyMutation] = field(default_factory=list[KeyMutation])
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    missing: list[str] = field(default_factory=list[str])


def load_keys_file(path: Path) -> KeysFile:
    """Loads a file; raises `BadRequest` with one line for each fault, at most `MAX_FAULTS`."""
    entries = read_entries(path, SECTIONS)
    faults: list[BadRequest] = []
    keys = _parse_all(entries["keys"], lambda entry: _parse_key(entry, path.parent), faults)
    policies = _parse_all(entries["limits"], lambda entry: (parse_policy(entry.fields), entry), faults)
    switches = _parse_all(entries["kills"], lambda entry: (*parse_kill_switch(entry.fields), entry), faults)
    faults += _duplicate_faults([(key.spec.name, key.entry) for key in keys], "name")
    secrets = [(key.secret.lookup, key.entry) for key in keys if key.secret]
    faults += _duplicate_faults(secrets, "key_file's secret")
    targets = [((one.scope, one.tenant, one.subject, one.group), entry) for one, entry in policies]
    faults += _duplicate_faults(targets, "scope and subject")
    faults += _duplicate_faults([(switch, entry) for switch, _, entry in switches], "kind and subject")
    if faults:
        message = "\n".join(fault.message for fault in faults[:MAX_FAULTS])
        raise BadRequest(message, param=faults[0].param)
    return KeysFile(keys, policies, switches)


async def apply_keys_file(
    file: KeysFile,
    keys: KeyRepository,
    policies: PolicyRepository,
    actor: Actor,
    *,
    create_missing: bool = True,
) -> ApplyResult:
    """Changes keys, policies and kill switches to what the file says.

    Args:
        file: The desired content.
        keys: The repository of the file's keys.
        policies: The repository of the file's policies and kill switches.
        actor: The author.
        create_missing: False leaves out new keys without a secret in the file, because no one would see the
            generated one.

    Raises:
        BadRequest: The file lists a revoked key, or another key's secret; nothing is applied.
    """
    result = ApplyResult()
    existing = {key.spec.name: await _fetch_existing(key, keys) for key in file.keys}
    for key in file.keys:
        await _apply_key(key, existing[key.spec.name], keys, actor, result, create_missing=create_missing)
    stored = set(await policies.list_policies())
    for policy, entry in file.policies:
        resolved = await _resolve_key(policies, policy, entry, result)
        if resolved is not None and resolved not in stored:
            result.epochs |= await policies.upsert(resolved, actor)
            result.changes.append(f"limit of {policy.scope} {policy.subject} set")
    enabled = {
        KillSwitch(row["kind"], row["subject"], row["tenant"]) for row in await policies.list_kill_switches()
    }
    for switch, reason, entry in file.kill_switches:
        resolved_switch = await _resolve_key(policies, switch, entry, result)
        if resolved_switch is not None and resolved_switch not in enabled:
            result.epochs |= await policies.enable_switch(resolved_switch, actor, reason=reason)
            result.changes.append(f"{switch.kind} {switch.subject} switched off")
    return result


def keys_file_loop(path: Path, pool: Pool) -> BackgroundLoop:
    """Returns a loop that applies the file, and tries again every 5 seconds until the database answers."""

    async def step() -> object:
        try:
            file = load_keys_file(path)
        except BadRequest as fault:
            log.error("the keys file is not applied", extra={"cause": fault.message})  # noqa: TRY400 -- the operator's fault
            return LOOP_DONE
        try:
            result = await apply_keys_file(
                file, KeyRepository(pool), PolicyRepository(pool), Actor("keys file"), create_missing=False
            )
        except BadRequest as fault:
            log.error("the keys file is not applied", extra={"cause": fault.message})  # noqa: TRY400 -- the same
            return LOOP_DONE
        except APIError as fault:
            log.warning("the keys file is not applied yet", extra={"cause": fault.message})
            return None
        for missing in result.missing:
            log.error("the keys file names a key that is not there", extra={"cause": missing})
        log.info("the keys file is applied", extra={"changes": len(result.changes)})
        return LOOP_DONE

    return BackgroundLoop("keys-file", step, every_s=RETRY_INTERVAL_S, at_once=True)


async def _resolve_key(
    policies: PolicyRepository, target: Policy, entry: KeysFileEntry, result: ApplyResult
) -> Policy | None:
    try:
        return await policies.resolve_key(target)
    except (NotFound, BadRequest) as error:
        missing = f"no key has the name {target.subject}: this entry has no effect"
        fault = missing if isinstance(error, NotFound) else error.message
        result.missing.append(entry.describe_fault(fault, "subject"))
        return None


async def _fetch_existing(key: FileKey, keys: KeyRepository) -> KeyRecord | None:
    """Returns the stored key; raises `BadRequest` if the file's entry cannot be applied to it."""
    existing = await _find_key(keys, key.spec.name)
    if existing is not None and existing.revoked_at is not None and not key.revoked:
        raise BadRequest(
            key.entry.describe_fault(
                f"this key was revoked at {existing.revoked_at:%Y-%m-%d %H:%M} UTC, which is final:"
                " remove the entry, set `revoked: true`, or give a new key another name"
            )
        )
    if key.secret is not None:
        owner = await _find_key(keys, display_prefix(key.secret.lookup))
        if owner is not None and (existing is None or owner.key_id != existing.key_id):
            raise BadRequest(
                key.entry.describe_fault("its key_file holds the secret of another key", "key_file")
            )
    return existing


async def _find_key(keys: KeyRepository, name: str) -> KeyRecord | None:
    try:
        return await keys.get(name)
    except NotFound:
        return None


async def _apply_key(
    key: FileKey,
    existing: KeyRecord | None,
    keys: KeyRepository,
    actor: Actor,
    result: ApplyResult,
    *,
    create_missing: bool,
) -> None:
    name = key.spec.name
    if existing is None:
        if key.revoked or not (create_missing or key.secret):
            return
        created = await keys.create(key.spec, actor, key.secret)
        result.created.append(created if key.secret is None else replace(created, generated=None))
        result.changes.append(f"key {name} made{_expiry_note(key.spec)}")
    elif existing.revoked_at is not None:
        return
    elif key.revoked:
        result.epochs |= (await keys.revoke(name, actor)).epochs
        result.changes.append(f"key {name} revoked")
    elif existing.spec != key.spec:
        result.epochs |= (await keys.update(name, key.spec, actor)).epochs
        result.changes.append(f"key {name} changed{_expiry_note(key.spec)}")


def _expiry_note(spec: KeySpec) -> str:
    is_expired = spec.expires_at is not None and spec.expires_at <= datetime.now(UTC)
    return f"; it expired on {spec.expires_at:%Y-%m-%d}" if is_expired else ""


def _parse_all(
    entries: Sequence[KeysFileEntry], parse: Callable[[KeysFileEntry], Parsed], faults: list[BadRequest]
) -> tuple[Parsed, ...]:
    """Returns the parsed entries; adds the faults of invalid ones to `faults`."""
    parsed: list[Parsed] = []
    for entry in entries:
        try:
            parsed.append(_parse_entry(entry, parse))
        except BadRequest as fault:
            faults.append(fault)
    return tuple(parsed)


def _parse_entry(entry: KeysFileEntry, parse: Callable[[KeysFileEntry], Parsed]) -> Parsed:
    """Returns a parsed entry; raises `BadRequest` naming the entry and the line."""
    try:
        return parse(entry)
    except BadRequest as error:
        value = entry.fields.get(error.param) if error.param else None
        hint = ""
        if error.param in _TEXT_FIELDS and isinstance(value, bool | int | float | Decimal | date):
            hint = f" YAML reads it as a {_YAML_TYPES.get(type(value).__name__, 'number')}: put it in quotes."
        raise BadRequest(
            entry.describe_fault(error.message + hint, error.param), param=error.param
        ) from error


def _duplicate_faults(named: Sequence[tuple[Hashable, KeysFileEntry]], what: str) -> Iterator[BadRequest]:
    seen: dict[Hashable, KeysFileEntry] = {}
    for name, entry in named:
        first = seen.setdefault(name, entry)
        if first is not entry:
            yield BadRequest(entry.describe_fault(f"the same {what} as in {first.label}, line {first.line}"))


def _parse_key(entry: KeysFileEntry, folder: Path) -> FileKey:
    fields = dict(entry.fields)
    revoked, key_file = parse_flag(fields, "revoked", default=False), fields.pop("key_file", None)
    fields.pop("revoked", None)
    spec = parse_key_spec(fields)
    if key_file is None:
        return FileKey(spec, entry, revoked)
    try:
        secret = parse_key((folder / str(key_file)).read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise BadRequest("the key_file does not contain a valid key.", param="key_file") from error
    return FileKey(spec, entry, revoked, secret)
