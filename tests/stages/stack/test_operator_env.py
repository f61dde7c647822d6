"""The operator's variables, the secrets the first start creates, and which process gets them."""

import os
import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values

from llm_proxy.stack import stores
from llm_proxy.stack.operator_env import (
    REQUIRED_SECRETS,
    OperatorEnv,
    append_to_dotenv,
    new_secrets,
    read_operator_env,
)
from llm_proxy.stack.plan import locate_internal_key
from llm_proxy.stack.process_specs import (
    FORBIDDEN_IN_SIDECAR,
    ModelPorts,
    SidecarBackends,
    sidecar_spec,
    sidecars_spec,
)


def test_secrets_are_created_once_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    """The second start creates none."""
    created = new_secrets(OperatorEnv({}))
    append_to_dotenv(tmp_path / ".env", created)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert list(created) == [names[0] for names in REQUIRED_SECRETS]
    assert new_secrets(read_operator_env({}, tmp_path)) == {}
    assert dotenv_values(tmp_path / ".env") == created


def test_an_existing_line_is_never_changed(tmp_path: Path) -> None:
    """Secrets are appended, also after a last line without line feed; the mode becomes 0600."""
    file = tmp_path / ".env"
    file.write_text("# mine\nLLM_PROXY__ADMIN_KEY=my-own")
    file.chmod(0o644)
    created = new_secrets(read_operator_env({}, tmp_path))
    append_to_dotenv(file, created)
    assert file.read_text().startswith("# mine\nLLM_PROXY__ADMIN_KEY=my-own\n")
    assert dotenv_values(file) == {"LLM_PROXY__ADMIN_KEY": "my-own"} | created
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("names", REQUIRED_SECRETS)
def test_a_secret_set_under_any_of_its_names_is_not_created(names: tuple[str, ...]) -> None:
    """Neither written nor overridden."""
    for name in names:
        assert names[0] not in new_secrets(OperatorEnv({name: "set"}))


def test_environment_wins_over_dotenv_and_dotenv_over_key_files(tmp_path: Path) -> None:
    """An empty value counts as not set."""
    keys = tmp_path / ".keys"
    keys.mkdir()
    for name in ("A", "B", "C", "README.md", ".gitignore"):
        (keys / name).write_text(f"{name} of .keys\n")
        (keys / name).chmod(0o600)
    (tmp_path / ".env").write_text("A=of .env\nB=of .env\n")
    env = read_operator_env({"A": "of the environment", "B": ""}, tmp_path)
    assert dict(env.variables) == {"A": "of the environment", "B": "of .env", "C": "C of .keys"}
    assert env.warnings == ()


def test_a_key_file_that_others_can_read_is_named(tmp_path: Path) -> None:
    """The warning holds the command that repairs it, not the key."""
    (tmp_path / ".keys").mkdir()
    (tmp_path / ".keys" / "OPENAI_API_KEY").write_text("sk-secret")
    (tmp_path / ".keys" / "OPENAI_API_KEY").chmod(0o640)
    path = tmp_path / ".keys" / "OPENAI_API_KEY"
    assert read_operator_env({}, tmp_path).warnings == (f"{path} can be read by others: chmod 600 {path}",)


def test_a_sidecar_gets_provider_keys_and_never_the_gateways_stores(tmp_path: Path) -> None:
    """Its environment holds listed variables and those its configuration refers to."""
    config = tmp_path / "config.yaml"
    config.write_text("model_list: [{litellm_params: {api_key: os.environ/MY_OWN_KEY}}]")
    env = dict.fromkeys(FORBIDDEN_IN_SIDECAR, "of the gateway") | {
        "MY_OWN_KEY": "1",
        "GROQ_API_KEY": "2",
        "LLM_PROXY__INTERNAL_API_KEY": "3",
        "SOMETHING_ELSE": "4",
        "PATH": os.defpath,
    }
    backends = SidecarBackends("sk-master", "redis://cache", None, ModelPorts(1, 2))
    spec = sidecar_spec(1, 20_000, config, backends, OperatorEnv(env))
    assert dict(spec.env) == {
        "PATH": os.defpath,
        "MY_OWN_KEY": "1",
        "GROQ_API_KEY": "2",
        "LITELLM_MASTER_KEY": "sk-master",
        "LLM_PROXY_SIDECAR_DRAIN_S": "1",
        "LLM_PROXY_SIDECAR_LEAVE_S": "0",
        "LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK": "warn",
        "LLM_PROXY_SIDECAR_ACCEPT": "*",
        "CACHE_REDIS_URL": "redis://cache",
        "LOCAL_CHAT_BASE": "http://127.0.0.1:1/v1",
        "LOCAL_EMBED_BASE": "http://127.0.0.1:2/v1",
    }


def test_sidecars_are_children_of_one_process_with_limits_that_the_operator_may_set(tmp_path: Path) -> None:
    """A port each; 0 is no limit, and stays."""
    config = tmp_path / "config.yaml"
    config.write_text("model_list: []")
    backends = SidecarBackends("sk-master", None, None, None)
    spec = sidecars_spec(
        3, (20_000, 20_007), config, backends, OperatorEnv({"LLM_PROXY_SIDECAR_MAX_MIB": "0"})
    )
    assert spec.name == "sidecars-3"
    assert spec.argv[-5:] == ("--port", "20000", "--prefork", "--port", "20007")
    assert spec.env["LLM_PROXY_SIDECAR_MAX_MIB"] == "0"
    assert spec.env["LLM_PROXY_SIDECAR_HARD_MIB"] == "2048"


def test_outside_development_a_sidecar_refuses_a_changed_environment(tmp_path: Path) -> None:
    """The operator's setting overrides both defaults."""
    config = tmp_path / "config.yaml"
    config.write_text("model_list: []")
    backends = SidecarBackends("sk-master", None, None, None)
    production = {"LLM_PROXY__ENVIRONMENT": "production"}
    check = "LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK"
    assert sidecar_spec(1, 20_000, config, backends, OperatorEnv(production)).env[check] == "refuse"
    assert (
        sidecar_spec(1, 20_000, config, backends, OperatorEnv(production | {check: "warn"})).env[check]
        == "warn"
    )
    assert (
        "LLM_PROXY_SIDECAR_ACCEPT"
        not in sidecar_spec(1, 20_000, config, backends, OperatorEnv(production)).env
    )


@pytest.mark.parametrize(
    ("given", "embedded"),
    [
        ({}, {"database", "limits", "cache"}),
        ({"DATABASE_URL": "postgresql://a"}, {"limits", "cache"}),
        ({"REDIS_URL": "redis://a"}, {"database"}),
        ({"LIMITS_REDIS_URL": "redis://a"}, {"database", "cache"}),
        ({"CACHE_REDIS_URL": "redis://a"}, {"database", "limits"}),
    ],
)
def test_a_store_the_operator_sets_replaces_the_embedded_one(
    given: dict[str, str], embedded: set[str]
) -> None:
    """Each alone; `REDIS_URL` stands for both Valkeys."""
    resolved = stores.resolve_stores(OperatorEnv({"LLM_PROXY_STACK_POSTGRES_PASSWORD": "word"} | given))
    found = {"database": resolved.database, "limits": resolved.limits, "cache": resolved.cache}
    assert {name for name, store in found.items() if store.port} == embedded
    assert {store.url for name, store in found.items() if name not in embedded} <= set(given.values())


def test_the_examples_read_the_key_from_its_source(tmp_path: Path) -> None:
    """The environment, `.env`, or a key file."""
    name = "LLM_PROXY__INTERNAL_API_KEY"
    assert locate_internal_key(OperatorEnv({name: "secret"})).in_shell == "${" + name + "%%,*}"
    for file in (tmp_path / ".env", tmp_path / ".keys" / name):
        location = locate_internal_key(OperatorEnv({name: "secret"}, {name: file}))
        assert str(file) in location.description
        assert str(file) in location.in_shell
        assert str(file) in location.in_python
