"""A real PgBouncer before the tests' Postgres: installed, or Debian's package unpacked."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import pytest

from llm_proxy.stack import probe, process

PoolMode = Literal["transaction", "session"]
_UNPACKED = Path(sys.prefix) / "pgbouncer"
"""Beside the environment that runs the tests, so that it goes when that is made anew."""


def find_program() -> tuple[Path, dict[str, str]]:
    """The program and the environment it needs; skips the test where it is not to be had."""
    installed = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if installed:
        return Path(installed), {}
    if not _UNPACKED.exists():
        try:
            _unpack(_UNPACKED)
        except (OSError, subprocess.SubprocessError) as fault:
            pytest.skip(f"PgBouncer is neither installed nor to be had as a package: {fault}")
    libraries = sorted({str(one.parent) for one in _UNPACKED.glob("usr/lib/**/*.so*")})
    return _UNPACKED / "usr/sbin/pgbouncer", {"LD_LIBRARY_PATH": ":".join(libraries)}


def _unpack(folder: Path) -> None:
    """Fetches the package and its libraries with lists of its own; the system's are left as they are."""
    work = folder.with_name("pgbouncer.new")
    shutil.rmtree(work, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "root"):
        (work / name).mkdir(parents=True)
    apt = [
        "-o",
        f"Dir::State::lists={work}/lists",
        "-o",
        f"Dir::Cache={work}/cache",
        "-o",
        "Debug::NoLocking=1",
    ]
    apt += ["-o", "APT::Sandbox::User="]

    def run(*command: str) -> str:
        ran = subprocess.run(command, cwd=work, capture_output=True, text=True, check=True, timeout=120)
        return ran.stdout

    run("apt-get", *apt, "-qq", "update")
    needed = run("apt-cache", *apt, "depends", "pgbouncer").split()
    libraries = [
        name for name in needed if name.startswith("lib") and not name.startswith(("libc6", "libelogind"))
    ]
    run("apt-get", *apt, "-qq", "download", "pgbouncer", *libraries)
    for package in work.glob("*.deb"):
        run("dpkg-deb", "-x", str(package), "root")
    (work / "root").rename(folder)
    shutil.rmtree(work)


@contextmanager
def run_pgbouncer(
    folder: Path, postgres_url: str, mode: PoolMode, users: Mapping[str, str] | None = None, size: int = 2
) -> Generator[str]:
    """Runs one before this Postgres, for every database; yields its address, as the same role.

    Args:
        folder: For its files; open to `nobody`.
        postgres_url: The server's address.
        mode: When a client gives up the server's session.
        users: Further roles and their passwords.
        size: The sessions of each role and database.
    """
    program, environment = find_program()
    at, port = urlsplit(postgres_url), probe.free_port()
    known = {at.username or "": unquote(at.password or ""), **(users or {})}
    (folder / "users.txt").write_text("".join(f'"{name}" "{word}"\n' for name, word in known.items()))
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={at.hostname} port={at.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\n"
        f"pool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = 200\n"
    )
    for path in (folder, folder / "users.txt", folder / "pgbouncer.ini"):
        path.chmod(0o755)  # whatever the umask: a test may have hardened this process
    nobody = pwd.getpwnam("nobody")
    spec = process.ProcessSpec(
        name=f"pgbouncer-{mode}",
        argv=(str(program), str(folder / "pgbouncer.ini")),
        env=environment,
        readiness_probe=lambda _: _listens(port),
        stop_signal=signal.SIGINT,
        user=(nobody.pw_uid, nobody.pw_gid) if os.geteuid() == 0 else None,
        ready_timeout_s=30,
    )
    running = process.start(spec, folder / "logs")
    try:
        process.wait_until_ready([running])
        yield at._replace(netloc=f"{at.username}:{at.password}@127.0.0.1:{port}").geturl()
    finally:
        process.stop([running])


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
