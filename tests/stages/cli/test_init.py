"""`llm-proxy init`: a folder that `up` and Compose start from; nothing is replaced, no secret is printed."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values
from terminal import Terminal

PROGRAM = [sys.executable, "-P", "-m", "llm_proxy"]
COMPOSE = Path(sys.executable).parent / "docker-compose"
KEY = "sk-of-a-provider-0123456789"


def run(folder: Path, *words: str, code: int = 0, **names: str) -> str:
    """Runs a command in a folder, with nothing set but these variables; returns what it prints."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **names}
    done = subprocess.run(
        [*PROGRAM, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_it_writes_passes_the_checks(tmp_path: Path) -> None:
    """`doctor` finds nothing in the files; secrets are different, long, and only their owner's to read."""
    said = run(tmp_path, "init", "gateway", "--provider", "openai", "--port", "7117")
    folder = tmp_path / "gateway"
    assert "> .keys/OPENAI_API_KEY" in said
    settings = dotenv_values(folder / ".env")
    secrets = [value for name, value in settings.items() if re.search(r"_(KEYS?|PASSWORD)$", name)]
    assert len(set(secrets)) == len(secrets) == 8
    assert min(len(value or "") for value in secrets) >= 48
    assert settings["LLM_PROXY__PORT"] == "7117"
    assert mode(folder / ".env") == 0o600
    for check in ("settings", "secrets", "config"):
        report = json.loads(run(folder, "doctor", "--only", check, "--json"))
        assert report["findings"] == []


def test_compose_builds_from_the_folder_alone(tmp_path: Path) -> None:
    """Every file that the images copy is below `image/`, every file that is mounted is there."""
    run(tmp_path, "init", "--provider", "groq", "--port", "7117", "--console-port", "7171", "--sidecars", "3")
    env = {"PATH": os.defpath, "HOME": str(tmp_path), "COMPOSE_PROFILES": "self-hosted-db,console,edge"}
    done = subprocess.run(
        [COMPOSE, "config", "--format", "json"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert {
        "llm-proxy",
        "litellm",
        "postgres",
        "redis",
        "redis-cache",
        "console",
        "migrate",
    } <= services.keys()
    assert "llm-proxy-dev" not in services
    assert {one["build"]["context"] for one in services.values() if "build" in one} == {
        str(tmp_path / "image")
    }
    assert services["litellm"]["deploy"]["replicas"] == 2
    assert services["litellm"]["command"][-1] == "4100-4101"
    assert services["llm-proxy"]["ports"][0]["published"] == "7117"
    assert services["llm-proxy"]["environment"]["LLM_PROXY__DEFAULT_MODEL"] == "groq-gpt-oss-120b"
    assert services["console"]["ports"][0]["published"] == "7171"
    assert services["console"]["environment"]["LLM_PROXY__CONSOLE_URL"] == "http://localhost:7171"
    mounts = [
        one["source"]
        for each in services.values()
        for one in each.get("volumes", ())
        if one["type"] == "bind"
    ]
    copied = re.findall(
        r"(?m)^COPY (?!--from)(?:--\S+ )*(\S+) ", (tmp_path / "image" / "Dockerfile").read_text()
    )
    assert len(copied) >= 6
    missing = [
        one for one in [*mounts, *(tmp_path / "image" / name for name in copied)] if not Path(one).exists()
    ]
    assert missing == []


def test_the_image_s_code_is_the_installed_one(tmp_path: Path) -> None:
    """It runs from there, without what was compiled here."""
    run(tmp_path, "init", "--no-console")
    image = tmp_path / "image"
    assert not list(image.rglob("__pycache__"))
    done = subprocess.run([*PROGRAM, "--version"], cwd=image, env={"PYTHONPATH": str(image)}, check=False)
    assert done.returncode == 0


def test_stores_of_one_s_own_are_written_as_they_were_given(tmp_path: Path) -> None:
    """A dollar sign in a password stays one, for Compose too; nothing prints the addresses."""
    urls = {"DATABASE_URL": "postgresql://u:p$HOME@db:5432/x", "REDIS_URL": "redis://:p$1@redis:6379/0"}
    words = ("--database-url", urls["DATABASE_URL"], "--redis-url", urls["REDIS_URL"])
    assert "p$" not in run(tmp_path, "init", *words)
    settings = dotenv_values(tmp_path / ".env")
    assert {name: settings[name] for name in urls} == urls
    assert settings["COMPOSE_PROFILES"] == "managed-db,console"
    env = {"PATH": os.defpath, "HOME": "/nonexistent"}
    done = subprocess.run(
        [COMPOSE, "config", "--environment"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"DATABASE_URL={urls['DATABASE_URL']}" in done.stdout.splitlines()


def test_one_store_of_two_is_rejected_for_compose(tmp_path: Path) -> None:
    """`up` takes it."""
    words = ("init", "--database-url", "postgresql://u:p@db/x")
    assert "give --redis-url, too, or --no-compose" in run(tmp_path, *words, code=2)
    assert not list(tmp_path.iterdir())
    run(tmp_path, *words, "--no-compose")
    assert not (tmp_path / "docker-compose.yml").exists()


def test_nothing_is_replaced(tmp_path: Path) -> None:
    """One file that is there stops all; a `.gitignore` is left alone."""
    (tmp_path / ".env").write_text("A=1\n")
    said = run(tmp_path, "init", code=1)
    assert "already has .env: nothing was written" in said
    assert [one.name for one in tmp_path.iterdir()] == [".env"]
    (tmp_path / ".env").rename(tmp_path / ".gitignore")
    run(tmp_path, "init", "--no-compose")
    assert (tmp_path / ".gitignore").read_text() == "A=1\n"


def test_a_dry_run_shows_the_files_and_no_secret(tmp_path: Path) -> None:
    """It writes nothing."""
    words = ("--dry-run", "--keys-from-environment", "--hostname", "llm.acme.test", "--proxy", "caddy")
    said = run(tmp_path, "init", *words, OPENAI_API_KEY=KEY)
    assert not list(tmp_path.iterdir())
    assert KEY not in said
    assert not re.search(r"[0-9a-f]{32}", said)
    assert "LLM_PROXY__TRUSTED_PROXIES=127.0.0.1" in said
    assert "deploy/ " in said


def test_a_host_name_is_in_the_proxy_s_configuration(tmp_path: Path) -> None:
    """With the gateway's port; nginx includes a file that is there, too."""
    run(tmp_path, "init", "--hostname", "llm.acme.test", "--port", "7117", "--no-compose")
    text = (tmp_path / "deploy" / "nginx.conf").read_text()
    assert "server_name llm.acme.test;" in text
    assert "server 127.0.0.1:7117;" in text
    assert (tmp_path / "deploy" / "edge" / "proxy.conf").is_file()


@pytest.mark.parametrize(
    ("proxy", "hides"),
    [
        ("nginx", [f"location {path} {{ return 404; }}" for path in ("/admin", "/metrics", "/internal")]),
        (
            "caddy",
            ["@operators path /admin /admin/* /metrics /internal /internal/*", "respond @operators 404"],
        ),
    ],
)
def test_the_proxy_hides_what_only_operators_call(proxy: str, hides: list[str], tmp_path: Path) -> None:
    """Each path and what is below it."""
    run(tmp_path, "init", "--hostname", "llm.acme.test", "--proxy", proxy, "--no-compose")
    text = (tmp_path / "deploy" / {"nginx": "nginx.conf", "caddy": "Caddyfile"}[proxy]).read_text()
    assert set(hides) <= {line.strip() for line in text.splitlines()}


@pytest.mark.parametrize(
    "words",
    [("--provider", "nosuch"), ("--hostname", "a b"), ("--database-url", "mysql://x"), ("--port", "0")],
)
def test_a_wrong_choice_is_one_line(tmp_path: Path, words: tuple[str, str]) -> None:
    """Nothing is written."""
    said = run(tmp_path, "init", *words, code=2)
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


async def test_a_terminal_is_asked(tmp_path: Path) -> None:
    """A provider, its key, unseen, and the rest; the key is in a file that only its owner reads."""
    folder = tmp_path / "asked"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "200"}
    terminal = Terminal([*PROGRAM, "init", str(folder)], env)
    for question, answer in (
        ("Which do you use?", "openai"),
        ("OPENAI_API_KEY", KEY),
        ("your Postgres", ""),
        ("your Redis", ""),
        ("Port of the gateway", "7117"),
        ("The web console", "n"),
        ("Public host name", ""),
        ("Docker Compose", "n"),
    ):
        await terminal.until(question)
        terminal.type(answer)
    await terminal.until("llm-proxy up")
    assert await terminal.exit_code() == 0
    assert KEY not in terminal.shown
    assert (folder / ".keys" / "OPENAI_API_KEY").read_text() == f"{KEY}\n"
    assert mode(folder / ".keys" / "OPENAI_API_KEY") == 0o600
    settings = dotenv_values(folder / ".env")
    assert settings["LLM_PROXY__PORT"] == "7117"
    assert settings["LLM_PROXY__CONSOLE_ENABLED"] == "false"
