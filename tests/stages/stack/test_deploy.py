"""Images and the compose file, checked by the real tools, without a container engine."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(sys.executable).parent
PROFILES = ("self-hosted-db", "managed-db", "dev", "local-models")


def run(*command: str | Path, **names: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.defpath, "HOME": "/nonexistent", **names}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that `make secrets` creates."""
    file = tmp_path_factory.mktemp("compose") / ".env"
    made = run("sh", ROOT / "scripts" / "secrets.sh", file)
    assert made.returncode == 0, made.stderr
    return file


def compose(env_file: Path, *profiles: str, **names: str) -> dict[str, Any]:
    """The services of the compose file as the real Compose parses it."""
    words = [word for profile in profiles for word in ("--profile", profile)]
    program = PROGRAMS / "docker-compose"
    ran = run(program, "--env-file", env_file, *words, "config", "--format", "json", **names)
    assert ran.returncode == 0, ran.stderr
    services: dict[str, Any] = json.loads(ran.stdout)["services"]
    return services


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile: str, env_file: Path) -> None:
    """Every profile has gateway and sidecars."""
    assert {"llm-proxy", "litellm"} <= set(compose(env_file, profile))


def test_created_secrets_select_the_self_contained_profile(env_file: Path) -> None:
    """`docker compose up` starts its own stores."""
    assert {"llm-proxy", "litellm", "migrate", "postgres", "redis", "redis-cache"} == set(compose(env_file))


def test_only_the_gateway_is_published(env_file: Path) -> None:
    """On 7007 and 4000; the developer's port on the loopback interface."""
    published = {
        name: {port["published"] for port in service["ports"]}
        for name, service in compose(env_file, *PROFILES).items()
        if "ports" in service
    }
    assert published == {"llm-proxy": {"7007", "4000"}, "llm-proxy-dev": {"7008"}}


def test_stores_are_on_the_internal_network_only(env_file: Path) -> None:
    """No connections out, none in."""
    services = compose(env_file, "self-hosted-db")
    for name in ("postgres", "redis", "redis-cache"):
        assert list(services[name]["networks"]) == ["inside"]


def test_no_provider_key_reaches_the_gateway_and_no_caller_key_the_sidecar(env_file: Path) -> None:
    """Each container has an environment of its own."""
    services = compose(env_file, OPENAI_API_KEY="canary", LLM_PROXY__INTERNAL_API_KEY="callers")
    assert "canary" not in json.dumps(services["llm-proxy"])
    assert "callers" not in json.dumps(services["litellm"])
    assert not {"DATABASE_URL", "REDIS_URL", "HOST", "PORT"} & set(services["litellm"]["environment"])


def test_sidecars_write_their_log_with_an_insert_only_role(env_file: Path) -> None:
    """Never as the database's owner, whose URL they do not have; they do not wait for the database."""
    for profile in ("self-hosted-db", "managed-db"):
        services = compose(
            env_file, profile, COMPOSE_PROFILES="", DATABASE_URL="postgresql://owner:canary@mine/db"
        )
        assert "canary" not in json.dumps(services["litellm"])
        log = services["litellm"]["environment"]["LLM_CALLS_DATABASE_URL"]
        assert log.startswith("postgresql://llm_proxy_sidecar:")
        password = log.partition("sidecar:")[2].partition("@")[0]
        assert services["migrate"]["environment"]["SIDECAR_DB_PASSWORD"] == password != ""
        assert not any("migrate" in services[name].get("depends_on", {}) for name in ("llm-proxy", "litellm"))


def test_the_call_log_can_be_turned_off(env_file: Path) -> None:
    """By an empty URL."""
    assert not compose(env_file, LLM_CALLS_DATABASE_URL="")["litellm"]["environment"][
        "LLM_CALLS_DATABASE_URL"
    ]


def test_no_image_names_a_registry(env_file: Path) -> None:
    """The operator decides where images come from."""
    for service in compose(env_file, *PROFILES).values():
        assert "." not in service["image"].partition("/")[0].partition(":")[0]


def test_eight_sidecars_by_default(env_file: Path) -> None:
    """Or the configured number; one process a container."""
    assert compose(env_file)["litellm"]["deploy"]["replicas"] == 8
    assert compose(env_file, SIDECARS="2")["litellm"]["deploy"]["replicas"] == 2


def test_the_operator_s_stores_replace_the_included_ones(env_file: Path) -> None:
    """URLs of the environment win."""
    names = {
        "DATABASE_URL": "postgresql://mine",
        "REDIS_URL": "redis://mine",
        "COMPOSE_PROFILES": "managed-db",
    }
    gateway = compose(env_file, **names)["llm-proxy"]["environment"]
    assert gateway["LLM_PROXY__DATABASE_URL"] == "postgresql://mine"
    assert gateway["LLM_PROXY__LIMITS_REDIS_URL"] == "redis://mine"


def test_without_secrets_compose_names_the_command(tmp_path: Path) -> None:
    """No container starts with a guessable key."""
    (tmp_path / "empty").touch()
    ran = run(PROGRAMS / "docker-compose", "--env-file", tmp_path / "empty", "config", "-q")
    assert ran.returncode != 0
    assert "run make secrets" in ran.stderr


def test_secrets_are_created_once_in_a_private_file(env_file: Path, tmp_path: Path) -> None:
    """A second run changes nothing and keeps existing lines."""
    copy = tmp_path / ".env"
    shutil.copy(env_file, copy)
    run("sh", ROOT / "scripts" / "secrets.sh", copy)
    assert copy.read_text() == env_file.read_text()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    copy.write_text("LLM_PROXY__ADMIN_KEY=my-own")
    run("sh", ROOT / "scripts" / "secrets.sh", copy)
    assert copy.read_text().startswith("LLM_PROXY__ADMIN_KEY=my-own\nLLM_PROXY__INTERNAL_API_KEY=")


def test_a_container_reads_its_key_files_by_default(tmp_path: Path) -> None:
    """One file per secret; pages and hidden files are no secrets."""
    for name in ("OPENAI_API_KEY", "GROQ_API_KEY", "README.md"):
        (tmp_path / name).write_text(f"of {name}\n")
    script = ROOT / "deploy" / "with-keys.sh"
    ran = run("sh", script, "env", KEYS_FOLDER=str(tmp_path), GROQ_API_KEY="of the environment")
    keys = {line for line in ran.stdout.splitlines() if "KEY=" in line}
    assert keys == {"OPENAI_API_KEY=of OPENAI_API_KEY", "GROQ_API_KEY=of the environment"}


def test_the_dockerfile_is_valid() -> None:
    """By hadolint."""
    ran = run(PROGRAMS / "hadolint", "Dockerfile")
    assert (ran.returncode, ran.stdout) == (0, "")
