"""Commands with a wrong address of a store, or a store that rejects them: one line without a secret."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from llm_proxy.stack.process_specs import sidecar_python

SECRET = "S3cretPart"
COMMANDS = [
    ["migrate"],
    ["usage"],
    ["requests"],
    ["reconcile"],
    ["keys", "list"],
    ["models"],
    ["serve"],
    ["up", "--state", "state"],
]
CONFIG = Path(__file__).parents[3] / "litellm-config.yaml"


def run(folder: Path, *words: str, **names: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in an empty folder with these variables only."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "llm_proxy", *words],
        cwd=folder,
        env={**kept, "LLM_PROXY__ENVIRONMENT": "development", **names},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error; the output holds neither the secret nor a traceback."""
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    [line] = [one for one in done.stderr.splitlines() if one]
    return line


WRONG_SETTINGS = [
    ("LLM_PROXY__DATABASE_URL", f"postgresql://app:1{SECRET}/Other@host:{SECRET}/x"),
    ("DATABASE_URL", f"sqlite:///{SECRET}.db"),
    ("REDIS_URL", f"redis://:{SECRET}@host:{SECRET}/0"),
    ("LLM_PROXY__LITELLM_PROXY_URL", f"http://user:{SECRET}@host:4000"),
    ("LLM_PROXY__DEADLINES", f"{{{SECRET}"),
    ("LLM_PROXY__CA_FILE", f"/nowhere/{SECRET}"),
]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        *zip(COMMANDS, itertools.cycle(WRONG_SETTINGS), strict=False),
        *((["serve"], wrong) for wrong in WRONG_SETTINGS),
    ],
    ids=str,
)
def test_a_wrong_address_is_named_and_not_printed(
    tmp_path: Path, words: list[str], wrong: tuple[str, str]
) -> None:
    """Each of them by `serve`, and one of them by every other command; with exit code 2."""
    name, url = wrong
    done = run(tmp_path, *words, **{name: url})
    assert name in one_line(done)
    assert done.returncode == 2


@pytest.mark.parametrize("words", [*COMMANDS, ["config", "check"]], ids=" ".join)
def test_a_settings_file_that_is_not_utf_8_is_one_line(tmp_path: Path, words: list[str]) -> None:
    """Such as a password in another encoding."""
    (tmp_path / ".env").write_bytes(b"DATABASE_URL=postgresql://app:S3cretPart\xe9@h/x\n")
    done = run(tmp_path, *words)
    assert "not UTF-8" in one_line(done)
    assert done.returncode != 0


@pytest.mark.parametrize("command", ["usage", "requests", "reconcile", "audit"])
def test_a_time_that_is_none_is_one_line(postgres_url: str, tmp_path: Path, command: str) -> None:
    """With exit code 2."""
    done = run(tmp_path, command, "--since", "someday", DATABASE_URL=postgres_url)
    assert "'someday' is not a time" in one_line(done)
    assert done.returncode == 2


@pytest.mark.parametrize("name", ["CACHE_REDIS_URL", "LLM_CALLS_DATABASE_URL"])
def test_a_wrong_address_that_only_a_sidecar_reads_is_named_and_not_printed(
    tmp_path: Path, name: str
) -> None:
    """By `up`, and by `sidecar`."""
    url = f"redis://:{SECRET}@host:{SECRET}"
    database = {"DATABASE_URL": "postgresql://app@127.0.0.1:1/app"}
    done = run(tmp_path, "up", "--state", "state", **database, **{name: url})
    assert (done.returncode, name in one_line(done)) == (2, True)
    words = ["sidecar", "--config", str(CONFIG), "--port", "0"]
    python = {"LLM_PROXY_SIDECAR_PYTHON": str(sidecar_python())}
    done = run(tmp_path, *words, LITELLM_MASTER_KEY="sk-x", **python, **{name: url})
    assert (done.returncode, name in one_line(done)) == (2, True)


FAILURES = [
    ("password", 'user or password (password authentication failed for user "llm_proxy"'),
    ("database", 'no database of this name (database "nowhere" does not exist'),
    ("parameter", 'does not know a parameter of the address (unrecognized configuration parameter "jit_"'),
    ("host", "host is not found"),
    ("port", "nothing listens"),
    ("tls", "it refuses TLS"),
]


@pytest.mark.parametrize(
    ("words", "failure"),
    [
        *zip(COMMANDS[:5], FAILURES[1:], strict=True),
        *((["migrate"], failure) for failure in FAILURES),
    ],
    ids=str,
)
def test_the_reason_of_a_failed_connection_is_printed(
    postgres_url: str, tmp_path: Path, words: list[str], failure: tuple[str, str]
) -> None:
    """Each by `migrate`, one by every other command; without the secret of the driver's message."""
    change, reason = failure
    url = urlsplit(postgres_url)
    changed = {
        "password": url._replace(netloc=f"llm_proxy:{SECRET}@{url.hostname}:{url.port}"),
        "database": url._replace(path="/nowhere"),
        "parameter": url._replace(query="options=-cjit_%3Doff"),
        "host": url._replace(netloc=f"{url.netloc.rpartition('@')[0]}@{SECRET}.invalid"),
        "port": url._replace(netloc=f"llm_proxy:{SECRET}@127.0.0.1:1"),
        "tls": url._replace(query="sslmode=require"),
    }[change].geturl()
    done = run(tmp_path, *words, DATABASE_URL=changed)
    assert done.returncode == 3
    line = one_line(done)
    assert "DATABASE_URL" in line
    assert reason in line


async def test_a_password_with_special_characters_works(database_url: str, tmp_path: Path) -> None:
    """Without percent-encoding."""
    role, password = f"odd_{uuid4().hex[:8]}", "a/b#c?d@e:f%g h"
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{password}'")
        location = database_url.rpartition("@")[2]
        done = run(
            tmp_path, "keys", "list", "--json", DATABASE_URL=f"postgresql://{role}:{password}@{location}"
        )
        assert (done.returncode, done.stdout.strip()) == (0, "[]")
        await connection.execute(f"DROP ROLE {role}")
    finally:
        await connection.close()


def test_the_gateway_logs_why_the_database_refuses_it(postgres_url: str, tmp_path: Path) -> None:
    """In the server's words, and without the password."""
    url = urlsplit(postgres_url)
    wrong = url._replace(netloc=f"llm_proxy:{SECRET}@{url.hostname}:{url.port}").geturl()
    names = {"LLM_PROXY__ENVIRONMENT": "development", "LLM_PROXY__PORT": "0", "DATABASE_URL": wrong}
    command = [sys.executable, "-m", "llm_proxy", "serve"]
    env = {"PATH": os.environ["PATH"], **names}
    told: list[str] = []
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as gateway:
        try:
            for line in gateway.stderr or ():
                told.append(line)
                if "records go to the spool" in line or "the gateway is up" in line:
                    break
        finally:
            gateway.kill()
    assert "it refuses this user or password (password authentication failed" in told[-1]
    assert SECRET not in "".join(told)
