"""Postgres's own programs, run for one database: found, checked against the server, and shown.

Invariants: no password and no address stands on a command line or in a program's environment: both are in a
service file in a folder of this user's alone, gone with the command. None older than the server is run.
Sources: https://www.postgresql.org/docs/18/libpq-pgservice.html and app-pgdump.html.
"""

import contextlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import click

from llm_proxy.cli.printing import EXIT_FAILED, EXIT_WRONG_INPUT, fail
from llm_proxy.postgres_urls import client_parameters
from llm_proxy.stack import NotInstalled, stores

SERVICE = "llm-proxy"
_LIBPQ = frozenset({
    "host", "port", "dbname", "user", "password", "passfile", "sslmode", "sslcert", "sslkey", "sslrootcert",
    "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version",
    "target_session_attrs", "application_name", "options", "krbsrvname", "gsslib", "tcp_user_timeout",
    "connect_timeout",
})  # fmt: skip
"""Parameters of an address that libpq knows; others are settings of the session."""
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_MAX_COMPLAINT_CHARS = 500

tools_option = click.option(
    "--tools", "tools", envvar="POSTGRES_BIN", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of pg_dump and pg_restore; POSTGRES_BIN  [default: PATH, then those of `llm-proxy up`].",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PostgresTools:
    """The programs of one folder.

    Attributes:
        environment: In which they know the database as the service `SERVICE`.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, program: str, *arguments: str) -> None:
        """Shows and runs a program on the database; ends the command with its first complaint if it fails."""
        words = [str(self.folder / program), *arguments]
        click.echo(f"llm-proxy: running {shlex.join(words)}", err=True)
        if (complaint := self._complaint(words)) is not None:
            fail(f"{program} failed: {complaint}", EXIT_FAILED)

    def require_archive(self, file: Path) -> None:
        """Ends the command unless the file is an archive that pg_restore reads."""
        complaint = self._complaint([str(self.folder / "pg_restore"), "--list", str(file)])
        if complaint is not None:
            fail(f"{file} is no archive of pg_dump: {complaint}", EXIT_WRONG_INPUT)

    def _complaint(self, words: Sequence[str]) -> str | None:
        """Runs a program; returns what it complains of if it fails."""
        done = subprocess.run(words, env=self.environment, capture_output=True, check=False)
        if not done.returncode:
            return None
        complaint = " ".join(done.stderr.decode("utf-8", "replace").split())
        return complaint[:_MAX_COMPLAINT_CHARS] or f"exit code {done.returncode}"


@contextmanager
def open_tools(url: str, server_major: int, tools: Path | None) -> Generator[PostgresTools]:
    """Yields the programs for a database; ends the command where none is as new as the server."""
    folder = _find(server_major, tools)
    with tempfile.TemporaryDirectory(prefix="llm-proxy-") as private:
        service = Path(private) / "service.conf"
        service.touch(mode=0o600)
        service.write_text(
            f"[{SERVICE}]\n" + "".join(f"{line}\n" for line in _service_lines(url)), encoding="utf-8"
        )
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "PGSERVICEFILE": str(service)}
        yield PostgresTools(folder, environment | {"PGAPPNAME": SERVICE, "HOME": private})


def _find(server_major: int, tools: Path | None) -> Path:
    """Returns the first folder whose programs are as new as the server; ends the command without one."""
    found: list[str] = []
    for folder in _folders() if tools is None else (tools,):
        if (major := _major(folder / "pg_dump")) is not None and (folder / "pg_restore").exists():
            if major >= server_major:
                return folder
            found.append(f"{folder} has version {major}")
    what = f"no pg_dump and pg_restore of version {server_major} or later"
    reason = f"{what}; {'; '.join(found) or 'none is on the PATH'}; name a folder by --tools"
    return fail(reason, EXIT_WRONG_INPUT)


def _folders() -> Iterator[Path]:
    on_path = shutil.which("pg_dump")
    if on_path is not None:
        yield Path(on_path).parent
    with contextlib.suppress(NotInstalled):
        yield stores.postgres_programs()


def _major(program: Path) -> int | None:
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout.decode("utf-8", "replace"))
    return int(match[1]) if match else None


def _service_lines(url: str) -> list[str]:
    known, session = _parameters(url)
    options = [f"-c {name}={_escaped(value)}" for name, value in session.items()]
    if options:
        known["options"] = " ".join([*([known["options"]] if "options" in known else []), *options])
    for name, value in known.items():
        if "\n" in value or value != value.strip():
            fail(f"DATABASE_URL: its {name} begins or ends with a blank, or has two lines", EXIT_WRONG_INPUT)
    return [f"{name}={value}" for name, value in known.items()]


def _parameters(url: str) -> tuple[dict[str, str], dict[str, str]]:
    """The parameters of a normalized address: those that libpq knows, and settings of the session."""
    location, _, query = url.partition("://")[2].partition("#")[0].partition("?")
    given = _of_location(location)
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    given |= {"dbname" if name == "database" else name: unquote(value) for name, _, value in pairs}
    if (wait := client_parameters(url).get("connect_timeout")) is not None:
        given["connect_timeout"] = wait
    given.pop("service", None)
    known = {name: value for name, value in given.items() if name in _LIBPQ}
    return known, {name: value for name, value in given.items() if name not in _LIBPQ}


def _of_location(location: str) -> dict[str, str]:
    credentials, at, rest = location.rpartition("@")
    user, colon, password = credentials.partition(":")
    hosts = rest.partition("/")[0]
    parts = [_host_and_port(one) for one in hosts.split(",") if one]
    given: dict[str, str] = {}
    if parts:
        given["host"] = ",".join(host for host, _ in parts)
        if any(port for _, port in parts):
            given["port"] = ",".join(port or "5432" for _, port in parts)
    if at and user:
        given["user"] = unquote(user)
    if at and colon:
        given["password"] = unquote(password)
    if name := unquote(rest.partition("/")[2]):
        given["dbname"] = name
    return given


def _host_and_port(text: str) -> tuple[str, str]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    return unquote(host.strip("[]")), port


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
