"""What the benchmark measures: each subject's command, settings, key, and what it does beside relaying.

Invariants: every subject stands before the same upstream, with one worker; every setting that makes it faster
and keeps its job is given it; none has a store or a feature the others' figures would be blamed for.
"""

import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.stack.probe import is_up
from llm_proxy.stack.process import ProcessSpec

ROOT = Path(__file__).parents[1]
OTHERS = ROOT / ".bench"
SECRET = "bench-internal-secret-0123456789"  # noqa: S105 -- of a process that lives for a minute
ADMIN = "bench-admin-secret-0123456789"
TRAFFIC = "sk-bench-traffic-0123456789"
NGINX_KEEPS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
MODELS = ("bench", "bench-50ms", "bench-1hz")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens, on the loopback interface."""

    upstream: int
    postgres: int
    valkey: int


@dataclass(frozen=True, slots=True)
class Stores:
    """The addresses of the stores."""

    postgres: str
    valkey: str


def upstream(port: int) -> ProcessSpec:
    """The static upstream."""
    return _python("upstream", port, "-m", "bench.upstream", "--port", str(port), alive="/health/liveliness")


def relay(name: str, port: int, upstream_port: int, redis_url: str | None = None) -> ProcessSpec:
    """The bare relay, with or without a Redis script a call."""
    words = ["-m", "bench.relay", "--port", str(port), "--upstream", f"http://127.0.0.1:{upstream_port}"]
    return _python(name, port, *words, *(("--redis", redis_url) if redis_url else ()))


def least(name: str, port: int, upstream_port: int, redis_url: str) -> ProcessSpec:
    """The relay without libraries, with a Redis script a call."""
    words = ["-m", "bench.least", "--port", str(port), "--upstream", str(upstream_port), "--redis", redis_url]
    return _python(name, port, *words)


def constant(name: str, port: int, *, ours: bool = False) -> ProcessSpec:
    """The web server of the relays, or the gateway's, answering without a thought."""
    return _python(name, port, "-m", "bench.relay", "--port", str(port), *(("--ours",) if ours else ()))


def nginx(name: str, port: int, upstream_port: int, folder: Path) -> ProcessSpec | None:
    """A relay that is not written in Python; None where it is not installed."""
    program = shutil.which("nginx")
    if program is None:
        return None
    config = folder / "nginx.conf"
    config.write_text(
        f"""daemon off; worker_processes 1; error_log /dev/null; pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  {"".join(f"{what}_temp_path {folder}/nginx-{what};" for what in NGINX_KEEPS)}
  upstream behind {{ server 127.0.0.1:{upstream_port}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 100000000;
    location / {{
      proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
""",
        encoding="utf-8",
    )
    return _part(name, port, (program, "-c", str(config)), "", cwd=folder, env={})


def gateway(
    name: str, port: int, sidecar_port: int, folder: Path, stores: Stores | None, **more: str
) -> ProcessSpec:
    """Our gateway: with stores everything is on; without, limits are counted here and records go to disk."""
    env = {
        "LLM_PROXY__ENVIRONMENT": "development",
        "LLM_PROXY__INTERNAL_API_KEY": SECRET,
        "LLM_PROXY__ADMIN_KEY": ADMIN,
        "LLM_PROXY__LITELLM_API_KEY": TRAFFIC,
        "LLM_PROXY__LITELLM_PROXY_URL": f"http://127.0.0.1:{sidecar_port}",
        "LLM_PROXY__SPOOL_DIR": str(folder / f"spool-{port}"),
        "LLM_PROXY__AGENT_RPM": "1000000000",
        "LLM_PROXY__MAX_IN_FLIGHT": "2000",
        "LLM_PROXY__DRAIN_DELAY_S": "0",
        **more,
    }
    if stores is not None:
        env |= {"LLM_PROXY__DATABASE_URL": stores.postgres, "LLM_PROXY__LIMITS_REDIS_URL": stores.valkey}
    words = ("-m", "llm_proxy", "serve", "--port", str(port))
    return _python(name, port, *words, alive="/health/live", cwd=folder, env=env)


def litellm_config(folder: Path, upstream_port: int) -> Path:
    """One configuration for both LiteLLMs: three deployments at the upstream, nothing else on."""
    lines = ["model_list:"]
    for model in MODELS:
        lines += [
            f"  - model_name: {model}",
            "    litellm_params:",
            f"      model: openai/{model}",
            f"      api_base: http://127.0.0.1:{upstream_port}/v1",
            "      api_key: none",
        ]
    lines += [
        "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}",
        "litellm_settings: {telemetry: false}",
    ]
    file = folder / "litellm.yaml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def stock_litellm(name: str, port: int, config: Path) -> ProcessSpec:
    """LiteLLM as its own command starts it: same environment, bytecode and worker count as our sidecar."""
    words = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    env = {"LITELLM_MASTER_KEY": TRAFFIC, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    env |= {"LITELLM_MODE": "PRODUCTION"}
    program = str(ROOT / ".venv-sidecar" / "bin" / "litellm")
    return _part(name, port, (program, *words), "/health/liveliness", cwd=config.parent, env=env)


def sidecar(name: str, port: int, config: Path, **more: str) -> ProcessSpec:
    """Our sidecar: the same LiteLLM, started by us."""
    python = str(ROOT / ".venv-sidecar" / "bin" / "python")
    words = ("-m", "llm_proxy.sidecar", "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    env = {"LITELLM_MASTER_KEY": TRAFFIC, **more}
    return _part(name, port, (python, *words), "/health/readiness", cwd=config.parent, env=env)


def portkey(name: str, port: int) -> ProcessSpec | None:
    """Portkey's gateway; None where it is not installed."""
    program, node = OTHERS / "node_modules" / ".bin" / "gateway", shutil.which("node")
    if node is None or not program.exists():
        return None
    words = (node, str(program.resolve()), f"--port={port}", "--headless")
    return _part(name, port, words, "/", cwd=OTHERS, env={"NODE_ENV": "production"})


def ferrogw(name: str, port: int, upstream_port: int, folder: Path) -> ProcessSpec | None:
    """Ferro's gateway, its own limits raised; None where it is not installed."""
    program = OTHERS / "venv" / "bin" / "ferrogw"
    if not program.exists():
        return None
    config = folder / "ferrogw.yaml"
    models = ", ".join(MODELS)
    config.write_text(
        f"strategy: {{mode: single}}\ntargets:\n  - virtual_key: openai\n    models: [{models}]\n"
    )
    env = {
        "GATEWAY_CONFIG": str(config),
        "MASTER_KEY": TRAFFIC,
        "PORT": str(port),
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream_port}",
        "RATE_LIMIT_RPS": "1000000",
        "RATE_LIMIT_BURST": "1000000",
        "LOG_LEVEL": "error",
    }
    return _part(name, port, (str(program), "serve"), "/readyz", cwd=folder, env=env)


def _python(
    name: str, port: int, *words: str, alive: str = "", cwd: Path = ROOT, env: dict[str, str] | None = None
) -> ProcessSpec:
    return _part(name, port, (sys.executable, *words), alive, cwd=cwd, env=env or {})


def _part(
    name: str, port: int, argv: tuple[str, ...], alive: str, *, cwd: Path, env: dict[str, str]
) -> ProcessSpec:
    inherited = {one: os.environ[one] for one in ("PATH", "HOME") if one in os.environ}
    return ProcessSpec(
        name=name,
        argv=argv,
        env={**inherited, **env},
        readiness_probe=(lambda _: is_up(port, alive)) if alive else (lambda _: _listens(port)),
        cwd=cwd,
        ready_timeout_s=120,
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
