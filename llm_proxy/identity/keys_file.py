"""`keys.yaml`: keys, limits and kill switches kept in a file, applied as often as one likes.

Invariants: applying a file twice is applying it once; nothing that the file does not name is touched; a
secret is never in the file: it is minted and told once, or read from the key's `key_file`. Every fault is
found before anything is applied, and told by file, line and entry, with no part of a secret.
Errors: `BadRequest` naming the entry, and those of `Registry` and `Rulings`.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import asyncpg

from llm_proxy.background import DONE, Loop
from llm_proxy.errors import BadRequest, NotFound, Refused
from llm_proxy.identity.audit import Actor
from llm_proxy.identity.keys import KeyRecord, KeySpec, Minted, minted_as, prefix_of
from llm_proxy.identity.keys_yaml import Entry, read_entries
from llm_proxy.identity.registry import Deed, Registry
from llm_proxy.identity.rules import Kill, Rule
from llm_proxy.identity.rulings import Ruling, Rulings
from llm_proxy.identity.spoken import flag, kill_from, rule_from, spec_from

Made = TypeVar("Made")
log = logging.getLogger(__name__)
AGAIN_S = 5.0
SECTIONS = ("keys", "limits", "kills")
MOST_FAULTS = 50
"""So many faults of a file are told at once."""
_TEXTS = {"name", "tenant", "agent", "user", "scope", "subject", "model", "kind", "reason", "mode"}
"""Fields that hold text, where YAML may read a date or a number."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """A key of the file; `secret` when the operator brings one."""

    spec: KeySpec
    entry: Entry
    revoked: bool = False
    secret: Minted | None = None


@dataclass(frozen=True, slots=True)
class KeysFile:
    """What a file says."""

    keys: tuple[FileKey, ...] = ()
    rules: tuple[tuple[Rule, Entry], ...] = ()
    kills: tuple[tuple[Kill, str, Entry], ...] = ()


@dataclass(slots=True)
class Applied:
    """What applying a file did.

    Attributes:
        changes: One line a change.
        made: The keys that are new; with their secrets where nobody knows these yet.
        epochs: What to announce.
        missing: A sentence for each limit or switch of a key that nobody made.
    """

    changes: list[str] = field(default_factory=list[str])
    made: list[Deed] = field(default_factory=list[Deed])
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    missing: list[str] = field(default_factory=list[str])


def read(path: Path) -> KeysFile:
    """The file's content; raises `BadRequest` with a line for every faulty entry."""
    entries = read_entries(path, SECTIONS)
    faults: list[BadRequest] = []
    keys = _all_made(entries["keys"], lambda one: _key(one, path.parent), faults)
    rules = _all_made(entries["limits"], lambda one: (rule_from(one.fields), one), faults)
    kills = _all_made(entries["kills"], lambda one: (*kill_from(one.fields), one), faults)
    faults += _doubles([(one.spec.name, one.entry) for one in keys], "name")
    faults += _doubles([(one.secret.lookup, one.entry) for one in keys if one.secret], "key_file's secret")
    subjects = [((rule.scope, rule.tenant, rule.subject, rule.group), entry) for rule, entry in rules]
    faults += _doubles(subjects, "scope and subject")
    faults += _doubles([(kill, entry) for kill, _, entry in kills], "kind and subject")
    if faults:
        told = "\n".join(fault.message for fault in faults[:MOST_FAULTS])
        raise BadRequest(told, param=faults[0].param)
    return KeysFile(keys, rules, kills)


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

    Raises:
        BadRequest: The file lists a key that was revoked, or another key's secret; nothing is applied.
    """
    applied = Applied()
    standing = {key.spec.name: await _standing(key, registry) for key in file.keys}
    for key in file.keys:
        await _apply_key(key, standing[key.spec.name], registry, actor, applied, mint_missing=mint_missing)
    laid_down = set(await rulings.rules())
    for rule, entry in file.rules:
        laid = await _with_id(rulings, rule, entry, applied)
        if laid is not None and laid not in laid_down:
            applied.epochs |= await rulings.set_rule(laid, actor)
            applied.changes.append(f"limit of {rule.scope} {rule.subject} set")
    thrown = {Kill(one["kind"], one["subject"], one["tenant"]) for one in await rulings.kills()}
    for kill, reason, entry in file.kills:
        switch = await _with_id(rulings, kill, entry, applied)
        if switch is not None and switch not in thrown:
            applied.epochs |= await rulings.throw(switch, actor, reason=reason)
            applied.changes.append(f"{kill.kind} {kill.subject} switched off")
    return applied


def applying(path: Path, pool: "asyncpg.Pool[asyncpg.Record]") -> Loop:
    """A loop that brings the database to what the file says, until the database has heard."""

    async def step() -> object:
        try:
            file = read(path)
        except BadRequest as fault:
            log.error("the keys file is not applied", extra={"cause": fault.message})  # noqa: TRY400 -- a file's fault, no trace
            return DONE
        try:
            applied = await apply(file, Registry(pool), Rulings(pool), Actor("keys file"), mint_missing=False)
        except BadRequest as fault:
            log.error("the keys file is not applied", extra={"cause": fault.message})  # noqa: TRY400 -- the same
            return DONE
        except Refused as fault:
            log.warning("the keys file is not applied yet", extra={"cause": fault.message})
            return None
        for missing in applied.missing:
            log.error("the keys file names a key that is not there", extra={"cause": missing})
        log.info("the keys file is applied", extra={"changes": len(applied.changes)})
        return DONE

    return Loop("keys-file", step, every_s=AGAIN_S, at_once=True)


async def _with_id(rulings: Rulings, ruling: Ruling, entry: Entry, applied: Applied) -> Ruling | None:
    try:
        return await rulings.with_id(ruling)
    except NotFound:
        fault = f"no key is called {ruling.subject}: what the file says of it does not hold"
        applied.missing.append(entry.told(fault, "subject"))
        return None


async def _standing(key: FileKey, registry: Registry) -> KeyRecord | None:
    """The key as it is; raises `BadRequest` where the file cannot be applied to it."""
    standing = await _found(registry, key.spec.name)
    if standing is not None and standing.revoked_at is not None and not key.revoked:
        raise BadRequest(
            key.entry.told(
                f"this key was revoked at {standing.revoked_at:%Y-%m-%d %H:%M} UTC and stays so: take the"
                " entry out, say `revoked: true`, or give a new key another name"
            )
        )
    if key.secret is not None:
        owner = await _found(registry, prefix_of(key.secret.lookup))
        if owner is not None and (standing is None or owner.key_id != standing.key_id):
            raise BadRequest(key.entry.told("its key_file holds the secret of another key", "key_file"))
    return standing


async def _found(registry: Registry, name: str) -> KeyRecord | None:
    try:
        return await registry.show(name)
    except NotFound:
        return None


async def _apply_key(
    key: FileKey,
    standing: KeyRecord | None,
    registry: Registry,
    actor: Actor,
    applied: Applied,
    *,
    mint_missing: bool,
) -> None:
    name = key.spec.name
    if standing is None:
        if key.revoked or not (mint_missing or key.secret):
            return
        made = await registry.create(key.spec, actor, key.secret)
        applied.made.append(made if key.secret is None else replace(made, minted=None))
        applied.changes.append(f"key {name} made{_ended(key.spec)}")
    elif standing.revoked_at is not None:
        return
    elif key.revoked:
        applied.epochs |= (await registry.revoke(name, actor)).epochs
        applied.changes.append(f"key {name} revoked")
    elif standing.spec != key.spec:
        applied.epochs |= (await registry.change(name, key.spec, actor)).epochs
        applied.changes.append(f"key {name} changed{_ended(key.spec)}")


def _ended(spec: KeySpec) -> str:
    over = spec.expires_at is not None and spec.expires_at <= datetime.now(UTC)
    return f"; it expired on {spec.expires_at:%Y-%m-%d}" if over else ""


def _all_made(
    entries: Sequence[Entry], make: Callable[[Entry], Made], faults: list[BadRequest]
) -> tuple[Made, ...]:
    """What the entries say; the faults of those that say nothing that can be are added to `faults`."""
    made: list[Made] = []
    for entry in entries:
        try:
            made.append(_made(entry, make))
        except BadRequest as fault:
            faults.append(fault)
    return tuple(made)


def _made(entry: Entry, make: Callable[[Entry], Made]) -> Made:
    """What an entry says; raises `BadRequest` that names the entry and the line."""
    try:
        return make(entry)
    except BadRequest as error:
        value = entry.fields.get(error.param) if error.param else None
        hint = ""
        if error.param in _TEXTS and isinstance(value, bool | int | float | Decimal | date):
            hint = f" YAML reads it as a {_KINDS.get(type(value).__name__, 'number')}: put it in quotes."
        raise BadRequest(entry.told(error.message + hint, error.param), param=error.param) from error


_KINDS = {"bool": "truth value", "date": "date", "datetime": "date and time"}


def _doubles(named: Sequence[tuple[Hashable, Entry]], what: str) -> Iterator[BadRequest]:
    seen: dict[Hashable, Entry] = {}
    for name, entry in named:
        first = seen.setdefault(name, entry)
        if first is not entry:
            yield BadRequest(entry.told(f"the same {what} as in {first.label}, line {first.line}"))


def _key(entry: Entry, folder: Path) -> FileKey:
    said = dict(entry.fields)
    revoked, where = flag(said, "revoked", default=False), said.pop("key_file", None)
    said.pop("revoked", None)
    spec = spec_from(said)
    if where is None:
        return FileKey(spec, entry, revoked)
    try:
        secret = minted_as((folder / str(where)).read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise BadRequest("the key_file holds no key of our form.", param="key_file") from error
    return FileKey(spec, entry, revoked, secret)
