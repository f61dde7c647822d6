"""The command line of LiteLLM's image, as the command line of `llm-proxy up`.

Pure. With LiteLLM's arguments the container runs a gateway and as many sidecars as LiteLLM had workers, on
LiteLLM's address. Invariants: an option without effect is named in a warning; one that protects, or that asks
for something else than a server, is rejected.
Source: `litellm/proxy/proxy_cli.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llm_proxy.cli.printing import EXIT_WRONG_INPUT, fail

DEFAULT_HOST, DEFAULT_PORT = "0.0.0.0", "4000"  # noqa: S104 -- LiteLLM's own default, for containers
_TAKEN = {"config": "--config", "host": "--host", "port": "--port", "num_workers": "--sidecars"}
_DEBUGGING = ("debug", "detailed_debug")
_REFUSED: Mapping[str, str] = {
    "ssl_keyfile_path": "TLS ends before the gateway (docs/deployment.md)",
    "ssl_certfile_path": "TLS ends before the gateway (docs/deployment.md)",
    "max_budget": "set a budget: llm-proxy limits set --scope global --budget AMOUNT/PERIOD",
    "limit_concurrency": "set a limit: llm-proxy limits set --scope global --parallel NUMBER",
    "model": "name the models in a file, and the file with --config",
    "validate_config": "llm-proxy config check FILE does it",
    "setup": "llm-proxy init writes the configuration",
    "health": "GET /health reports it",
    "test": "llm-proxy models --check does it",
    "test_async": "llm-proxy models --check does it",
    "skip_server_startup": "llm-proxy migrate makes the tables",
}
_KNOWN = frozenset(
    {*_TAKEN, *_DEBUGGING, *_REFUSED}
    | {
        "telemetry",
        "log_config",
        "run_gunicorn",
        "run_hypercorn",
        "run_granian",
        "granian_threads",
        "use_prisma_db_push",
    }
    | {
        "drop_params",
        "request_timeout",
        "temperature",
        "max_tokens",
        "api_base",
        "api_version",
        "alias",
        "add_key",
    }
    | {
        "headers",
        "save",
        "use_queue",
        "add_function_to_prompt",
        "local",
        "keepalive_timeout",
        "num_requests",
        "ciphers",
    }
    | {
        "max_requests_before_restart",
        "max_requests_before_restart_jitter",
        "timeout_worker_healthcheck",
        "reload",
    }
    | {
        "iam_token_db_auth",
        "azure_postgresql_auth",
        "enforce_prisma_migration_check",
        "use_v2_migration_resolver",
    }
    | {"use_legacy_migration_resolver", "prometheus_metrics_port"}
)


@dataclass(frozen=True, slots=True)
class TranslatedArguments:
    """Arguments of `llm-proxy`, whether to log in detail, and the options that have no effect."""

    arguments: list[str]
    is_debugging: bool = False
    ignored: list[str] = field(default_factory=list[str])


def translate(arguments: Sequence[str], environment: Mapping[str, str]) -> TranslatedArguments | None:
    """Translates LiteLLM's arguments into those of `up`; None where they are not LiteLLM's.

    Ends the command for an option that has no counterpart here.
    """
    rest = list(arguments[1:] if arguments[:1] == ["litellm"] else arguments)
    if not rest or not rest[0].startswith("--") or _name(rest[0]) not in _KNOWN:
        return None
    given: dict[str, str] = {"host": environment.get("HOST") or DEFAULT_HOST}
    given["port"] = environment.get("PORT") or DEFAULT_PORT
    if environment.get("NUM_WORKERS"):
        given["num_workers"] = environment["NUM_WORKERS"]
    ignored: list[str] = []
    is_debugging = False
    while rest:
        option, is_joined, value = rest.pop(0).partition("=")
        name = _name(option)
        if not is_joined and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        if name in _REFUSED:
            fail(f"LiteLLM's {option} has no counterpart: {_REFUSED[name]}", EXIT_WRONG_INPUT)
        if name in _TAKEN:
            given[name] = value
        elif name in _DEBUGGING:
            is_debugging = True
        else:
            ignored.append(option)
    own = ["up", "--no-stores", "--no-local-model", "--logs-to-stdout"]
    return TranslatedArguments(
        [*own, *(word for name, value in given.items() for word in (_TAKEN[name], value))],
        is_debugging,
        ignored,
    )


def _name(option: str) -> str:
    return option.partition("=")[0].removeprefix("--")
