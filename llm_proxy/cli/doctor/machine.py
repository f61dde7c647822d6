"""What is wrong on this machine: settings, secrets and their files, the spool, limits of the process.

Invariants: no value of a secret is compared in a message or printed; files are looked at, never opened for
writing.
"""

import os
import resource
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from llm_proxy.cli.doctor.findings import DoctorFinding, NotChecked, Outcome, finding
from llm_proxy.cli.doctor.store_rules import is_this_machine
from llm_proxy.cli.doctor.subject import Subject
from llm_proxy.edge.routes.notifications import webhook_errors
from llm_proxy.insecure_settings import (
    KNOWN_SECRETS,
    MIN_SECRET_CHARS,
    insecure_console_settings,
    insecure_settings,
)
from llm_proxy.ledger.spool import REJECTED_FILE, list_segments
from llm_proxy.ledger.worker_slot import slot_folders
from llm_proxy.postgres_urls import SIDECAR_ROLE
from llm_proxy.redis_urls import redis_address
from llm_proxy.rotation import secret_settings, split_secrets
from llm_proxy.setting_sources import names_of
from llm_proxy.settings import Settings, unknown_settings
from llm_proxy.sidecar.config_check import WEAK_KEYS
from llm_proxy.stack.operator_env import COMPOSE_PASSWORDS, POSTGRES_PASSWORD

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PASS_THROUGH = stat.S_IXGRP | stat.S_IXOTH
_MIN_DIFFERENT_CHARS, _MIN_PASSWORD_CHARS = 6, 8
_MAX_VALUES = 2
_MORE_THAN_A_SECRET = ("_URL", "_HEADERS", "_WEBHOOKS")
_STORE_SECRETS = (*COMPOSE_PASSWORDS, POSTGRES_PASSWORD)
"""Variables of compose and of `llm-proxy up`, which are not settings of a gateway."""
_MOUNTED_FOLDERS = ("/run/secrets", "/run/keys")
"""Where containers have secrets that the engine mounted for their user."""
_KNOWN_PASSWORDS = (
    KNOWN_SECRETS | WEAK_KEYS | {"postgres", "redis", "valkey", "admin", "llm_proxy", "changeme"}
)


def check_settings(subject: Subject) -> Outcome:
    """Combinations that prevent a start, and variables that are not settings."""
    settings = subject.settings
    faults = insecure_settings(settings) + webhook_errors(settings)
    if settings.console_enabled:
        faults += insecure_console_settings(settings)
    secret = (" is a publicly known default", " is shorter than ")  # `check_secrets` has more to say of them
    found = [finding("start-refused", one) for one in faults if not any(text in one for text in secret)]
    return [*found, *(finding("setting-unknown", one) for one in unknown_settings(subject.variables))]


def check_secrets(subject: Subject) -> Outcome:
    """Weak and equal secrets, lists that are too long, passwords of stores, files that others can read."""
    named = named_secrets(subject.settings, subject.env.variables)
    return [
        *judge_secrets(named),
        *_store_passwords(subject),
        *_readable_files(subject),
        *_call_log(subject),
    ]


def named_secrets(settings: Settings, variables: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Returns the values of each secret by its variable, the newest first."""
    fields = {names_of(type(settings), name)[0]: name for name in type(settings).model_fields}
    found: dict[str, tuple[str, ...]] = {
        name: (variables[name],) for name in _STORE_SECRETS if variables.get(name)
    }
    for one in secret_settings():
        if one.variable not in fields or one.variable.endswith(_MORE_THAN_A_SECRET):
            continue
        given: SecretStr | None = getattr(settings, fields[one.variable])
        text = "" if given is None else given.get_secret_value()
        values = split_secrets(text) if one.takes_several else (text,)
        if one.variable.endswith("SEALING_KEYS"):
            values = tuple(value.partition("=")[2] for value in values)
        if any(values):
            found[one.variable] = values
    return found


def judge_secrets(named: Mapping[str, tuple[str, ...]]) -> Iterator[DoctorFinding]:
    """Yields what is wrong with secrets; pure.

    Args:
        named: The values of each secret by its variable.
    """
    places: dict[str, list[str]] = {}
    for name, values in sorted(named.items()):
        for value in values:
            places.setdefault(value, []).append(name)
            if (why := _weakness(value)) is not None:
                yield finding("secret-weak", f"{name} {why}", name=name, command=_command(name))
        if len(values) > _MAX_VALUES:
            yield finding("secret-list-long", f"{name} has {len(values)} values", name=name)
    for names in places.values():
        if len(set(names)) > 1:
            equal = f"{' and '.join(names)} are equal"
            yield finding("secret-shared", equal, name=names[-1], command=_command(names[-1]))


def _command(name: str) -> str:
    """Makes a secret of the form that its setting needs."""
    if name.endswith("SEALING_KEYS"):
        return "echo k2=$(openssl rand -hex 32)"
    return "echo sk-$(openssl rand -hex 24)" if "LITELLM" in name else "openssl rand -hex 24"


def _weakness(value: str) -> str | None:
    if value.lower() in _KNOWN_PASSWORDS:
        return "is a publicly known default"
    if len(value) < MIN_SECRET_CHARS:
        return f"is shorter than {MIN_SECRET_CHARS} characters"
    return "has too few different characters" if len(set(value)) < _MIN_DIFFERENT_CHARS else None


def _store_passwords(subject: Subject) -> Iterator[DoctorFinding]:
    url = subject.database_url
    if url is not None and not is_this_machine(url):
        yield from _store_password("DATABASE_URL", unquote(urlsplit(url).password or ""), url)
    for name, address in (("LIMITS_REDIS_URL", subject.limits_url), ("CACHE_REDIS_URL", subject.cache_url)):
        if address is not None and not all(
            is_this_machine(f"//{host}") for host, _ in redis_address(address).hosts
        ):
            yield from _store_password(name, redis_address(address).credentials[1], address)


def _store_password(name: str, password: str, url: str) -> Iterator[DoctorFinding]:
    if not password:
        if not any(word in url for word in ("passfile=", "sslcert=", "ssl_certfile=", "password=")):
            yield finding("store-without-password", f"{name} has no password", name=name)
    elif password.lower() in _KNOWN_PASSWORDS or len(password) < _MIN_PASSWORD_CHARS:
        what = f"the password in {name} is a known default, or short"
        yield finding("secret-weak", what, name=name, command=_command(name))


def _readable_files(subject: Subject) -> Iterator[DoctorFinding]:
    folder = subject.folder
    files = {folder / name for name in (".env", "gateway.env", "providers.env")}
    files |= {path for path in (folder / ".keys").glob("[A-Za-z]*") if path.name != "README.md"}
    files |= {path.absolute() for path in subject.env.files.values()}
    for path in sorted(files):
        if is_readable_by_others(path):
            yield finding(
                "secret-file-readable",
                f"{path} has mode {stat.S_IMODE(path.stat().st_mode):04o}",
                path=str(path),
            )


def is_readable_by_others(path: Path) -> bool:
    """Returns whether another user of this machine can read a file; not of one that an engine mounted."""
    try:
        if not path.is_file() or _is_mounted_secret(path.resolve()):
            return False
        mode = path.stat().st_mode
        passed = all(parent.stat().st_mode & _PASS_THROUGH for parent in path.resolve().parents)
    except OSError:
        return False
    return bool(mode & _OTHERS) and passed


def _is_mounted_secret(path: Path) -> bool:
    """Whether a container's engine mounted the file: Kubernetes' secrets are read-only and in memory."""
    if str(path).startswith(_MOUNTED_FOLDERS):
        return True
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    above = [mount for mount in mounts if path.is_relative_to(mount[1])]
    _, _, kind, options, *_ = max(above, key=lambda mount: len(mount[1]), default=["", "", "", ""])
    return kind == "tmpfs" and "ro" in options.split(",")


def _call_log(subject: Subject) -> Iterator[DoctorFinding]:
    """Under `llm-proxy up` with a database of the operator's own."""
    url, variables = subject.database_url, subject.env.variables
    log = variables.get("LLM_CALLS_DATABASE_URL")
    own = variables.get("DATABASE_URL") or variables.get("LLM_PROXY__DATABASE_URL")
    is_owners = subject.state is not None and bool(own) and not log
    if is_owners or (log and url and urlsplit(log).username == urlsplit(url).username != SIDECAR_ROLE):
        where = "LLM_CALLS_DATABASE_URL names the owner" if log else "LLM_CALLS_DATABASE_URL is not set"
        yield finding("call-log-as-owner", where)


@dataclass(frozen=True, slots=True)
class SpoolFacts:
    """What lies in the spool.

    Attributes:
        waiting_bytes: Of records that wait.
        oldest_s: Age of the oldest of them; None without any.
        rejected_bytes: Of records that were rejected.
        free_bytes: Of its disk.
        can_write: Whether this user may write there.
    """

    waiting_bytes: int
    oldest_s: float | None
    rejected_bytes: int
    free_bytes: int
    can_write: bool


MIN_FREE_BYTES = 256 * 2**20
OLD_RECORD_S = 3600


def check_spool(subject: Subject) -> Outcome:
    """The folder, its disk, and what waits in it."""
    settings, folder = subject.settings, subject.spool
    if settings.llm_mode == "mock":
        return [NotChecked("spool", "mock mode keeps no records")]
    facts = read_spool(folder)
    return list(
        judge_spool(facts, folder, settings.spool_max_bytes, has_database=subject.database_url is not None)
    )


def read_spool(folder: Path) -> SpoolFacts:
    """Returns what lies in a spool's folder, or would."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    waiting = [one.stat() for slot in slot_folders(folder) for one in list_segments(slot)]
    rejected = [slot / REJECTED_FILE for slot in slot_folders(folder)]
    oldest = min((one.st_mtime for one in waiting), default=None)
    return SpoolFacts(
        sum(one.st_size for one in waiting),
        None if oldest is None else time.time() - oldest,
        sum(one.stat().st_size for one in rejected if one.exists()),
        shutil.disk_usage(existing).free,
        existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
    )


def judge_spool(
    facts: SpoolFacts, folder: Path, max_bytes: int, *, has_database: bool
) -> Iterator[DoctorFinding]:
    """Yields what is wrong with the spool; pure. Without a database records wait there for ever."""
    if not facts.can_write:
        yield finding("spool-not-writable", f"{folder} cannot be written", path=str(folder))
    if facts.free_bytes < MIN_FREE_BYTES:
        yield finding("spool-disk-full", f"{facts.free_bytes // 2**20} MiB are free on the disk of {folder}")
    share = 0.1 if has_database else 0.8
    if facts.waiting_bytes > max_bytes * share:
        yield finding("spool-growing", f"{facts.waiting_bytes / 2**20:.1f} MiB of records wait in {folder}")
    if has_database and facts.oldest_s is not None and facts.oldest_s > OLD_RECORD_S:
        yield finding(
            "spool-old", f"the oldest record in {folder} waits for {facts.oldest_s / 3600:.1f} hours"
        )
    if facts.rejected_bytes:
        yield finding("spool-rejected", f"{facts.rejected_bytes:,} bytes of rejected records lie in {folder}")


MIN_PROCESSES = 256
_UNLIMITED = 2**62


def check_process_limits(subject: Subject) -> Outcome:
    """How many files and processes the gateway may have."""
    found, whose = _gateway_limits(subject.launcher_pid)
    outcome: Outcome = list(judge_limits(found, subject.settings.max_connections, whose))
    if whose == "this command":
        outcome.append(
            NotChecked(
                "limits of the gateway's own process", "it is not on this machine: this command's were read"
            )
        )
    return outcome


def judge_limits(limits: Mapping[str, int], max_connections: int, whose: str) -> Iterator[DoctorFinding]:
    """Yields what is too low; pure."""
    files, processes = limits["files"], limits["processes"]
    if files < 2 * max_connections:
        need = f"LLM_PROXY__MAX_CONNECTIONS is {max_connections:,}, twice that is needed"
        what = f"{whose} may open {files:,} files; {need}"
        yield finding("files-limit-low", what)
    if processes < MIN_PROCESSES:
        yield finding("processes-limit-low", f"{whose} may have {processes:,} processes")


def _gateway_limits(launcher_pid: int | None) -> tuple[dict[str, int], str]:
    """Returns the limits of the launcher, whose children inherit them, or of a container's first process."""
    pids = [launcher_pid] if launcher_pid is not None else [1] if _is_gateway(1) else []
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        words = {line[:25].strip(): line[26:].split() for line in lines}
        return {
            "files": _limit(words["Max open files"][0]),
            "processes": _limit(words["Max processes"][0]),
        }, "the gateway"
    both = {"files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC}
    soft = {name: resource.getrlimit(number)[0] for name, number in both.items()}
    return {name: _UNLIMITED if one < 0 else one for name, one in soft.items()}, "this command"


def _limit(word: str) -> int:
    return int(word) if word.isdecimal() else _UNLIMITED


def _is_gateway(pid: int) -> bool:
    try:
        return b"llm_proxy" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
