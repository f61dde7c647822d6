"""Images and the compose file, checked by the real tools, without a container engine."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(sys.executable).parent
PROFILES = ("self-hosted-db", "managed-db", "edge", "dev", "local-models")
COMBINATIONS = [some for count in range(len(PROFILES) + 1) for some in combinations(PROFILES, count)]


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


@pytest.mark.parametrize("profiles", COMBINATIONS, ids="+".join)
def test_every_combination_of_profiles_is_valid(profiles: tuple[str, ...], env_file: Path) -> None:
    """Each has gateway and sidecars, and nothing that waits for what is not there."""
    services = compose(env_file, *profiles, COMPOSE_PROFILES="")
    assert {"llm-proxy", "litellm"} <= set(services)
    for service in services.values():
        needed = {name for name, one in service.get("depends_on", {}).items() if one["required"]}
        assert needed <= services.keys()


def test_created_secrets_select_the_self_contained_profile(env_file: Path) -> None:
    """`docker compose up` starts its own stores."""
    own = {"llm-proxy", "litellm", "migrate", "call-log", "postgres", "redis", "redis-cache"}
    assert own == set(compose(env_file))


def published(services: dict[str, Any]) -> dict[str, set[str]]:
    """The addresses of the host that reach each service."""
    return {
        name: {f"{port['host_ip']}:{port['published']}" for port in service["ports"]}
        for name, service in services.items()
        if "ports" in service
    }


def test_gateway_and_edge_are_published_on_the_loopback_interface_unless_said(env_file: Path) -> None:
    """7007 and 4000, 8080 for the edge; the developer's port always on the loopback interface."""
    own = {"127.0.0.1:7007", "127.0.0.1:4000"}
    developers = {"127.0.0.1:7008"}
    assert published(compose(env_file, *PROFILES)) == {
        "llm-proxy": own,
        "edge": {"127.0.0.1:8080"},
        "llm-proxy-dev": developers,
    }
    given = {"LLM_PROXY_BIND": "0.0.0.0", "EDGE_PORT": "7007", "LLM_PROXY_PORT": "7017"}  # noqa: S104
    assert published(compose(env_file, *PROFILES, **given)) == {
        "llm-proxy": {"0.0.0.0:7017", "0.0.0.0:4000"},
        "edge": {"0.0.0.0:7007"},
        "llm-proxy-dev": developers,
    }


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
    """Never as the database's owner, whose URL they do not have; they do not wait for the database.

    A container without a network makes their address and hands it over in a volume.
    """
    for profile in ("self-hosted-db", "managed-db"):
        services = compose(
            env_file, profile, COMPOSE_PROFILES="", DATABASE_URL="postgresql://owner:canary@mine/db"
        )
        assert "canary" not in json.dumps(services["litellm"])
        made = services["call-log"]
        assert made["environment"]["DATABASE_URL"] == "postgresql://owner:canary@mine/db"
        assert made["network_mode"] == "none"
        password = made["environment"]["SIDECAR_DB_PASSWORD"]
        assert services["migrate"]["environment"]["SIDECAR_DB_PASSWORD"] == password != ""
        [handed] = [one for one in services["litellm"]["volumes"] if one["source"] == "call-log"]
        assert (handed["target"], handed["read_only"]) == ("/run/call-log", True)
        assert "/run/call-log" in services["litellm"]["environment"]["KEYS_FOLDER"].split(":")
        assert not any("migrate" in services[name].get("depends_on", {}) for name in ("llm-proxy", "litellm"))


@pytest.mark.parametrize("profile", ["self-hosted-db", "managed-db"])
def test_a_managed_database_and_redis_are_all_that_managed_db_needs(profile: str, env_file: Path) -> None:
    """No address names a container that the profile does not start."""
    managed = profile == "managed-db"
    stores = {"DATABASE_URL": "postgresql://o:p@mine/db", "REDIS_URL": "redis://mine"} if managed else {}
    services = compose(env_file, profile, COMPOSE_PROFILES="", **stores)
    for name in ("llm-proxy", "litellm", "migrate", "call-log"):
        for value in services[name]["environment"].values():
            host = re.search(r"@(postgres|redis|redis-cache)[:/]", str(value))
            assert host is None or host[1] in services, (name, value)


@pytest.mark.parametrize(
    ("given", "passed"), [(None, ""), ("", "given"), ("postgresql://other/log", "given")]
)
def test_the_call_log_s_address_can_be_given_or_the_log_turned_off(
    given: str | None, passed: str, env_file: Path
) -> None:
    """By an empty address; the container that makes one then makes none."""
    names = {} if given is None else {"LLM_CALLS_DATABASE_URL": given}
    services = compose(env_file, **names)
    assert services["litellm"]["environment"]["LLM_CALLS_DATABASE_URL"] == (given or "")
    assert services["call-log"]["environment"]["LLM_CALLS"] == passed


def test_images_of_others_have_full_names_and_a_version(env_file: Path) -> None:
    """No machine's list of registries decides what runs; `deploy/pin_images.sh` writes digests."""
    services = compose(env_file, *PROFILES)
    images = {service["image"] for service in services.values()} - {"llm-proxy-gateway", "llm-proxy-sidecar"}
    bases = {service["build"]["args"]["BASE"] for service in services.values() if "build" in service}
    assert len(bases) == 1
    for image in images | bases:
        assert "." in image.partition("/")[0], image
        assert image.rpartition(":")[2] not in {"", "latest"}, image
    pinned = "docker.io/library/postgres@sha256:" + "0" * 64
    assert compose(env_file, POSTGRES_IMAGE=pinned)["postgres"]["image"] == pinned


def test_images_of_a_registry_are_pulled_where_they_are_named(env_file: Path) -> None:
    """Each of ours by one variable, with its digest; without them Compose builds."""
    digest = "@sha256:" + "0" * 64
    named = {
        "LLM_PROXY_IMAGE": f"registry.example/llm-proxy-gateway{digest}",
        "LLM_PROXY_SIDECAR_IMAGE": f"registry.example/llm-proxy-sidecar{digest}",
    }
    own = {name for name, one in compose(env_file, *PROFILES).items() if "build" in one}
    services = compose(env_file, *PROFILES, **named)
    images = {name: services[name]["image"] for name in own}
    assert images.pop("litellm") == named["LLM_PROXY_SIDECAR_IMAGE"]
    assert set(images.values()) == {named["LLM_PROXY_IMAGE"]}


def test_sidecars_become_unprivileged_before_litellm_runs(env_file: Path) -> None:
    """They begin with what blocking the metadata service and changing the user need."""
    sidecar = compose(env_file, LLM_PROXY_UID="1234")["litellm"]
    assert sidecar["entrypoint"][:3] == [
        "/app/.venv-sidecar/bin/python",
        "-IS",
        "/app/llm_proxy/sidecar/without_metadata.py",
    ]
    assert (sidecar["cap_drop"], sidecar["cap_add"]) == (["ALL"], ["NET_ADMIN", "SETGID", "SETUID"])
    assert sidecar["environment"]["LLM_PROXY_UID"] == "1234"


def test_ollama_is_the_profile_s_own_by_default(env_file: Path) -> None:
    """`local-models` brings the address."""
    services = compose(env_file, "local-models")
    assert services["litellm"]["environment"]["OLLAMA_API_BASE"] == "http://ollama:11434"


@pytest.mark.parametrize("service", ["litellm", "llm-proxy-dev"])
def test_what_is_mounted_is_restarted_not_synced(service: str, env_file: Path) -> None:
    """Compose ignores a path that it would have to sync into a mount."""
    watched = compose(env_file, "dev")[service]["develop"]["watch"]
    mounts = {one["source"] for one in compose(env_file, "dev")[service]["volumes"]}
    assert [(one["action"], one["path"] in mounts) for one in watched] == [("restart", True)]


def test_eight_sidecars_by_default(env_file: Path) -> None:
    """Or the configured containers and ports; gateway, command and health check agree."""
    chosen: list[dict[str, str]] = [{}, {"SIDECARS": "3", "SIDECAR_PORTS": "4100"}]
    for given in chosen:
        ports = given.get("SIDECAR_PORTS", "4100-4103")
        services = compose(env_file, **given)
        sidecar = services["litellm"]
        assert sidecar["deploy"]["replicas"] == int(given.get("SIDECARS", "2"))
        assert sidecar["command"][-3:] == ["--prefork", "--port", ports]
        assert sidecar["healthcheck"]["test"][-2:] == [ports, "/health/readiness"]
        gateway = services["llm-proxy"]["environment"]
        assert gateway["LLM_PROXY__LITELLM_PROXY_URL"] == f"http://litellm:{ports}"


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
    other = tmp_path / "other"
    other.mkdir()
    (other / "GROQ_API_KEY").write_text("of the second")
    (other / "LLM_CALLS_DATABASE_URL").write_text("postgresql://x")
    ran = run("sh", script, "env", KEYS_FOLDER=f"{tmp_path}:/no/such/folder:{other}")
    assert "GROQ_API_KEY=of GROQ_API_KEY\n" in ran.stdout
    assert "LLM_CALLS_DATABASE_URL=postgresql://x\n" in ran.stdout


def test_the_dockerfile_is_valid() -> None:
    """By hadolint."""
    ran = run(PROGRAMS / "hadolint", "Dockerfile")
    assert (ran.returncode, ran.stdout) == (0, "")
